//! What the scanner finds, replaces and holds, however a text is cut.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use self::spelt::{each, hex, spellings, utf16, wrapped};
use super::*;

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

/// A character in one of its escapes, chosen by a number.
fn escaped(c: char, choice: u8) -> String {
    let code = c as u32;
    match choice {
        0 => format!("%{code:02X}"),
        1 => format!("%{code:02x}"),
        2 => format!("%25{code:02X}"),
        3 => format!("\\u{code:04x}"),
        4 => format!("\\\\\\u{code:04X}"),
        5 => format!("\\x{code:02X}"),
        6 => format!("\\u{{{code:x}}}"),
        7 => format!("&#{code};"),
        8 => format!("&#x{code:04x};"),
        9 => format!("%5Cu{code:04x}"),
        10 if !c.is_ascii_alphanumeric() => format!("\\{c}"),
        _ => c.to_string(),
    }
}

/// A spelling of the key with each character escaped in some way.
fn mixed() -> impl Strategy<Value = String> {
    let base = prop::sample::select(vec![
        KEY.to_owned(),
        STANDARD.encode(format!("x{KEY}")),
        hex(KEY, 100, "", false),
    ]);
    base.prop_flat_map(|base| {
        let choices = prop::collection::vec(0..24_u8, base.len());
        choices.prop_map(move |choices| {
            base.chars().zip(choices).map(|(c, choice)| escaped(c, choice)).collect::<String>()
        })
    })
}

/// Pieces of spellings, whole spellings, and text between them.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let all = spellings(KEY);
    let whole = prop::sample::select(all.clone()).prop_map(|(_, text)| text);
    let part = (prop::sample::select(all), any::<usize>(), any::<usize>()).prop_map(
        |((_, text), from, to)| {
            let (from, to) = (from % text.len(), to % text.len());
            text[from.min(to)..from.max(to)].to_vec()
        },
    );
    let between =
        prop_oneof!["[ \n\"{}a-f0-9]{0,4}", "[%&\\\\u0-9;#x]{0,6}", "(\r\n|\n|: |, |\\\\n)",]
            .prop_map(String::into_bytes);
    let mix = mixed().prop_map(String::into_bytes);
    prop::collection::vec(prop_oneof![2 => whole, 2 => part, 3 => between, 1 => mix], 0..8)
        .prop_map(|parts| parts.concat())
}

/// Escaped spellings among what begins like an escape and is none, without a gap.
fn dense() -> impl Strategy<Value = Vec<u8>> {
    let junk = prop::sample::select(vec![
        "&", "&#", "&#x", "&a", "&am", "&amp;", "%", "%2", "%25", "%2525", "\\", "\\x", "\\u",
        "\\u{", "\\u00", "\\x4", "%252541", "&#65;", "%5c", "%5C", "41", "a", "0x", "73%20", ":",
        "\n", "\\n", "%0a", "%20", "\\u00e9", "\\xe9", "&lt;", "%3A", "73", "\\73", "&#6", "/",
    ]);
    let junk = prop::collection::vec(junk, 0..12).prop_map(|junk| junk.concat());
    let key = prop_oneof![mixed(), Just(KEY.to_owned())];
    let again = prop_oneof![
        3 => Just(None),
        1 => Just(Some('%')),
        1 => Just(Some('\\')),
        1 => Just(Some('&')),
    ];
    (junk.clone(), key, junk, again).prop_map(|(before, key, behind, again)| {
        let text = match again {
            Some('%') => key.replace('%', "%25"),
            Some('\\') => key.replace('\\', "\\x5c"),
            Some(_) => key.replace('&', "&#38;"),
            None => key,
        };
        format!("{before}{text}{behind}").into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn nothing_depends_on_how_a_text_is_cut(
        text in text(),
        ends in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        for scanner in [scanner(), both()] {
            let mut ends: Vec<usize> = ends.iter().map(|end| end % (text.len() + 1)).collect();
            ends.sort_unstable();
            let whole = scanner.replace(&text).unwrap_or_else(|| text.clone());
            let (cut, _) = stream(&scanner, &text, &ends);
            prop_assert_eq!(String::from_utf8_lossy(&cut), String::from_utf8_lossy(&whole));
        }
        let whole = scanner().replace(&text);
        prop_assert!(whole.is_none_or(|whole| whole.len() == text.len()));
    }

    #[test]
    fn any_mixture_of_escapes_is_found(spelling in mixed(), cut in any::<usize>()) {
        let text = around(spelling.as_bytes());
        let (out, matches) = stream(&scanner(), &text, &[cut % text.len()]);
        prop_assert_eq!(matches, 1);
        prop_assert_eq!(out.len(), text.len());
    }

    /// A spelling in which no escape alone shows that it may be part of a key.
    #[test]
    fn usual_escapes_are_found_in_any_mixture(
        choices in prop::collection::vec(0..5_usize, 160),
        width in prop::sample::select(vec![16_usize, 40, 76, 1000]),
        cut in any::<usize>(),
    ) {
        for key in [KEY, "AB/+=cd//EF++gh==0123/4567+89", "/+/+/+/+/+/+/+/+/+/+/+/+"] {
            let placeholder = vec![b'p'; key.len()];
            let pair = (key.as_bytes(), &placeholder[..]);
            let scanner = Arc::new(Scanner::new([pair].into_iter()));
            for form in [key.to_owned(), STANDARD.encode(format!("x{key}"))] {
                let lines = form.as_bytes().chunks(if form == key { 1000 } else { width });
                let mut choices = choices.iter().cycle();
                let mut escaped = |byte: &u8| {
                    let code = u32::from(*byte);
                    match (choices.next(), byte) {
                        (Some(1), b'/') => "\\/".to_owned(),
                        (Some(2), b'/' | b'+' | b'=') => format!("%{code:02x}"),
                        (Some(3), b'/' | b'+' | b'=') => format!("%{code:02X}"),
                        _ => char::from(*byte).to_string(),
                    }
                };
                let lines = lines.map(|line| line.iter().map(&mut escaped).collect());
                let lines: Vec<String> = lines.collect();
                for end in ["\r\n", "%0A", "\\n"] {
                    let text = around(lines.join(end).as_bytes());
                    let (out, matches) = stream(&scanner, &text, &[cut % text.len()]);
                    prop_assert_eq!(matches, 1, "{}", String::from_utf8_lossy(&text));
                    prop_assert_eq!(out.len(), text.len());
                }
            }
        }
    }

    #[test]
    fn the_search_finds_what_the_plain_definition_finds(text in prop_oneof![text(), dense()]) {
        for scanner in [scanner(), both()] {
            let (found, defined) = (scanner.found(&text), scanner.defined(&text));
            prop_assert_eq!(found, defined, "{}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn a_text_without_a_key_is_left_alone(text in prop::collection::vec(any::<u8>(), 0..3000)) {
        let (out, matches) = stream(&both(), &text, &[text.len() / 2]);
        prop_assert_eq!(matches, 0);
        prop_assert_eq!(out, text);
    }
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
