//! The document that a policy was made from, kept to change it: proposals and leases are edits of
//! it. Keys, labels and the way out are left out.

use std::fmt;

use serde_json::{Map, Value};

use super::Policy;
use super::catalogue::Catalogue;
use super::jsonc::strict_json;

/// What stands where a key was. Edits never touch keys.
const NO_KEY: &str = "left-out";

/// A document without its keys, and what it was compiled against.
#[derive(Clone)]
pub(super) struct Written {
    /// As text, which is smaller than a tree.
    text: Box<str>,
    pub(super) catalogue: Catalogue,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").finish_non_exhaustive()
    }
}

impl Written {
    /// The document of `text`, without the fields `besides`, which are not the policy's.
    pub(super) fn new(text: &str, besides: &[&str], catalogue: &Catalogue) -> Option<Written> {
        let json = strict_json(text).ok()?;
        let Ok(Value::Object(mut document)) = serde_json::from_str(&json) else { return None };
        for field in besides.iter().chain(&["image", "$schema", "upstream"]) {
            document.remove(*field);
        }
        let hide = |key: &mut Value| {
            if key.is_string() {
                *key = NO_KEY.into();
            }
        };
        if let Some(Value::Object(simple)) = document.get_mut("credentials") {
            simple.values_mut().for_each(hide);
        }
        if let Some(Value::Object(credentials)) = document.get_mut("credentials_v2") {
            credentials.values_mut().filter_map(|one| one.get_mut("key")).for_each(hide);
        }
        let text = Value::Object(document).to_string().into();
        Some(Written { text, catalogue: catalogue.clone() })
    }

    /// The text of a changed document, with the credentials in the order of `policy`, so that each
    /// keeps its number.
    pub(super) fn text_of(document: &Value, policy: &Policy) -> String {
        let Value::Object(fields) = document else { return document.to_string() };
        let mut text = String::from("{");
        for (name, value) in fields {
            let separator = if text.len() > 1 { "," } else { "" };
            text.push_str(&format!("{separator}{}:", Value::from(name.as_str())));
            match value {
                Value::Object(members) if name.starts_with("credentials") => {
                    text.push_str(&in_order(members, policy));
                }
                other => text.push_str(&other.to_string()),
            }
        }
        text.push('}');
        text
    }

    /// The document.
    pub(super) fn document(&self) -> Value {
        // It was made from a value.
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

fn in_order(members: &Map<String, Value>, policy: &Policy) -> String {
    let known = policy.credentials().iter().filter_map(|one| members.get_key_value(&one.name));
    let is_new = |name: &str| policy.credential_named(name).is_none();
    let new = members.iter().filter(|(name, _)| is_new(name));
    let member =
        |(name, value): (&String, &Value)| format!("{}:{value}", Value::from(name.as_str()));
    let all: Vec<String> = known.chain(new).map(member).collect();
    format!("{{{}}}", all.join(","))
}

impl Policy {
    /// The document that the policy was made from, without keys and labels. `None` for a policy
    /// that was compiled from typed values.
    pub fn document(&self) -> Option<Value> {
        self.written.as_ref().map(|written| written.document())
    }
}
