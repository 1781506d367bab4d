//! A signature, and bytes as it is written.

use aws_lc_rs::constant_time;

/// A signature: 64 hexadecimal digits.
#[derive(Clone, Debug)]
pub(super) struct Signature(String);

impl Signature {
    /// A signature as bytes.
    pub(super) fn of(bytes: &[u8]) -> Signature {
        Signature(hex(bytes))
    }

    /// The length of its text.
    pub(super) const LENGTH: usize = 64;

    /// A signature that a request brings.
    pub(super) fn parse(text: &str) -> Option<Signature> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        (text.len() == Signature::LENGTH && text.bytes().all(is_hex))
            .then(|| Signature(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Compares in constant time.
    pub(super) fn is(&self, other: &Signature) -> bool {
        constant_time::verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
