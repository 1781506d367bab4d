//! Reads policies from a file or standard input, and shows text safely.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, bail};
use interceptor_policy::{MAX_BYTES, Problem};

use crate::audit::steers_or_hides;
use crate::files;

/// Reads the text of a policy; `-` is standard input. Stops at the size limit.
///
/// # Errors
/// If it cannot be read or is not UTF-8.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let name = path.display();
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(files::open(path).with_context(|| format!("cannot read the policy {name}"))?.0)
    };
    let mut bytes = Vec::new();
    // One byte beyond the limit, so that an oversized document is refused for its size.
    source
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read the policy {name}"))?;
    if bytes.len() > MAX_BYTES {
        bytes.truncate(MAX_BYTES + 1);
        // A character may have been cut; only the size matters now.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => bail!("the policy {name} is not UTF-8"),
    }
}

/// A problem in one line.
pub fn describe(problem: &Problem) -> String {
    let pointer = if problem.pointer.is_empty() { "the document" } else { &problem.pointer };
    match problem.line {
        Some(line) => {
            format!("line {line}: {}: {}", printable(pointer), printable(&problem.message))
        }
        None => format!("{}: {}", printable(pointer), printable(&problem.message)),
    }
}

/// Text safe for a terminal: control, reordering and invisible characters are escaped.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escaped = steers_or_hides(character).then(|| character.escape_unicode());
            let plain = escaped.is_none().then_some(character);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// JSON safe for a terminal: what [`printable`] escapes becomes a JSON escape with the same
/// meaning. In valid JSON, control characters occur only as white space between values.
pub(super) fn printable_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\n' | '\t' => out.push(character),
            '\r' => out.push(' '),
            _ if steers_or_hides(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o2_json_means_the_same_and_steers_no_terminal() {
        let ours = "{\n  \"host\": \"a\\u001b[2J\\u202e ü\"\n}";
        assert_eq!(printable_json(ours), ours);
        let theirs = "{\r\"host\":\"a\u{202e}b\u{9b}31m\u{e0041}\"}";
        let shown = printable_json(theirs);
        assert_eq!(shown, "{ \"host\":\"a\\u202eb\\u009b31m\\udb40\\udc41\"}");
        let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["host"], "a\u{202e}b\u{9b}31m\u{e0041}");
    }
}
