//! Redaction finds keys as the encoders of six languages write them.

use std::path::Path;
use std::process::Command;

use interceptor_policy::redact::Redactor;

/// Keys, each with a placeholder of the same length.
const KEYS: [&str; 5] = [
    "sk-Rx8~c1f0/b6d2e+A9zQ77mLx0wT5uV3yB1nC4q8Hs2==",
    "ghp_0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r",
    "user:pa55<w>o&rd'of\"some=l/e+n~g,th",
    "AbCdEfGh/+/+IjKlMnOp==//",
    "~~~~++++////====abcd",
];

/// How to run the program that writes the spellings of `$KEY`.
const LANGUAGES: [(&str, &[&str]); 6] = [
    ("python3", &["spell.py"]),
    ("node", &["spell.js"]),
    ("ruby", &["spell.rb"]),
    ("php", &["spell.php"]),
    ("java", &["Spell.java"]),
    ("go", &["run", "spell.go"]),
];

#[test]
fn keys_written_by_the_encoders_of_six_languages_are_redacted() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spellings");
    let mut wrong = Vec::new();
    for key in KEYS {
        let placeholder = "proxy-managed-".chars().chain("0123456789".chars().cycle());
        let placeholder: String = placeholder.take(key.len()).collect();
        let redactor = Redactor::of([(key.as_bytes(), placeholder.as_bytes())].into_iter());
        let redactor = redactor.expect("a redactor");
        for (program, arguments) in LANGUAGES {
            let output = Command::new(program)
                .args(arguments)
                .current_dir(&scripts)
                .env("KEY", key)
                .env("GO111MODULE", "off")
                .output()
                .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program}: {errors}");
            let lines = String::from_utf8(output.stdout).expect("lines of text");
            assert!(lines.lines().count() > 15, "{program} wrote {lines}");
            for line in lines.lines() {
                let (name, hex) = line.split_once(' ').expect("a name and bytes");
                let text = bytes(hex);
                match redactor.text(&text) {
                    Some(out) if out.len() == text.len() && redactor.text(&out).is_none() => {}
                    out => wrong.push(format!(
                        "{key} {program} {name}: {} gives {:?}",
                        String::from_utf8_lossy(&text),
                        out.map(|out| String::from_utf8_lossy(&out).into_owned())
                    )),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
