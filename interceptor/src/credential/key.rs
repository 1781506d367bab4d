//! A real key in memory: validated once, zeroized when dropped, shown by nothing.

use std::fmt;
use std::io;

use zeroize::Zeroizing;

/// The shortest key that is taken, bytes. Anything shorter occurs in ordinary text, and redacting it would destroy every
/// answer; no service issues such keys.
pub const SHORTEST: usize = 4;

/// The longest key that is taken, bytes: what origins accept in one header.
pub const LONGEST: usize = 8 * 1024;

/// A key that a service accepts: visible ASCII, [`SHORTEST`] to [`LONGEST`] bytes, so that it fits a header value and a
/// query as it is.
pub struct RealKey(Zeroizing<String>);

/// What is wrong with a key, or with the place where it should be. Never shows any of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// The variable is not set.
    #[error("is not set")]
    Unset,
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// There is no key in it.
    #[error("is empty")]
    Empty,
    /// It is so short that it occurs in ordinary text.
    #[error("is shorter than {SHORTEST} characters; it would be found by chance in every answer")]
    TooShort,
    /// It is so long that origins do not take it.
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
    /// It has a character that no header takes, or one that belongs to a format and not to a key.
    #[error(
        "has a space, a line end, a control character or a non-ASCII character as character {0}; \
         a key is visible ASCII alone (a scheme such as `Bearer` belongs to `inject`)"
    )]
    Character(usize),
    /// What stands in for it contains it.
    #[error("is a part of its own placeholder, so it cannot be told from it")]
    InPlaceholder,
}

impl RealKey {
    /// Takes what stood in a document, a variable or a file; one line end at its end is dropped.
    ///
    /// # Errors
    /// It is not a key; see [`KeyProblem`].
    pub fn parse(text: Zeroizing<Vec<u8>>) -> Result<RealKey, KeyProblem> {
        let bytes = text.strip_suffix(b"\n").unwrap_or(&text);
        let bytes = if bytes.len() < text.len() { bytes.strip_suffix(b"\r").unwrap_or(bytes) } else { bytes };
        if let Some(at) = bytes.iter().position(|byte| !byte.is_ascii_graphic()) {
            return Err(KeyProblem::Character(at + 1));
        }
        match bytes.len() {
            0 => return Err(KeyProblem::Empty),
            1..SHORTEST => return Err(KeyProblem::TooShort),
            SHORTEST..=LONGEST => {}
            _ => return Err(KeyProblem::TooLong),
        }
        let key: String = bytes.iter().copied().map(char::from).collect();
        Ok(RealKey(Zeroizing::new(key)))
    }

    /// The key itself. Called where it is put into a request and where it is looked for in an answer, nowhere else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Its length in bytes.
    pub(crate) fn length(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for RealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RealKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<RealKey, KeyProblem> {
        RealKey::parse(Zeroizing::new(text.to_vec()))
    }

    #[test]
    fn c10_a_malformed_key_is_refused_and_never_shown() {
        let long = [b'k'; LONGEST + 1];
        let huge = [b'k'; 64 * 1024];
        let table: [(&[u8], &str); 17] = [
            (b"", "Empty"),
            (b"\n", "Empty"),
            (b"\r\n", "Empty"),
            (b"abc", "TooShort"),
            (b"abc\n", "TooShort"),
            (b"sk-secret\nvalue", "Character(10)"),
            (b"sk-secret\rvalue", "Character(10)"),
            (b"sk-secret\0value", "Character(10)"),
            (b"sk-secret\r\nX-Evil: 1", "Character(10)"),
            (b"sk-secret\n\n", "Character(10)"),
            (b"sk-secret ", "Character(10)"),
            (b" sk-secret", "Character(1)"),
            (b"Bearer sk-secret", "Character(7)"),
            ("sk-secret\u{e9}".as_bytes(), "Character(10)"),
            (b"sk-secret\x7f", "Character(10)"),
            (&long, "TooLong"),
            (&huge, "TooLong"),
        ];
        for (text, problem) in table {
            let error = parse(text).expect_err("refused");
            assert_eq!(format!("{error:?}"), problem);
            assert!(!error.to_string().contains("secret") && !error.to_string().contains("kkkk"), "{error}");
        }
    }

    #[test]
    fn c10_a_line_end_at_the_end_is_no_part_of_a_key() {
        for text in [&b"sk-real"[..], b"sk-real\n", b"sk-real\r\n"] {
            assert_eq!(parse(text).expect("a key").expose(), "sk-real");
        }
        assert!(matches!(parse(b"sk-real\r"), Err(KeyProblem::Character(8))));
        assert_eq!(parse(br#"a"b'c\d,e;f=g"#).expect("quotes are no trouble").expose(), r#"a"b'c\d,e;f=g"#);
    }

    #[test]
    fn c11_debug_shows_nothing_of_a_key() {
        assert_eq!(format!("{:?}", parse(b"sk-real").expect("a key")), "RealKey(…)");
    }
}
