//! The canonical path: the one form of a request's path that is judged and, byte for byte,
//! forwarded.
//!
//! Percent-encoded unreserved characters are decoded and other escapes get upper-case hex (RFC 3986
//! sections 6.2.2.1 and 6.2.2.2). Nothing else is rewritten: a path that an origin might read in a
//! second way is refused, never repaired.

use std::fmt;

/// Why a path has no single reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` without two hexadecimal digits after it")]
    Escape,
    /// The escapes do not decode to UTF-8, at the first or a further decoding.
    #[error("the path has escapes that do not decode to UTF-8")]
    Utf8,
    /// A control character, raw or escaped.
    #[error("the path has a control character")]
    Control,
    /// A backslash, raw or escaped.
    #[error("the path has a backslash")]
    Backslash,
    /// A byte outside ASCII.
    #[error("the path has a character outside ASCII that is not percent-encoded")]
    NotAscii,
    /// `#`, `?` or a space, which a path cannot have.
    #[error("the path has a raw `#`, `?` or space")]
    Delimiter,
    /// A segment that is, or decodes to, `.` or `..`, ignoring blanks.
    #[error("the path has a segment that is `.` or `..`, once decoded and stripped of blanks")]
    DotSegment,
}

/// A path in canonical form: ASCII, begins with `/`, no dot segments at any depth of decoding.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalPath(String);

impl CanonicalPath {
    /// Canonicalises the path of a request, without its query.
    ///
    /// # Errors
    /// If the path has more than one reading; see [`PathError`].
    pub fn parse(path: &str) -> Result<CanonicalPath, PathError> {
        if !path.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        let canonical = canonicalise(path)?;
        check_segments(&canonical)?;
        Ok(CanonicalPath(canonical))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Canonicalises escapes and checks single characters, for paths and for literal parts of patterns.
pub(super) fn canonicalise(path: &str) -> Result<String, PathError> {
    let bytes = path.as_bytes();
    if bytes
        .iter()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\' | b'#' | b'?'))
    {
        return Ok(path.to_owned());
    }
    let mut canonical = String::with_capacity(bytes.len());
    let mut position = 0;
    while let Some(&byte) = bytes.get(position) {
        match byte {
            b'%' => {
                let (character, length) = escaped_character(&bytes[position..])?;
                check_decoded(character)?;
                if is_unreserved(character) {
                    canonical.push(character);
                } else {
                    push_upper(&mut canonical, &path[position..position + length]);
                }
                position += length;
            }
            0..0x20 | 0x7f => return Err(PathError::Control),
            b'\\' => return Err(PathError::Backslash),
            b'#' | b'?' | b' ' => return Err(PathError::Delimiter),
            0x80.. => return Err(PathError::NotAscii),
            _ => {
                canonical.push(char::from(byte));
                position += 1;
            }
        }
    }
    Ok(canonical)
}

/// The character that the escapes at the start of `bytes` encode, and how many bytes they take.
fn escaped_character(bytes: &[u8]) -> Result<(char, usize), PathError> {
    let mut decoded = [0; 4];
    decoded[0] = escape(bytes)?;
    let count = match decoded[0] {
        0..0x80 => 1,
        0xc2..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0..0xf5 => 4,
        _ => return Err(PathError::Utf8),
    };
    for (index, slot) in decoded.iter_mut().enumerate().take(count).skip(1) {
        let rest = bytes
            .get(3 * index..)
            .filter(|rest| rest.first() == Some(&b'%'))
            .ok_or(PathError::Utf8)?;
        *slot = escape(rest)?;
    }
    let text = std::str::from_utf8(&decoded[..count]).map_err(|_| PathError::Utf8)?;
    text.chars().next().map(|character| (character, 3 * count)).ok_or(PathError::Utf8)
}

/// The byte that the escape at the start of `bytes` encodes.
fn escape(bytes: &[u8]) -> Result<u8, PathError> {
    let digit =
        |index: usize| bytes.get(index).and_then(|byte| hex(*byte)).ok_or(PathError::Escape);
    Ok(digit(1)? << 4 | digit(2)?)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn check_decoded(character: char) -> Result<(), PathError> {
    match character {
        '\\' => Err(PathError::Backslash),
        _ if character.is_control() => Err(PathError::Control),
        _ => Ok(()),
    }
}

fn is_unreserved(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_' | '~')
}

fn push_upper(out: &mut String, escapes: &str) {
    out.extend(escapes.chars().map(|character| character.to_ascii_uppercase()));
}

/// Refuses dot segments, backslashes and control characters at any depth of decoding.
///
/// Decodes until nothing changes, in one pass with a stack: an escape is replaced as soon as its
/// last digit is read, and the result may complete another. Escapes cannot overlap (`%` is no
/// digit), so the order of replacement does not matter, and a segment that is a dot segment at some
/// depth is still one at the end.
fn check_segments(canonical: &str) -> Result<(), PathError> {
    if !canonical.contains('%') {
        return canonical.split('/').try_for_each(check_segment);
    }
    let mut decoded: Vec<u8> = Vec::with_capacity(canonical.len());
    for byte in canonical.bytes() {
        decoded.push(byte);
        while let [.., b'%', high, low] = decoded[..] {
            let (Some(high), Some(low)) = (hex(high), hex(low)) else { break };
            decoded.truncate(decoded.len() - 3);
            decoded.push(high << 4 | low);
        }
    }
    // Overlong forms (RFC 3629 section 3) can hide a dot or a slash that appears when an origin
    // decodes once more.
    let overlong = decoded.windows(2).any(|pair| match pair {
        [0xc0 | 0xc1, _] => true,
        [0xe0, next] => (0x80..0xa0).contains(next),
        [0xf0, next] => (0x80..0x90).contains(next),
        _ => false,
    });
    if overlong {
        return Err(PathError::Utf8);
    }
    // Characters that no escape consists of are still there at the end of decoding.
    let text = String::from_utf8_lossy(&decoded);
    let folded = fold_lookalikes(&text);
    folded.split(['/', '\\']).try_for_each(check_segment)?;
    text.chars().try_for_each(check_decoded)
}

/// Replaces the characters that compatibility normalisation (NFKC, UAX 15) turns into dots, slashes
/// and name terminators.
fn fold_lookalikes(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{2024}' | '\u{fe52}' | '\u{ff0e}' => folded.push('.'),
            '\u{2025}' | '\u{fe30}' => folded.push_str(".."),
            '\u{ff0f}' => folded.push('/'),
            '\u{fe68}' | '\u{ff3c}' => folded.push('\\'),
            '\u{ff1b}' => folded.push(';'),
            '\u{fe56}' | '\u{ff1f}' => folded.push('?'),
            '\u{fe5f}' | '\u{ff03}' => folded.push('#'),
            other => folded.push(other),
        }
    }
    folded
}

/// Refuses `.` and `..`: also with parameters (`..;x`), with blanks around or between the dots that
/// a file system or an origin's `trim` drops, and before characters that end the path for an origin
/// that decodes before it splits (`?`, `#`, and NUL in C strings).
fn check_segment(segment: &str) -> Result<(), PathError> {
    let name = segment.split([';', '?', '#', '\0']).next().unwrap_or(segment);
    let mut dots = 0;
    for character in name.chars() {
        match character {
            '.' => dots += 1,
            _ if is_blank(character) => {}
            _ => return Ok(()),
        }
    }
    if matches!(dots, 1 | 2) { Err(PathError::DotSegment) } else { Ok(()) }
}

/// White space and invisible characters (Default_Ignorable_Code_Point and Unicode's format
/// controls): characters that some library strips as blanks.
fn is_blank(character: char) -> bool {
    character.is_whitespace()
        || matches!(
            character,
            '\u{1c}'..='\u{1f}' // white space to Java and Python
                | '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}
