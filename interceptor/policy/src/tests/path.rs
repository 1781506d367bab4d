//! The canonical path (attack R1).

use super::super::PathError::{
    Backslash, Control, Delimiter, DotSegment, Escape, NotAbsolute, NotAscii, Utf8,
};
use super::super::{CanonicalPath, PathError};
use super::{decide, outcome, policy};

fn canonical(path: &str) -> Result<String, PathError> {
    CanonicalPath::parse(path).map(CanonicalPath::into_string)
}

#[test]
fn r1_a_path_has_one_form() {
    let table = [
        ("/", "/"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/", "/v1/models/"),
        ("//", "//"),
        ("/a//b", "/a//b"),
        ("/%76%31/%6d%6F%64els", "/v1/models"),
        ("/%61dmin", "/admin"),
        ("/%41%5A%5a%30%39", "/AZZ09"),
        ("/a%2Db%2db", "/a-b-b"),
        ("/a%2eb", "/a.b"),
        ("/a%5Fb", "/a_b"),
        ("/%7euser", "/~user"),
        ("/%7Euser", "/~user"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%20b", "/a%20b"),
        ("/a%3bb", "/a%3Bb"),
        ("/a;b", "/a;b"),
        ("/a;x=1/b;y=2", "/a;x=1/b;y=2"),
        ("/a%3fb", "/a%3Fb"),
        ("/a%23b", "/a%23b"),
        ("/a%25b", "/a%25b"),
        ("/a%2541", "/a%2541"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%e2%82%ac", "/%E2%82%AC"),
        ("/%f0%9f%98%80", "/%F0%9F%98%80"),
        ("/a+b", "/a+b"),
        ("/a:b@c!d$e&f'g(h)i*j,k=l", "/a:b@c!d$e&f'g(h)i*j,k=l"),
        ("/...", "/..."),
        ("/.a", "/.a"),
        ("/a.", "/a."),
        ("/..a", "/..a"),
        ("/a..", "/a.."),
        ("/.git/config", "/.git/config"),
        ("/.well-known/x", "/.well-known/x"),
        ("/;", "/;"),
        ("/a%2F%2Fb", "/a%2F%2Fb"),
        ("/[a]", "/[a]"),
        ("/a|b", "/a|b"),
        ("/a%7Cb", "/a%7Cb"),
        ("/a%252Fb", "/a%252Fb"),
        ("/%c2%a0", "/%C2%A0"),
    ];
    for (path, expected) in table {
        assert_eq!(canonical(path).as_deref(), Ok(expected), "{path:?}");
    }
}

#[test]
fn r1_a_path_with_two_readings_is_refused() {
    let table = [
        ("", NotAbsolute),
        ("v1/models", NotAbsolute),
        ("*", NotAbsolute),
        ("http://x/", NotAbsolute),
        ("\\", NotAbsolute),
        ("/%", Escape),
        ("/%4", Escape),
        ("/%zz", Escape),
        ("/%4g", Escape),
        ("/%g4", Escape),
        ("/a%", Escape),
        ("/%%41", Escape),
        ("/%u002e%u002e/admin", Escape),
        ("/%+41", Escape),
        ("/% 41", Escape),
        ("/%-1", Escape),
        ("/%c0%ae%c0%ae/admin", Utf8),
        ("/%C0%AF", Utf8),
        ("/%e0%80%ae", Utf8),
        ("/%f0%80%80%ae", Utf8),
        ("/%c1%9c", Utf8),
        ("/%ff", Utf8),
        ("/%80", Utf8),
        ("/%c3", Utf8),
        ("/%c3a", Utf8),
        ("/%c3/%a9", Utf8),
        ("/%c3%41", Utf8),
        ("/%ed%a0%80", Utf8),
        ("/%f4%90%80%80", Utf8),
        ("/%f8%88%80%80%80", Utf8),
        ("/%25c0%25ae%25c0%25ae/admin", Utf8),
        ("/%2525c0%2525ae", Utf8),
        ("/\0", Control),
        ("/a\tb", Control),
        ("/a\r\nb", Control),
        ("/\u{7f}", Control),
        ("/%00", Control),
        ("/admin%00.png", Control),
        ("/%0a", Control),
        ("/%0D%0A", Control),
        ("/%1f", Control),
        ("/%7f", Control),
        ("/%c2%80", Control),
        ("/%c2%9f", Control),
        ("/a\\b", Backslash),
        ("/..\\admin", Backslash),
        ("/%5c", Backslash),
        ("/a%5Cb", Backslash),
        ("/..%5c..%5cadmin", Backslash),
        ("/caf\u{e9}", NotAscii),
        ("/\u{ff0e}\u{ff0e}/admin", NotAscii),
        ("/a#b", Delimiter),
        ("/admin#x", Delimiter),
        ("/a b", Delimiter),
        ("/.", DotSegment),
        ("/..", DotSegment),
        ("/./", DotSegment),
        ("/../", DotSegment),
        ("/v1/../admin", DotSegment),
        ("/v1/./admin", DotSegment),
        ("/v1/..", DotSegment),
        ("/v1/.", DotSegment),
        ("/%2e", DotSegment),
        ("/%2e%2e/admin", DotSegment),
        ("/%2E%2E/admin", DotSegment),
        ("/.%2e/admin", DotSegment),
        ("/%2e./admin", DotSegment),
        ("/..%2fadmin", DotSegment),
        ("/..%2Fadmin", DotSegment),
        ("/v1%2f..%2fadmin", DotSegment),
        ("/v1/%2e%2e%2fadmin", DotSegment),
        ("/v1%2F.", DotSegment),
        ("/%252e%252e/admin", DotSegment),
        ("/%252e%252e%252fadmin", DotSegment),
        ("/%25252e%25252e/admin", DotSegment),
        ("/%2525252525252e./admin", DotSegment),
        ("/%252e./admin", DotSegment),
        ("/..%252fadmin", DotSegment),
        ("/..%255cadmin", DotSegment),
        ("/%25%32%65%25%32%65/admin", DotSegment),
        ("/%2%35%32e./admin", Escape),
        ("/..;/admin", DotSegment),
        ("/..;x=y/admin", DotSegment),
        ("/.;x/admin", DotSegment),
        ("/..%3b/admin", DotSegment),
        ("/..%3Bx/admin", DotSegment),
        ("/..%253bx/admin", DotSegment),
        ("/%2e%2e;x/admin", DotSegment),
        ("/a%2f..;x%2fadmin", DotSegment),
        ("/..%20/admin", DotSegment),
        ("/.%20%20/admin", DotSegment),
        ("/%ef%bc%8e%ef%bc%8e/admin", DotSegment),
        ("/%e2%80%a5/admin", DotSegment),
        ("/..%ef%bc%8fadmin", DotSegment),
        ("/%e2%80%a4%e2%80%a4/admin", DotSegment),
        ("/%25ef%25bc%258e./admin", DotSegment),
    ];
    for (path, expected) in table {
        assert_eq!(canonical(path), Err(expected), "{path:?}");
    }
}

/// Spellings of the segment `..` and of slashes that some server accepts.
fn variants() -> Vec<String> {
    let dots = [
        "..",
        ".%2e",
        "%2e.",
        "%2e%2e",
        "%2E%2E",
        ".%252e",
        "%252e%252e",
        "%25252e%25252e",
        "%c0%ae%c0%ae",
        "%e0%80%ae.",
        "%u002e%u002e",
        "%ef%bc%8e%ef%bc%8e",
        "..;",
        "..;x=y",
        "..%3b",
        "..%00",
        "..%20",
        "..%09",
        "%2e%2e;",
        "%252e%252e%3bx",
    ];
    let slashes = [
        "/",
        "//",
        "/./",
        "%2f",
        "%2F",
        "%252f",
        "%5c",
        "\\",
        "%255c",
        "%c0%af",
        "%ef%bc%8f",
        "/;/",
        "/%2e/",
        ";/",
        "%2f%2f",
    ];
    let names = [
        "admin",
        "Admin",
        "%61dmin",
        "adm%69n",
        "admin/",
        "admin%20",
        "admin.",
        "admin;x",
        "%2561dmin",
        "admin%23",
        "admin%3f",
        "admin/.",
        "admin%2f",
        "./admin",
        "admin%00",
        "admin%0a",
    ];
    let heads = ["/public", "/public/", "/public/x"];
    let mut all = Vec::new();
    for head in heads {
        for dot in dots {
            for before in slashes {
                for name in names {
                    all.push(format!("{head}{before}{dot}/{name}"));
                    all.push(format!("{head}/{dot}{before}{name}"));
                }
            }
        }
    }
    all
}

/// The transformations that origins apply to a path: each in turn, repeated until nothing changes.
fn served(path: &str, merge: bool, parameters: bool, backslash: bool) -> String {
    let mut text = path.to_owned();
    for _ in 0..8 {
        let decoded = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
        if decoded == text {
            break;
        }
        text = decoded;
    }
    if backslash {
        text = text.replace('\\', "/");
    }
    let mut stack: Vec<String> = Vec::new();
    for segment in text.split('/').skip(1) {
        let segment = if parameters { segment.split(';').next().unwrap() } else { segment };
        match segment {
            "." => {}
            ".." => {
                stack.pop();
            }
            "" if merge => {}
            other => stack.push(other.to_owned()),
        }
    }
    format!("/{}", stack.join("/"))
}

#[test]
fn r1_no_variant_of_a_denied_path_passes_a_rule_for_its_sibling() {
    let policy = policy(
        r#"{"credentials_v2":{"c":{"key":"k","hosts":["good.test"],
            "endpoints":[{"methods":[],"paths":["/public","/public/**","/pub?ic/x*/**"]}]}}}"#,
    );
    let variants = variants();
    assert!(variants.len() > 5000, "{}", variants.len());
    let mut passed = 0;
    for path in &variants {
        // Raw control characters and backslashes reach the policy too.
        let decision = decide(&policy, "GET", &format!("https://good.test{path}"));
        if outcome(&decision) != "allow" {
            continue;
        }
        passed += 1;
        for flags in 0..8 {
            let served = served(path, flags & 1 == 1, flags & 2 == 2, flags & 4 == 4);
            assert!(
                served.starts_with("/public"),
                "{path} is allowed, and one origin serves {served}"
            );
        }
    }
    assert!(
        passed < variants.len() / 10,
        "{passed} of {} variants are still permitted",
        variants.len()
    );
}

#[test]
fn a_very_long_path_is_judged_in_linear_time() {
    // In quadratic time it would take hours.
    let started = std::time::Instant::now();
    for unit in ["%25", "%2525", "/%2e", "a/", "%c3%a9", "%25%32%35"] {
        let _ = canonical(&format!("/{}", unit.repeat(1_000_000 / unit.len())));
    }
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

#[test]
fn r1_what_ends_a_name_hides_no_dot_segment() {
    let refused = [
        ("/v1/models/..%23/admin", DotSegment),
        ("/v1/models/..%23", DotSegment),
        ("/v1/models/.%23/admin", DotSegment),
        ("/v1/models/..%3f/admin", DotSegment),
        ("/v1/models/..%3F", DotSegment),
        ("/v1/models/%2e%2e%23x/admin", DotSegment),
        ("/v1/models/..%2523/admin", DotSegment),
        ("/v1/models/..%25253fx/admin", DotSegment),
        ("/v1/models/..%20%23/admin", DotSegment),
        ("/v1/models/..%ef%bc%83/admin", DotSegment),
        ("/v1/models/..%ef%bc%9f/admin", DotSegment),
        ("/v1/models/..%2500/admin", DotSegment),
        ("/v1/models/..%25%30%30", DotSegment),
        ("/v1/models%2f..%23", DotSegment),
        ("/a%2500b", Control),
        ("/a%250d%250ab", Control),
        ("/a%25c2%2580b", Control),
        ("/a%25257f", Control),
        ("/x%255cadmin", Backslash),
        ("/x%25255Cadmin", Backslash),
        ("/x%25%35%63admin", Backslash),
    ];
    for (path, expected) in refused {
        assert_eq!(canonical(path), Err(expected), "{path:?}");
    }
    let allowed = [
        "/files/a%23b",
        "/files/a%3Fb",
        "/files/%23",
        "/files/%3F/x",
        "/files/...%23",
        "/files/a..%23/b",
        "/files/a%2523b",
        "/files/%23../x",
        "/a%2520b",
        "/100%25",
    ];
    for path in allowed {
        assert_eq!(canonical(path).as_deref(), Ok(path), "{path:?}");
    }
}

/// Characters that some library treats as white space, and invisible characters: `trim` in
/// JavaScript, Python, Java and old .NET, NTFS, normalisation.
const BLANKS: [char; 24] = [
    ' ',
    '\u{a0}',
    '\u{1680}',
    '\u{2000}',
    '\u{2003}',
    '\u{2009}',
    '\u{200a}',
    '\u{2028}',
    '\u{2029}',
    '\u{202f}',
    '\u{205f}',
    '\u{3000}',
    '\u{feff}',
    '\u{200b}',
    '\u{200d}',
    '\u{180e}',
    '\u{ad}',
    '\u{2060}',
    '\u{2063}',
    '\u{fe0f}',
    '\u{e0020}',
    '\u{61c}',
    '\u{2800}',
    '\u{3164}',
];

#[test]
fn r1_a_dot_segment_but_for_blanks_is_refused_at_any_depth() {
    let escaped = |blank: char| -> String {
        blank.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect()
    };
    for blank in BLANKS {
        let once = escaped(blank);
        let twice = once.replace('%', "%25");
        for b in [once.as_str(), &twice] {
            for path in [
                format!("/public/..{b}/secret"),
                format!("/public/{b}../secret"),
                format!("/public/{b}..{b}/secret"),
                format!("/public/.{b}./secret"),
                format!("/public/{b}{b}.{b}{b}/secret"),
                format!("/public/%2e{b}%2e/secret"),
                format!("/public/..{b};x/secret"),
                format!("/public%2f..{b}%2fsecret"),
                format!("/public/{b}.."),
            ] {
                assert_eq!(CanonicalPath::parse(&path), Err(DotSegment), "{path}");
            }
            for path in [format!("/public/...{b}/x"), format!("/a{b}../x"), format!("/{b}/x")] {
                assert!(CanonicalPath::parse(&path).is_ok(), "{path}");
            }
        }
    }
}
