//! The text of a learnt document: JSON that is pleasant to read, with comments where there are any.
//!
//! Hosts, paths and names come from records, which a sandbox made: whatever is not plain ASCII is
//! written as an escape, and comments hold nothing but numbers and times.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Usage;
use crate::problem::child_pointer;

/// The longest line on which a list or an object stands as a whole.
const LINE: usize = 80;
/// The order of the fields that are not sorted by name: what others refer to comes first.
const ORDER: [&str; 14] = [
    "$schema",
    "image",
    "network",
    "network_profile",
    "credentials",
    "credentials_v2",
    "allow",
    "deny",
    "passthrough",
    "key",
    "hosts",
    "endpoints",
    "methods",
    "paths",
];

/// The text of a document, with a line feed at its end.
pub(super) fn document(document: &Value, comments: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    if let Some(comment) = comments.get("") {
        comment_line(&mut out, 0, comment);
    }
    Writer { comments }.value(&mut out, document, "", 0);
    out.push('\n');
    out
}

/// How often and when something was used.
pub(super) fn used(usage: &Usage) -> String {
    let times = match usage.count {
        1 => "once".to_owned(),
        count => format!("{count} times"),
    };
    match (minute(&usage.first), minute(&usage.last)) {
        (Some(first), Some(last)) if first == last => format!("{times}, {first}"),
        (Some(first), Some(last)) => format!("{times}, {first} to {last}"),
        _ => times,
    }
}

/// `2026-01-31 12:00` of `2026-01-31T12:00:00.123456Z`; `None` for any other form.
fn minute(time: &str) -> Option<String> {
    let shape = b"dddd-dd-ddTdd:dd";
    let minute = time.get(..shape.len())?;
    let fits = |(byte, shape): (u8, &u8)| match shape {
        b'd' => byte.is_ascii_digit(),
        other => byte == *other,
    };
    minute.bytes().zip(shape).all(fits).then(|| minute.replace('T', " "))
}

fn comment_line(out: &mut String, indent: usize, comment: &str) {
    let _ = writeln!(out, "{:indent$}// {comment}", "");
}

struct Writer<'a> {
    comments: &'a BTreeMap<String, String>,
}

impl Writer<'_> {
    /// Writes a value, which begins at `indent` columns.
    fn value(&self, out: &mut String, value: &Value, pointer: &str, indent: usize) {
        let mut members: Vec<(String, Option<&str>, &Value)> = Vec::new();
        let (open, close) = match value {
            Value::Array(items) => {
                for (number, item) in items.iter().enumerate() {
                    members.push((format!("{pointer}/{number}"), None, item));
                }
                ("[", "]")
            }
            Value::Object(named) => {
                for (name, item) in sorted(named) {
                    members.push((child_pointer(pointer, name), Some(name), item));
                }
                ("{", "}")
            }
            plain => return out.push_str(&text(plain)),
        };
        let inside = format!("{pointer}/");
        let is_commented = self
            .comments
            .range(inside.clone()..)
            .next()
            .is_some_and(|(place, _)| place.starts_with(&inside));
        let short = compact(value);
        if !is_commented && !pointer.is_empty() && indent + short.len() < LINE {
            return out.push_str(&short);
        }
        out.push_str(open);
        out.push('\n');
        let count = members.len();
        for (number, (pointer, name, item)) in members.into_iter().enumerate() {
            if let Some(comment) = self.comments.get(&pointer) {
                comment_line(out, indent + 2, comment);
            }
            let _ = write!(out, "{:width$}", "", width = indent + 2);
            if let Some(name) = name {
                let _ = write!(out, "{}: ", text(&Value::from(name)));
            }
            self.value(out, item, &pointer, indent + 2);
            out.push_str(if number + 1 < count { ",\n" } else { "\n" });
        }
        let _ = write!(out, "{:indent$}{close}", "");
    }
}

/// The members in the order in which they are written.
fn sorted(members: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let rank = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by_key(|(name, _)| (rank(name), (*name).clone()));
    sorted
}

/// A value on one line.
fn compact(value: &Value) -> String {
    let joined = |parts: Vec<String>| parts.join(", ");
    match value {
        Value::Array(items) => format!("[{}]", joined(items.iter().map(compact).collect())),
        Value::Object(members) if members.is_empty() => "{}".to_owned(),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                format!("{}: {}", text(&Value::from(name.as_str())), compact(value))
            };
            format!("{{ {} }}", joined(sorted(members).into_iter().map(member).collect()))
        }
        plain => text(plain),
    }
}

/// A plain value, in ASCII.
fn text(value: &Value) -> String {
    let mut out = String::new();
    for character in value.to_string().chars() {
        match character {
            ' '..='~' => out.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out
}
