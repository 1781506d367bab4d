//! Writes an edit into the text of a policy's file: comments, order and layout stay.
//!
//! Only additions are written, which is what proposals consist of. The result is read again and
//! compared, so a text that comes out is the patched document.

use serde_json::Value;
use zeroize::Zeroizing;

use super::json::{self, Kind, Node};
use super::jsonc::strict_json;
use super::overlay::{OverlayError, Patch};
use super::problem::Problem;

/// Why an edit could not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is no JSON document.
    #[error("the file is not a policy: {}", .0.message)]
    NotJson(Problem),
    /// The patch does not fit.
    #[error(transparent)]
    Patch(#[from] OverlayError),
    /// The patch does more than add, or adds where nothing can be added.
    #[error("the edit cannot be written into the file; make it by hand")]
    ByHand,
}

/// The text with the operations of a patch written into it.
///
/// # Errors
/// If the text is no document, or the patch does not fit or does more than add.
pub fn edited(text: &str, patch: &Patch) -> Result<Zeroizing<String>, EditError> {
    let value = |text: &str| -> Result<Value, EditError> {
        let strict = strict_json(text).map_err(EditError::NotJson)?;
        json::parse(&strict).map_err(EditError::NotJson)?;
        serde_json::from_str(&strict).map_err(|_| EditError::ByHand)
    };
    let mut expected = value(text)?;
    patch.apply(&mut expected)?;
    let mut written = Zeroizing::new(text.to_owned());
    let operations = patch.to_value();
    for operation in operations.as_array().into_iter().flatten() {
        if operation["op"] != "add" {
            return Err(EditError::ByHand);
        }
        let pointer = operation["path"].as_str().ok_or(EditError::ByHand)?;
        written = added(&written, pointer, &operation["value"])?;
    }
    if value(&written)? == expected { Ok(written) } else { Err(EditError::ByHand) }
}

/// The text with one value added.
fn added(text: &str, pointer: &str, value: &Value) -> Result<Zeroizing<String>, EditError> {
    let strict = strict_json(text).map_err(EditError::NotJson)?;
    let root = json::parse(&strict).map_err(EditError::NotJson)?;
    let (parent, last) = pointer.rsplit_once('/').ok_or(EditError::ByHand)?;
    let parent = find(&root, parent).ok_or(EditError::ByHand)?;
    let last = last.replace("~1", "/").replace("~0", "~");
    let (items, item) = match parent.kind() {
        Kind::Array => (parent.elements().unwrap_or_default(), value.to_string()),
        Kind::Object => {
            let members = parent.members().unwrap_or_default();
            // A member that is there would be replaced.
            if members.iter().any(|member| member.name == last) {
                return Err(EditError::ByHand);
            }
            let item = format!("{}: {value}", Value::from(last.as_str()));
            (members.into_iter().map(|member| member.value).collect(), item)
        }
        _ => return Err(EditError::ByHand),
    };
    if parent.kind() == Kind::Array && last != "-" {
        let before = last.parse().ok().and_then(|index: usize| items.get(index));
        let before = before.ok_or(EditError::ByHand)?;
        let gap = gap(text, before.offset);
        return Ok(inserted(text, &[(before.offset, format!("{item},{gap}"))]));
    }
    Ok(match items.last() {
        Some(last) => behind(text, &strict, parent.end(), last, &item),
        None => inserted(text, &[(parent.offset + 1, item)]),
    })
}

/// The text with an item behind the last one of a container that ends at `close`.
fn behind(
    text: &str,
    strict: &str,
    close: usize,
    last: &Node<'_>,
    item: &str,
) -> Zeroizing<String> {
    let end = last.end();
    let close = close - 1;
    let between = &text[end..close];
    // A trailing comma is a space in the strict text.
    let comma = commas(text, strict, end, close).first().copied();
    let line_end = between.find('\n').map(|at| end + at);
    let gap = gap(text, start_of_item(strict, last));
    let Some(line_end) = line_end.filter(|_| gap.starts_with('\n')) else {
        let at = comma.map_or(end, |comma| comma + 1);
        let separator = if comma.is_some() { " " } else { ", " };
        return inserted(text, &[(at, format!("{separator}{item}"))]);
    };
    // Behind what stands on the line of the last item, such as a comment about it.
    let line_end = line_end.max(comma.map_or(0, |comma| comma + 1));
    let line_end = line_end - usize::from(text[..line_end].ends_with('\r'));
    match comma {
        Some(_) => inserted(text, &[(line_end, format!("{gap}{item},"))]),
        None => inserted(text, &[(end, ",".to_owned()), (line_end, format!("{gap}{item}"))]),
    }
}

/// The commas of the text between two places that are none of the strict text nor of a comment.
fn commas(text: &str, strict: &str, from: usize, to: usize) -> Vec<usize> {
    let mut at = from;
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    while at < to {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'/')) => {
                at += text[at..to].find('\n').unwrap_or(to - at);
            }
            (b'/', Some(b'*')) => {
                at += text[at + 2..to].find("*/").map_or(to - at, |end| end + 4);
            }
            (b',', _) if strict.as_bytes()[at] == b' ' => {
                found.push(at);
                at += 1;
            }
            _ => at += 1,
        }
    }
    found
}

/// Where an item begins: a member begins with its name.
fn start_of_item(strict: &str, value: &Node<'_>) -> usize {
    let before = strict[..value.offset].trim_end();
    let Some(before) = before.strip_suffix(':') else { return value.offset };
    let name = before.trim_end();
    let inside = name.len().saturating_sub(1);
    let quote = name[..inside].rmatch_indices('"').find(|(at, _)| !is_escaped(name, *at));
    quote.map_or(value.offset, |(at, _)| at)
}

fn is_escaped(text: &str, at: usize) -> bool {
    text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// What separates the item at `start` from the one before: a line feed and its indent where it
/// begins a line, else a space.
fn gap(text: &str, start: usize) -> String {
    let line = text[..start].rfind('\n').map(|at| &text[at + 1..start]);
    match line {
        Some(indent) if indent.bytes().all(|byte| matches!(byte, b' ' | b'\t')) => {
            format!("\n{indent}")
        }
        _ => " ".to_owned(),
    }
}

/// The text with texts inserted, in the order of their places.
fn inserted(text: &str, pieces: &[(usize, String)]) -> Zeroizing<String> {
    let more: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
    let mut out = Zeroizing::new(String::with_capacity(text.len() + more));
    let mut at = 0;
    for (place, piece) in pieces {
        out.push_str(&text[at..*place]);
        out.push_str(piece);
        at = *place;
    }
    out.push_str(&text[at..]);
    out
}

/// The value at a pointer.
fn find<'a>(root: &Node<'a>, pointer: &str) -> Option<Node<'a>> {
    let mut at = root.clone();
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        at = match at.kind() {
            Kind::Array => at.elements()?.into_iter().nth(token.parse().ok()?)?,
            Kind::Object => at.members()?.into_iter().find(|member| member.name == token)?.value,
            _ => return None,
        };
    }
    Some(at)
}
