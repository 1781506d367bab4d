//! What the scanner finds, replaces and holds, however a text is cut.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::spelt::{each, hex, spellings, utf16, wrapped};
use super::*;

mod properties;
mod renewed;
mod spelt;

const KEY: &str = "sk-Rx8~c1f0/b6d2e+A9zQ77mLx0wT5uV3yB1nC4q8Hs2==";
const PLACEHOLDER: &str = "sk-proxy-managed-5fR2kQ8mXw7Zt4Yb6Nc1Vd3Gh9Jk0L";
/// A key whose length differs from its placeholder's, with characters that begin escapes.
const ODD: (&str, &str) = (r#"a%41b&amp;c\u003d"'<e>{f}:g,h"#, "odd-placeholder");

fn scanner() -> Arc<Scanner> {
    Arc::new(Scanner::new([(KEY.as_bytes(), PLACEHOLDER.as_bytes())].into_iter()))
}

fn both() -> Arc<Scanner> {
    let keys = [(KEY, PLACEHOLDER), ODD];
    Arc::new(Scanner::new(keys.iter().map(|(key, with)| (key.as_bytes(), with.as_bytes()))))
}

/// The output for a text in these chunks, and the number of matches.
fn stream(scanner: &Arc<Scanner>, text: &[u8], ends: &[usize]) -> (Vec<u8>, u64) {
    let mut scrub = Scrub::new(Arc::clone(scanner));
    let mut out = Vec::new();
    let mut from = 0;
    for end in ends.iter().copied().chain([text.len()]) {
        let end = end.clamp(from, text.len());
        out.extend_from_slice(&scrub.push(Bytes::copy_from_slice(&text[from..end])));
        from = end;
    }
    out.extend_from_slice(&scrub.finish());
    (out, scrub.matches())
}

/// Text around a spelling that separates it from everything else.
fn around(spelling: &[u8]) -> Vec<u8> {
    [b"<p>\"", spelling, b"\" and more }\n\n"].concat()
}

#[test]
fn every_usual_spelling_is_replaced_at_the_same_length_wherever_it_is_cut() {
    let scanner = scanner();
    for (name, spelling) in spellings(KEY) {
        let text = around(&spelling);
        let (whole, matches) = stream(&scanner, &text, &[]);
        let shown = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(matches, 1, "{name}: {shown}");
        assert_eq!(whole.len(), text.len(), "{name}: {shown} {}", String::from_utf8_lossy(&whole));
        assert_eq!(scanner.replace(&text).as_ref(), Some(&whole), "{name}");
        assert_eq!(scanner.replace(&whole), None, "{name}: {}", String::from_utf8_lossy(&whole));
        for at in 0..text.len() {
            let (cut, _) = stream(&scanner, &text, &[at]);
            assert!(cut == whole, "{name} cut at {at}: {}", String::from_utf8_lossy(&cut));
        }
        let every: Vec<usize> = (0..text.len()).collect();
        assert!(stream(&scanner, &text, &every).0 == whole, "{name} byte by byte");
    }
}

#[test]
fn keys_of_every_length_are_found_everywhere_in_a_long_text() {
    for length in 6..64 {
        let key = &KEY.repeat(2)[..length];
        let scanner = Scanner::new([(key.as_bytes(), PLACEHOLDER.as_bytes())].into_iter());
        for before in 0..90 {
            let text =
                [&b"x".repeat(before)[..], b" ", key.as_bytes(), b" ", &b"y".repeat(90)].concat();
            assert!(scanner.replace(&text).is_some(), "{length} characters at {before}");
        }
    }
}

/// Whatever the length of the key, where the spelling begins and what else is in the text.
#[test]
fn keys_of_every_length_are_found_in_every_spelling() {
    let long = KEY.repeat(2);
    for length in 8..=80 {
        let key = &long[long.len() - length..];
        let scanner = Scanner::new([(key.as_bytes(), PLACEHOLDER.as_bytes())].into_iter());
        for (name, spelling) in spellings(key) {
            for before in (0..5).chain([length % 64, 70 + length]) {
                let text = [&b"x".repeat(before)[..], b"\"", &spelling, b"\" %41 \\u0041"].concat();
                let shown = String::from_utf8_lossy(&text);
                assert!(scanner.replace(&text).is_some(), "{name}, {length}, {before}: {shown}");
            }
        }
    }
}

#[test]
fn escapes_within_escapes_and_separators_of_several_parts_are_found() {
    let scanner = scanner();
    let bytes = |between: &str| hex(KEY, 1, between, false);
    for text in [
        each(KEY, |c| format!("&#38;#{};", c as u32)),
        each(KEY, |c| format!("%5Cu%7B{:x}%7D", c as u32)),
        each(KEY, |c| format!("%%3{}{:x}", c as u32 >> 4, c as u32 & 15)),
        bytes("%2C%20"),
        bytes("\\\\\\n"),
        bytes("_").replace("_3", "_%2533").replace("_6d_4c", "_6d_4%63"),
        bytes("%3A").replacen("73", "7\\u0033", 1),
    ] {
        let found = scanner.replace(around(text.as_bytes()).as_slice());
        assert!(found.is_some(), "{text}");
    }
}

#[test]
fn a_replacement_reads_as_the_placeholder() {
    let scanner = scanner();
    let read = |text: &str| {
        let out = scanner.replace(text.as_bytes()).unwrap();
        let mut out = unescape(&out, Reading::All).bytes;
        for _ in 0..LEVELS {
            out = unescape(&out, Reading::All).bytes;
        }
        String::from_utf8(out.to_vec()).unwrap()
    };
    let exact = [
        "literal",
        "percent",
        "percent, lower",
        "percent, each",
        "percent, twice",
        "json",
        "json, each",
        "json in json",
        "x",
        "braces",
        "html, hex",
        "html, zeros",
    ];
    for (name, spelling) in spellings(KEY).iter().filter(|(name, _)| exact.contains(&&name[..])) {
        assert_eq!(read(std::str::from_utf8(spelling).unwrap()), PLACEHOLDER, "{name}");
    }
    // No other character has an escape of a backslash and one character, so padding fills the room.
    assert_eq!(read(&KEY.replace('/', "\\/")), format!("{PLACEHOLDER}-"));
    let json = format!("{{\"key\":\"{}\"}}", KEY.replace('/', "\\/"));
    let out = scanner.replace(json.as_bytes()).unwrap();
    let expected = format!("{{\"key\":\"{PLACEHOLDER}-\"}}");
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn nothing_is_left_of_base64_in_escapes_that_cannot_be_written_anew() {
    let scanner = scanner();
    let encoded = STANDARD.encode(KEY);
    for text in [
        each(&encoded, |c| format!("\\{:03o}", c as u32)),
        each(&encoded, |c| format!("&#37;{:02x}", c as u32)),
    ] {
        let out = scanner.replace(text.as_bytes()).unwrap();
        assert_eq!(out.len(), text.len());
        assert_eq!(scanner.replace(&out), None, "{}", String::from_utf8_lossy(&out));
    }
}

#[test]
fn any_punctuation_may_follow_a_backslash() {
    let key = "sk_live_51H[x]Yz^AbCd`EfGhIj{Kl}Mn|Op@QrSt";
    let placeholder = "proxy_managed_5fR2kQ8mXw7Zt4Yb6Nc1Vd3Gh9Jk";
    let scanner =
        Scanner::new([(key.as_bytes(), &placeholder.as_bytes()[..key.len()])].into_iter());
    for before in [r"\", r"\\"] {
        let one =
            |c: char| if c.is_ascii_punctuation() { format!("{before}{c}") } else { c.into() };
        let text = format!("see {} there", each(key, one));
        let out = scanner.replace(text.as_bytes()).unwrap();
        assert_eq!(out.len(), text.len());
        assert!(!String::from_utf8_lossy(&out).contains("live"));
    }
    let under = Scanner::new(
        [(&b"sk_live_51HxYzAbCdEfGhIj"[..], &b"proxy-managed-0123456789"[..])].into_iter(),
    );
    assert!(under.replace(br"sk\_live\_51HxYzAbCdEfGhIj").is_some());
}

#[test]
fn hexadecimal_keeps_the_case_it_is_in() {
    let scanner = scanner();
    let replace =
        |text: &str| String::from_utf8(scanner.replace(text.as_bytes()).unwrap()).unwrap();
    for upper in [false, true] {
        assert_eq!(replace(&hex(KEY, 1, "", upper)), hex(PLACEHOLDER, 1, "", upper));
        assert_eq!(replace(&hex(KEY, 1, ":", upper)), hex(PLACEHOLDER, 1, ":", upper));
    }
}

#[test]
fn utf_16_stays_utf_16() {
    let scanner = scanner();
    let escaped = each(KEY, |c| if c == '/' { "\\/".into() } else { c.into() });
    for (key, with) in
        [(KEY.to_owned(), PLACEHOLDER.to_owned()), (escaped, format!("{PLACEHOLDER}-"))]
    {
        for big in [false, true] {
            let text = utf16(&format!("{{\"k\": \"{key}\"}}"), big);
            let expected = utf16(&format!("{{\"k\": \"{with}\"}}"), big);
            assert_eq!(scanner.replace(&text), Some(expected));
        }
    }
}

#[test]
fn base64_stays_base64() {
    let scanner = scanner();
    for before in ["", "u", "us"] {
        let encoded = STANDARD.encode(format!("{before}Bearer {KEY} and so on"));
        let text = wrapped(&encoded, 64, "\r\n").replace('/', "\\/");
        let out = String::from_utf8(scanner.replace(text.as_bytes()).unwrap()).unwrap();
        let lines: Vec<&str> = out.split("\r\n").collect();
        assert!(lines.iter().rev().skip(1).all(|line| line.replace('\\', "").len() == 64));
        let decoded = STANDARD.decode(out.replace("\r\n", "").replace('\\', "")).unwrap();
        assert!(decoded.starts_with(format!("{before}Bearer ").as_bytes()));
        assert!(decoded.ends_with(b" and so on"));
    }
}

#[test]
fn a_key_of_other_characters_is_found_too() {
    let scanner = both();
    assert!(!scanner.keeps_length());
    let escaped: String = ODD.0.chars().fold(String::new(), |mut text, c| {
        write!(text, "\\u{:04x}", c as u32).unwrap();
        text
    });
    let json = ODD.0.replace('\\', "\\\\").replace('"', "\\\"");
    let percent = each(ODD.0, |c| format!("%{:02x}", c as u32));
    let html = ODD.0.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    for spelling in [ODD.0.to_owned(), escaped, json, percent, html, hex(ODD.0, 1, " ", false)] {
        let out = scanner.replace(spelling.as_bytes());
        assert!(out.is_some(), "{spelling}");
    }
    assert_eq!(scanner.replace(ODD.0.as_bytes()).unwrap(), ODD.1.as_bytes());
}

#[test]
fn the_name_of_a_header_may_hold_a_key() {
    let key = "Billing0Key1of2even3length";
    let scanner = Scanner::new([(key.as_bytes(), &b"placeholder"[..])].into_iter());
    let encoded = STANDARD.encode(key).to_ascii_lowercase();
    for name in [
        key.to_ascii_lowercase(),
        hex(key, 100, "", false),
        hex(key, 1, "-", false),
        encoded.trim_end_matches('=').to_owned(),
        each(key, |c| format!("%{:02x}", c as u32)),
    ] {
        assert!(scanner.names_a_key(&format!("x-{name}-y")), "{name}");
    }
    for name in ["content-type", "x-billing", "x-billing0key1of2even3lengt"] {
        assert!(!scanner.names_a_key(name));
    }
}

#[test]
fn text_with_one_of_these_ends_waits_for_nothing() {
    for scanner in [scanner(), both()] {
        for text in [
            "data: {\"a\":\"sk-\"}\n\n",
            "data: sk-R\n\n",
            "data: c2stUng4\r\n\r\n",
            "a sk- ",
            "a line that ends in sk-\n",
            "{\"id\":1}\n",
            "[1,2]\n",
            "event: ping\n",
            "the end. ",
            "{\"k\":\"sk-Rx8~c1f0/b6d2e+A9zQ77mLx0wT5uV3yB1nC4q8Hs2=\"\n",
            "be added \n",
        ] {
            let mut scrub = Scrub::new(Arc::clone(&scanner));
            assert_eq!(scrub.push(Bytes::from(text)), text);
            assert_eq!(scrub.owed(), 0);
        }
    }
    for text in ["{\"a\":{\"b\":\"sk-\"}}", "[\"sk-\"]", "data: \"sk-\"", "sk-Rx8,", "sk-Rx8>"] {
        let mut scrub = Scrub::new(scanner());
        assert_eq!(scrub.push(Bytes::from(text)), text);
    }
}

#[test]
fn what_waits_does_not_depend_on_how_far_it_matches() {
    let other = KEY.chars().rev().collect::<String>();
    let other = Arc::new(Scanner::new([(other.as_bytes(), PLACEHOLDER.as_bytes())].into_iter()));
    let scanner = scanner();
    for (name, spelling) in spellings(KEY) {
        for upto in 0..spelling.len() {
            let text = [&b"\"x "[..], &spelling[..upto]].concat();
            let sizes = |scanner: &Arc<Scanner>| {
                let mut scrub = Scrub::new(Arc::clone(scanner));
                let first = scrub.push(Bytes::from(text.clone())).len();
                let second = scrub.push(Bytes::from_static(b"q")).len();
                (first, second, scrub.owed(), scrub.boundary().len(), scrub.matches())
            };
            // A whole match of this key is none of the other.
            if sizes(&scanner).4 == 0 {
                assert_eq!(sizes(&scanner), sizes(&other), "{name} up to {upto}");
            }
        }
    }
}

#[test]
fn a_message_ends_what_is_held() {
    let mut scrub = Scrub::new(scanner());
    let (first, second) = KEY.split_at(20);
    assert_eq!(scrub.push(Bytes::from(first)), "");
    assert_eq!(scrub.boundary(), first);
    assert_eq!(scrub.push(Bytes::from(second)), "");
    assert_eq!(scrub.finish(), second);
    assert_eq!(scrub.matches(), 0);
    assert_eq!(scrub.push(Bytes::from(KEY)), "");
    assert_eq!(scrub.boundary(), PLACEHOLDER);
}

#[test]
fn an_endless_run_is_held_within_bounds() {
    let mut scrub = Scrub::new(scanner());
    for piece in [&b"a"[..], b"%41", b"\\u0041", b"73 6b ", b"\\", b"a\0"] {
        for _ in 0..5000 {
            scrub.push(Bytes::copy_from_slice(piece));
            assert!(scrub.owed() <= LEAST_HELD);
        }
        scrub.boundary();
    }
}

#[test]
fn debug_shows_nothing() {
    let mut scrub = Scrub::new(scanner());
    scrub.push(Bytes::from(&KEY[..30]));
    let shown = format!("{scrub:?}");
    assert!(!shown.contains("Rx8") && !shown.contains("82, 120"), "{shown}");
}

#[test]
fn hexadecimal_groups_are_found_whatever_stands_behind_their_last_digit() {
    // Its last byte is 70 in hexadecimal: a `0` behind which an `x` looks like a prefix.
    let (key, with) = ("Xq9Rz4Wd6YhZ-Lk2Tn8Vb5Mc1Js7Gp", "placeholder-of-the-same-length");
    let scanner = Arc::new(Scanner::new([(key.as_bytes(), with.as_bytes())].into_iter()));
    for (separator, prefix) in
        [("_", ""), (":", ""), (" ", ""), (", ", "0x"), ("-", ""), ("\n", "")]
    {
        for bytes in [1, 2, 4, 8] {
            let between = format!("{separator}{prefix}");
            let spelling = prefix.to_owned() + &hex(key, bytes, &between, false);
            for behind in ["x", "X", "x41", ", 0x41", "", " ", key] {
                let text = format!("a:{spelling}{behind}");
                let (out, _) = stream(&scanner, text.as_bytes(), &[]);
                let out = String::from_utf8_lossy(&out);
                assert!(!out.contains(&spelling), "{text} {out}");
            }
        }
    }
}
