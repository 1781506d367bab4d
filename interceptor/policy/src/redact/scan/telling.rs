//! Whether an escape may be part of a key.
//!
//! Most are not: those of characters that no key contains (`\n`, `\"`, `%20`, `\u00e9`, `&nbsp;`),
//! and those of the few characters that encoders escape in otherwise plain text
//! ([`spelt`](super::grams::spelt)), which the samples contain as they are. Nor does an escaped
//! line break tell anything, since a sample is found between any two line breaks.

use std::ops::Range;

use super::Scanner;
use super::escape::{Reading, read};

impl Scanner {
    /// Whether the escape at `at`, if it is one, may be part of a key and not of its samples.
    pub(super) fn escape_tells(&self, text: &[u8], at: usize, reading: Reading) -> bool {
        let escape = read(&text[at..], reading);
        escape.is_some_and(|(byte, length)| self.tells(text, at..at + length, byte))
    }

    fn tells(&self, text: &[u8], escape: Range<usize>, byte: u8) -> bool {
        // The code of a visible character follows a separator, or `0x`, or another separator.
        let follows = |next: &u8| match next {
            b'0' | b'2'..=b'7' | b'%' | b'&' => true,
            next => {
                self.classes.is_among(*next) && (self.every_escape || !next.is_ascii_hexdigit())
            }
        };
        (self.classes.separates(text, escape.start, byte)
            && text.get(escape.end).is_some_and(follows))
            || self.tells_key(text, escape, byte)
    }

    fn tells_key(&self, text: &[u8], escape: Range<usize>, byte: u8) -> bool {
        if !self.stands[usize::from(byte)] {
            return false;
        }
        let (before, behind) = text.split_at(escape.end);
        let (before, escape) = before.split_at(escape.start);
        if self.every_escape {
            // `&amp;` is undone together with the text after it if they form another escape.
            return escape[0] != b'&' || byte != b'&' || self.own_escapes;
        }
        match (byte, behind.first()) {
            (b'/' | b'+' | b'=', _) => before.ends_with(b"\\") || !is_usual(escape, byte),
            // A byte that cannot start a further escape cannot be part of a spelling.
            (b'%' | b'&' | b'\\', None) => false,
            (_, Some(b'%' | b'&' | b'\\')) => true,
            (b'%', Some(next)) => next.is_ascii_hexdigit() || matches!(next, b'u' | b'U'),
            (b'&', Some(next)) => {
                escape != b"&amp;" && (next.is_ascii_alphabetic() || *next == b'#')
            }
            (b'\\', Some(next)) => next.is_ascii_graphic(),
            _ => true,
        }
    }
}

/// Whether an escape for one of these three is one of those in the samples
/// ([`spelt`](super::grams::spelt)).
fn is_usual(escape: &[u8], byte: u8) -> bool {
    match escape {
        [b'%', _, _] => true,
        [b'\\', b'/'] => byte == b'/',
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::escape::unescape;
    use super::super::look::look_for_escapes;
    use super::super::run::usual;
    use super::*;

    fn scanner() -> Scanner {
        let key = &b"sk-Rx8~c1f0/b6d2e+A9zQ77mLx0wT5uV3yB1nC4q8Hs2"[..];
        Scanner::new([(key, &[b'p'; 45][..])].into_iter())
    }

    fn tells(text: &str) -> bool {
        let (scanner, text) = (scanner(), text.as_bytes());
        let mut tells = false;
        look_for_escapes(text, false, |at| {
            tells |= scanner.escape_tells(text, at, Reading::All);
            at
        });
        tells
    }

    #[test]
    fn escapes_of_characters_of_no_key_tell_nothing() {
        for text in [
            r#"\ntwo\"three\"\tfour\r\nfive\b\fcaf\/e\u00e9\u041f\ud83d"#,
            "a%20b%2Fc%3Dd%3fe=caz%C3%A9%5Bx%5D%2b",
            "fish&nbsp;&lt;b&gt;&quot;x&quot;&copy;&#1055;&#x43a;&amp; ",
        ] {
            assert!(!tells(text), "{text}");
        }
    }

    /// Every character of a key, in every way of writing it, tells or is in the samples.
    #[test]
    fn every_escape_of_a_key_character_tells() {
        for byte in (0..128).filter(|byte| usual(*byte)) {
            let (code, c) = (u32::from(byte), char::from(byte));
            for escape in [
                format!("%{code:02x}"),
                format!("%{code:02X}"),
                format!("%u{code:04x}"),
                format!("\\u{code:04x}"),
                format!("\\U{code:08x}"),
                format!("\\x{code:02x}"),
                format!("\\u{{{code:x}}}"),
                format!("\\{code:o}"),
                format!("\\{c}"),
                format!("\\\\{c}"),
                format!("&#{code};"),
                format!("&#x{code:x}"),
                "&plus;".into(),
                "&sol;".into(),
                "&equals;".into(),
                "&lowbar;".into(),
                "&period;".into(),
                "&UnderBar;".into(),
            ] {
                let of = |text: &str| unescape(text.as_bytes(), Reading::All).bytes;
                let lower = escape.to_ascii_lowercase();
                let known = super::super::grams::spelt(byte).contains(&lower.as_bytes());
                if **of(&escape) == [byte] {
                    assert_eq!(tells(&format!("zz{escape}zz")), !known, "{escape}");
                }
            }
        }
    }

    #[test]
    fn what_may_be_undone_again_and_what_separates_tells() {
        for text in ["%2541", "&amp;#65;", "%5Cu0041", "&#37;41", "%%341", "&percnt;41", r"\u00254"]
        {
            assert!(tells(text), "{text}");
        }
        for separator in ["%20", "%3a", "%2C", "&#58;", "&colon;", r"\u0020", "%0A", "%2d", "%5f"] {
            assert!(tells(&format!("73{separator}6b")), "{separator}");
        }
        for separator in ["%20", "%3a", "%2C", "&#58;"] {
            assert!(!tells(&format!("2026{separator}feed")), "{separator}");
        }
    }
}
