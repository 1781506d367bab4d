//! A real key in memory: validated once, zeroized on drop, never displayed.

use std::fmt;
use std::io;

use zeroize::Zeroizing;

/// The minimum length of a key in bytes. A shorter one occurs in ordinary text, and redacting it
/// would corrupt every response; no service issues such keys.
pub const SHORTEST: usize = 4;

/// The maximum length of a key in bytes: what origins accept in one header.
pub const LONGEST: usize = 8 * 1024;

/// A key: visible ASCII, [`SHORTEST`] to [`LONGEST`] bytes, so that it fits a header value or query
/// unescaped.
pub struct RealKey(Zeroizing<String>);

/// A problem with a key or its source. Never shows any part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// The variable is not set.
    #[error("is not set")]
    Unset,
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It contains no key.
    #[error("is empty")]
    Empty,
    /// It is too short.
    #[error(
        "is shorter than {SHORTEST} characters; it would match ordinary text in every response"
    )]
    TooShort,
    /// It is too long.
    #[error("is longer than {LONGEST} bytes")]
    TooLong,
    /// It has a character that is invalid in a header, or that belongs to a format rather than a
    /// key.
    #[error(
        "has a space, a line end, a control character or a non-ASCII character as character {0}; \
         a key is visible ASCII alone (a scheme such as `Bearer` belongs to `inject`)"
    )]
    Character(usize),
    /// Its placeholder contains it.
    #[error("is part of its own placeholder, so the two cannot be distinguished")]
    InPlaceholder,
}

impl RealKey {
    /// Parses the content of a document, variable or file; drops one trailing line end.
    ///
    /// # Errors
    /// If it is not a valid key; see [`KeyProblem`].
    pub fn parse(text: Zeroizing<Vec<u8>>) -> Result<RealKey, KeyProblem> {
        let bytes = text.strip_suffix(b"\n").unwrap_or(&text);
        let bytes = if bytes.len() < text.len() {
            bytes.strip_suffix(b"\r").unwrap_or(bytes)
        } else {
            bytes
        };
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

    /// The key itself. Call only to inject it into a request or to search for it in a response.
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
            assert!(
                !error.to_string().contains("secret") && !error.to_string().contains("kkkk"),
                "{error}"
            );
        }
    }

    #[test]
    fn c10_a_line_end_at_the_end_is_no_part_of_a_key() {
        for text in [&b"sk-real"[..], b"sk-real\n", b"sk-real\r\n"] {
            assert_eq!(parse(text).expect("a key").expose(), "sk-real");
        }
        assert!(matches!(parse(b"sk-real\r"), Err(KeyProblem::Character(8))));
        assert_eq!(
            parse(br#"a"b'c\d,e;f=g"#).expect("quotes are no trouble").expose(),
            r#"a"b'c\d,e;f=g"#
        );
    }

    #[test]
    fn c11_debug_shows_nothing_of_a_key() {
        assert_eq!(format!("{:?}", parse(b"sk-real").expect("a key")), "RealKey(…)");
    }
}
