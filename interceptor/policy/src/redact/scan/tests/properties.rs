//! What holds for any text, however it is written and cut.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::spelt::{hex, spellings};
use super::*;

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
