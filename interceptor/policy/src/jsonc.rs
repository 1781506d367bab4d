//! JSON with comments and trailing commas, as people write it in files.
//!
//! What JSON does not have is replaced by as many spaces, so that every other byte keeps its place
//! and every line its number. Nothing else changes: a text that is not valid afterwards was not
//! valid before.

use zeroize::Zeroizing;

use super::json::MAX_BYTES;
use super::problem::Problem;

/// A text without its comments (`// …`, `/* … */`) and trailing commas. Linear in its length.
///
/// # Errors
/// If a comment has no end.
pub fn strict_json(text: &str) -> Result<Zeroizing<String>, Problem> {
    // Too long a text is refused for its length wherever it is read.
    if text.len() > MAX_BYTES {
        return Ok(Zeroizing::new(text.to_owned()));
    }
    let bytes = text.as_bytes();
    let mut out = Zeroizing::new(bytes.to_vec());
    // The last byte that is neither space nor comment.
    let mut last = b'[';
    // A comma behind a value, which may be a trailing one.
    let mut comma = None;
    let mut at = 0;
    while let Some(byte) = bytes.get(at).copied() {
        let start = at;
        at += 1;
        match (byte, bytes.get(at)) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => continue,
            (b'/', Some(b'/')) => {
                at = line_end(bytes, at);
                blank(&mut out, start, at);
                continue;
            }
            (b'/', Some(b'*')) => {
                at = block_end(bytes, at + 1).ok_or_else(|| unended(text, start))?;
                blank(&mut out, start, at);
                continue;
            }
            (b'"', _) => at = string_end(bytes, at),
            (b']' | b'}', _) => {
                if let Some(trailing) = comma {
                    blank(&mut out, trailing, trailing + 1);
                }
            }
            _ => {}
        }
        let behind_value = byte == b',' && !matches!(last, b'[' | b'{' | b',' | b':');
        comma = behind_value.then_some(start);
        last = byte;
    }
    // Only whole characters were replaced, by characters.
    match String::from_utf8(std::mem::take(&mut *out)) {
        Ok(json) => Ok(Zeroizing::new(json)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(Problem::new("", "the document is not UTF-8"))
        }
    }
}

fn blank(out: &mut [u8], from: usize, to: usize) {
    out[from..to].iter_mut().filter(|byte| !matches!(byte, b'\n' | b'\r')).for_each(|byte| {
        *byte = b' ';
    });
}

/// Where the line that contains `at` ends, its end excluded.
fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr::memchr2(b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |end| at + end)
}

/// Behind the end of the block comment whose text starts at `at`.
fn block_end(bytes: &[u8], at: usize) -> Option<usize> {
    memchr::memmem::find(&bytes[at..], b"*/").map(|end| at + end + 2)
}

/// The position after the closing quote of the JSON string whose text starts at `at`; that of the
/// end, if it has none.
pub fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'\\' => at += 1,
            b'"' => break,
            _ => {}
        }
    }
    at.min(bytes.len())
}

fn unended(text: &str, at: usize) -> Problem {
    let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    Problem {
        line: Some(line),
        ..Problem::new("", "a comment that begins with `/*` has no end: `*/` is missing")
    }
}
