//! JSON with positions: a value knows its pointer and its offset in the text, duplicate names are
//! visible, and no value is copied until it is asked for (a value may be a key).
//!
//! serde_json does the parsing. Size and depth are checked first, so that reading level by level is
//! bounded too.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::not_json::not_json;
use super::problem::{Problem, child_pointer};

/// The largest document, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// The deepest nesting of arrays and objects.
pub const MAX_DEPTH: usize = 64;
/// The longest name of a field, in bytes. Pointers repeat the names on the way to each value.
pub(super) const MAX_NAME: usize = 128;

/// A value of the document.
#[derive(Clone)]
pub(super) struct Node<'a> {
    raw: &'a str,
    /// The JSON pointer to it.
    pub(super) pointer: String,
    /// Its byte offset in the document.
    pub(super) offset: usize,
}

/// A member of an object.
pub(super) struct Member<'a> {
    pub(super) name: String,
    pub(super) value: Node<'a>,
    /// An earlier member has the same name.
    pub(super) duplicate: bool,
}

/// The kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Null => "null",
            Kind::Bool => "true or false",
            Kind::Number => "a number",
            Kind::String => "a string",
            Kind::Array => "a list",
            Kind::Object => "an object",
        })
    }
}

/// Reads the text of a document into its outermost value.
///
/// # Errors
/// If it is too large, too deep or not JSON. The message has line and column, and quotes nothing of
/// the text.
pub(super) fn parse(text: &str) -> Result<Node<'_>, Problem> {
    if text.len() > MAX_BYTES {
        return Err(Problem::new("", format!("the document has more than {MAX_BYTES} bytes")));
    }
    if text.starts_with('\u{feff}') {
        // RFC 8259 section 8.1: a text must not begin with one.
        let message = "this is not valid JSON: it begins with a byte order mark; remove that \
                       (save the file as UTF-8 without BOM)";
        return Err(Problem { line: Some(1), ..Problem::new("", message) });
    }
    let syntax = |error: &serde_json::Error| Problem {
        line: Some(error.line()).filter(|line| *line > 0),
        ..Problem::new("", not_json(text, error))
    };
    let raw: &RawValue = match serde_json::from_str(text) {
        Ok(raw) => raw,
        Err(error) => return Err(syntax(&error)),
    };
    if is_too_deep(text) {
        return Err(Problem::new("", format!("the document nests deeper than {MAX_DEPTH} levels")));
    }
    Ok(Node::new(text, raw.get(), String::new()))
}

/// Whether a text nests too deep for a document. Linear in its length, whatever it contains.
pub fn is_too_deep(text: &str) -> bool {
    depth(text) > MAX_DEPTH
}

/// The nesting depth of arrays and objects.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl<'a> Node<'a> {
    fn new(whole: &'a str, raw: &'a str, pointer: String) -> Node<'a> {
        // `raw` borrows from `whole`, so the difference of their addresses is its offset.
        let offset = (raw.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
        Node { raw, pointer, offset }
    }

    fn child(&self, token: &str, raw: &'a RawValue) -> Node<'a> {
        let place = (raw.get().as_ptr() as usize).saturating_sub(self.raw.as_ptr() as usize);
        Node {
            raw: raw.get(),
            pointer: child_pointer(&self.pointer, token),
            offset: self.offset + place,
        }
    }

    /// Where it ends, as a byte offset in the document.
    pub(super) fn end(&self) -> usize {
        self.offset + self.raw.len()
    }

    pub(super) fn kind(&self) -> Kind {
        match self.raw.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ => Kind::Number,
        }
    }

    /// The members of an object, in order.
    pub(super) fn members(&self) -> Option<Vec<Member<'a>>> {
        let Members(raw) = serde_json::from_str(self.raw).ok()?;
        let mut members: Vec<Member<'a>> = Vec::with_capacity(raw.len());
        let mut seen = std::collections::HashSet::with_capacity(raw.len());
        for (name, value) in raw {
            let duplicate = !seen.insert(name.clone());
            members.push(Member { value: self.child(&name, value), name, duplicate });
        }
        Some(members)
    }

    /// The elements of an array.
    pub(super) fn elements(&self) -> Option<Vec<Node<'a>>> {
        let raw: Vec<&'a RawValue> = serde_json::from_str(self.raw).ok()?;
        Some(
            raw.into_iter()
                .enumerate()
                .map(|(index, value)| self.child(&index.to_string(), value))
                .collect(),
        )
    }

    /// The characters of a string; its copy is wiped when dropped. Decoding fails for half of a
    /// surrogate pair.
    pub(super) fn string(&self) -> Option<Zeroizing<String>> {
        serde_json::from_str(self.raw).ok().map(Zeroizing::new)
    }

    pub(super) fn bool(&self) -> Option<bool> {
        serde_json::from_str(self.raw).ok()
    }

    /// A whole number without sign, fraction or exponent.
    pub(super) fn whole_number(&self) -> Option<u64> {
        serde_json::from_str(self.raw).ok()
    }
}

/// The members of an object as serde_json reads them: in order, with duplicates, values unread.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(MembersVisitor).map(Members)
    }
}
