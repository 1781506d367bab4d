//! The canary: a real key that exists nowhere else, and the search for every form in which it could
//! leak.

use aho_corasick::AhoCorasick;
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A string of `length` random characters, lower-case letters and digits.
pub fn random(length: usize) -> String {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes).expect("random bytes");
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

/// A fresh real key: `sk-CANARY-` and 40 random characters.
pub fn key() -> String {
    format!("sk-CANARY-{}", random(40))
}

/// Looks for keys in bytes.
#[derive(Debug)]
pub struct Search {
    needles: AhoCorasick,
    names: Vec<String>,
}

impl Search {
    /// A search for every one of `keys` raw, reversed, in base64 (at each of the three alignments,
    /// both alphabets), hex, percent-escapes and JSON escapes.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Search {
        let mut patterns = Vec::new();
        let mut names = Vec::new();
        for (index, key) in keys.into_iter().enumerate() {
            for (form, needle) in forms(key) {
                patterns.push(needle);
                names.push(format!("key {index} {form}"));
            }
        }
        Search { needles: AhoCorasick::new(&patterns).expect("patterns that compile"), names }
    }

    /// The first form found, and the text around it without the key.
    pub fn find(&self, haystack: &[u8]) -> Option<String> {
        let found = self.needles.find(haystack)?;
        let before = &haystack[found.start().saturating_sub(80)..found.start()];
        let name = &self.names[found.pattern().as_usize()];
        Some(format!(
            "{name} at byte {}, after {:?}",
            found.start(),
            String::from_utf8_lossy(before)
        ))
    }
}

/// Every form of `key` that the search knows, with its name.
pub fn forms(key: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = key.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    let json: String = bytes.iter().map(|byte| format!("\\u{byte:04x}")).collect();
    let mut forms = vec![
        ("raw", bytes.to_vec()),
        ("reversed", bytes.iter().rev().copied().collect()),
        ("hex", hex.clone().into_bytes()),
        ("HEX", hex.to_uppercase().into_bytes()),
        ("percent", percent.clone().into_bytes()),
        ("percent, lower", percent.to_lowercase().into_bytes()),
        ("JSON escapes", json.into_bytes()),
    ];
    for shift in 0..3 {
        forms.push(("base64", aligned(bytes, shift, |bytes| STANDARD_NO_PAD.encode(bytes))));
        forms.push(("base64url", aligned(bytes, shift, |bytes| URL_SAFE_NO_PAD.encode(bytes))));
    }
    forms
}

/// The base64 characters that depend on `key` alone if `shift` other bytes precede it.
fn aligned(key: &[u8], shift: usize, encode: impl Fn(&[u8]) -> String) -> Vec<u8> {
    let mut padded = vec![0; shift];
    padded.extend_from_slice(key);
    let encoded = encode(&padded);
    let first = (shift * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    encoded.as_bytes()[first..last].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_every_form_and_at_every_alignment() {
        let key = key();
        let search = Search::new([key.as_str()]);
        for prefix in ["", "u", "us", "use", "user:"] {
            let basic = STANDARD_NO_PAD.encode(format!("{prefix}{key}@tail"));
            assert!(search.find(format!("Basic {basic}").as_bytes()).is_some(), "{prefix:?}");
        }
        let reversed: String = key.chars().rev().collect();
        assert!(search.find(reversed.as_bytes()).is_some());
        assert!(search.find(format!("x{key}y").as_bytes()).is_some());
    }

    #[test]
    fn another_key_is_not_found() {
        let search = Search::new([key().as_str()]);
        assert_eq!(search.find(key().as_bytes()), None);
    }

    #[test]
    fn the_report_does_not_contain_the_key() {
        let key = key();
        let report =
            Search::new([key.as_str()]).find(format!("before {key} after").as_bytes()).unwrap();
        assert!(report.contains("before") && !report.contains(&key), "{report}");
    }
}
