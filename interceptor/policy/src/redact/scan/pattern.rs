//! The spellings of a key without escapes: the search looks for these directly, and for these with
//! escapes, line breaks and separators on top.
//!
//! Literal; base64 (RFC 4648, both alphabets) at each of its three alignments, so that text around
//! the key makes no difference; hexadecimal in either case; UTF-16 of either byte order; base64 of
//! UTF-16 and of the key escaped for a URL or by `\/`.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

type Text = Zeroizing<Vec<u8>>;

/// How a spelling is encoded, which decides what may stand between its characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The key itself.
    Literal,
    /// UTF-16: its characters with a NUL between each two, which both byte orders contain.
    Wide,
    /// Lines may be broken anywhere.
    Base64,
    /// Lines may be broken, bytes separated, and letters in either case.
    Hexadecimal,
}

impl Encoding {
    /// Whether encoders wrap it.
    pub fn wraps(self) -> bool {
        matches!(self, Encoding::Base64 | Encoding::Hexadecimal)
    }

    /// Whether `byte` in a text matches the character `expected` of a spelling.
    pub fn same(self, byte: u8, expected: u8) -> bool {
        byte == expected || (self == Encoding::Hexadecimal && byte.eq_ignore_ascii_case(&expected))
    }

    /// Whether `text` begins with this spelling.
    pub fn begins(self, text: &[u8], find: &[u8]) -> bool {
        match self {
            Encoding::Hexadecimal => {
                text.get(..find.len()).is_some_and(|text| text.eq_ignore_ascii_case(find))
            }
            _ => text.starts_with(find),
        }
    }
}

/// A byte string to find and its replacement.
pub struct Pattern {
    /// A spelling of a real key.
    pub find: Text,
    /// The same spelling of the placeholder; of the same length if the two themselves are.
    pub replacement: Text,
    /// How it is encoded.
    pub encoding: Encoding,
}

impl Pattern {
    /// The replacement for `raw`, a match, in upper case if `raw` is upper-case hexadecimal.
    pub fn replacement(&self, raw: &[u8]) -> Cow<'_, [u8]> {
        let upper = |byte: &u8| matches!(byte, b'A'..=b'F');
        if self.encoding == Encoding::Hexadecimal && raw.iter().any(upper) {
            return Cow::Owned(self.replacement.to_ascii_uppercase());
        }
        Cow::Borrowed(&self.replacement)
    }
}

/// The spellings of `key` without escapes, each paired with that of `placeholder`; the literal one
/// first, without duplicates.
pub fn forms(key: &[u8], placeholder: &[u8]) -> Vec<Pattern> {
    let mut found: Vec<Pattern> = Vec::new();
    let mut add = |encoding, find: Text, replacement: Text| {
        if !find.is_empty() && found.iter().all(|known| *known.find != *find) {
            found.push(Pattern { find, replacement, encoding });
        }
    };
    let plain = |text: &[u8]| Zeroizing::new(text.to_vec());
    add(Encoding::Literal, plain(key), plain(placeholder));
    let mut inner = vec![(plain(key), plain(placeholder)), (wide(key), wide(placeholder))];
    let percents = [(UPPER, &b"-._~"[..]), (LOWER, b"-._~"), (UPPER, b"-._")];
    let percents = percents.map(|(digits, kept)| percent(key, digits, kept));
    for escaped in percents.into_iter().chain([slashes(key)]) {
        if *escaped != *key && inner.iter().all(|(known, _)| **known != *escaped) {
            let even = key.len() == placeholder.len();
            let mut stand_in = plain(placeholder);
            stand_in.resize(if even { escaped.len() } else { placeholder.len() }, b'-');
            inner.push((escaped, stand_in));
        }
    }
    for (key, placeholder) in &inner {
        for encoder in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            for alignment in 0..3 {
                let encode = |text| base64_inside(&encoder, alignment, text);
                add(Encoding::Base64, encode(key), encode(placeholder));
            }
        }
    }
    add(Encoding::Hexadecimal, hexadecimal(key), hexadecimal(placeholder));
    add(Encoding::Wide, wide(key), wide(placeholder));
    found
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

/// The base64 characters of `text` that do not depend on the bytes around it, if `alignment` bytes
/// (modulo 3) precede it.
fn base64_inside(encoder: &GeneralPurpose, alignment: usize, text: &[u8]) -> Text {
    let padded = Zeroizing::new([&[0; 2][..alignment], text].concat());
    let encoded = Zeroizing::new(encoder.encode(&*padded));
    let whole: Range<usize> = (alignment * 8).div_ceil(6)..padded.len() * 8 / 6;
    Zeroizing::new(encoded.as_bytes().get(whole).unwrap_or_default().to_vec())
}

fn wide(text: &[u8]) -> Text {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2));
    text.iter().for_each(|byte| out.extend_from_slice(&[*byte, 0]));
    out.pop();
    out
}

fn hexadecimal(text: &[u8]) -> Text {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2));
    text.iter().for_each(|byte| push_hex(&mut out, *byte, LOWER));
    out
}

fn percent(text: &[u8], digits: &[u8; 16], kept: &[u8]) -> Text {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 3));
    for byte in text {
        if byte.is_ascii_alphanumeric() || kept.contains(byte) {
            out.push(*byte);
        } else {
            out.push(b'%');
            push_hex(&mut out, *byte, digits);
        }
    }
    out
}

fn slashes(text: &[u8]) -> Text {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() * 2));
    for byte in text {
        if matches!(byte, b'/' | b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out
}

fn push_hex(out: &mut Vec<u8>, byte: u8, digits: &[u8; 16]) {
    out.push(digits[usize::from(byte >> 4)]);
    out.push(digits[usize::from(byte & 15)]);
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn finds(key: &str) -> Vec<String> {
        forms(key.as_bytes(), b"sk-proxy-managed-0000")
            .iter()
            .map(|pattern| String::from_utf8(pattern.find.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn base64_is_found_at_every_alignment_and_with_anything_around_it() {
        for key in ["sk-real", "sk-reall", "sk-really", "a+b/c?d~e>f"] {
            let found = finds(key);
            for before in ["", "u", "us", "use", "user:"] {
                for behind in ["", "x", "xy", "xyz"] {
                    let text = STANDARD.encode(format!("{before}{key}{behind}"));
                    let any = found.iter().any(|find| text.contains(find));
                    assert!(any, "{before}{key}{behind} as {text}");
                }
            }
        }
    }

    #[test]
    fn if_key_and_placeholder_are_equally_long_so_is_every_spelling() {
        for key in ["sk-real+key/0=1~2", "billing0key1of2evenx"] {
            let placeholder = "p".repeat(key.len());
            for pattern in forms(key.as_bytes(), placeholder.as_bytes()) {
                assert_eq!(pattern.find.len(), pattern.replacement.len());
            }
        }
    }

    #[test]
    fn an_ordinary_key_has_few_forms() {
        assert!(finds("sk-abcdef0123456789").len() <= 10, "{:?}", finds("sk-abcdef0123456789"));
    }
}
