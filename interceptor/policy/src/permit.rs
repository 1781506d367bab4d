//! The smallest edit of a policy's document that permits what the policy refuses.
//!
//! Each step answers one refusal; the edited document is judged again until it permits, so an edit
//! that is returned does. What no edit of the document permits (a placeholder at a foreign host, a
//! path with two readings) has none.

use std::fmt;

use serde_json::{Map, Value, json};

use super::catalogue::Catalogue;
use super::decision::{Decision, Deny, Reason};
use super::message::bracketed;
use super::nearest::literal_pattern;
use super::network_rule::NetworkRule;
use super::path::CanonicalPath;
use super::recorded::{Subject, Traffic};
use super::{Policy, check};

/// The most steps of an edit: one for each filter, and one more.
const MOST_STEPS: usize = 5;

/// An edit of a policy's document.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    steps: Vec<Step>,
}

/// A part of an edit. Pointers are JSON pointers (RFC 6901).
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Adds a value at the end of a list, which is made if it is missing.
    Append { list: String, value: Value },
    /// Sets a member.
    Set { pointer: String, value: Value },
    /// Removes a rule from a list.
    Remove { pointer: String, text: String },
}

impl Edit {
    /// The edit that permits `subject` where `document` refuses it; `None` if it is permitted, or
    /// nothing permits it.
    pub fn permitting(document: &Value, catalogue: &Catalogue, subject: &Subject) -> Option<Edit> {
        let mut edited = document.clone();
        let mut steps: Vec<Step> = Vec::new();
        while steps.len() < MOST_STEPS {
            let policy = check(&edited.to_string(), catalogue).policy?;
            let deny = match subject.judge(&policy) {
                Decision::Allow(_) => return (!steps.is_empty()).then_some(Edit { steps }),
                Decision::Deny(deny) => deny,
            };
            let step = step(&policy, &edited, &deny, subject)?;
            // A step that did not help once does not help again.
            if steps.contains(&step) {
                return None;
            }
            step.apply(&mut edited)?;
            steps.push(step);
        }
        None
    }

    /// The document with the edit.
    ///
    /// # Errors
    /// `None` if the document is not the one that the edit is for.
    pub fn applied(&self, document: &Value) -> Option<Value> {
        let mut edited = document.clone();
        self.steps.iter().try_for_each(|step| step.apply(&mut edited))?;
        Some(edited)
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            if number > 0 {
                f.write_str(", and ")?;
            }
            match step {
                Step::Append { list, value } => write!(f, "add {value} to {list}")?,
                Step::Set { pointer, value } => write!(f, "set {pointer} to {value}")?,
                Step::Remove { pointer, text } => write!(f, "remove \"{text}\" at {pointer}")?,
            }
        }
        Ok(())
    }
}

impl Step {
    fn append(list: impl Into<String>, value: impl Into<Value>) -> Option<Step> {
        Some(Step::Append { list: list.into(), value: value.into() })
    }

    fn apply(&self, document: &mut Value) -> Option<()> {
        match self {
            Step::Append { list, value } => {
                let list = made(document, list, || Value::Array(Vec::new()))?;
                list.as_array_mut()?.push(value.clone());
            }
            Step::Set { pointer, value } => {
                *made(document, pointer, || Value::Null)? = value.clone()
            }
            Step::Remove { pointer, .. } => {
                let (list, index) = pointer.rsplit_once('/')?;
                let list = document.pointer_mut(list)?.as_array_mut()?;
                let index = index.parse().ok().filter(|index| *index < list.len())?;
                list.remove(index);
            }
        }
        Some(())
    }
}

/// The value at a pointer; members that are missing on the way are made.
fn made<'a>(
    document: &'a mut Value,
    pointer: &str,
    make: impl FnOnce() -> Value,
) -> Option<&'a mut Value> {
    let mut at = document;
    for name in pointer.split('/').skip(1) {
        let name = name.replace("~1", "/").replace("~0", "~");
        at = match at {
            Value::Object(members) => members.entry(name).or_insert(Value::Null),
            Value::Array(items) => items.get_mut(name.parse::<usize>().ok()?)?,
            Value::Null => {
                *at = Value::Object(Map::new());
                at.as_object_mut()?.entry(name).or_insert(Value::Null)
            }
            _ => return None,
        };
    }
    if at.is_null() {
        *at = make();
    }
    Some(at)
}

/// The step that answers a refusal.
fn step(policy: &Policy, document: &Value, deny: &Deny, subject: &Subject) -> Option<Step> {
    match deny.reason {
        Reason::HostDenied => host(policy, document, deny, subject),
        Reason::EndpointDenied => endpoint(policy, document, deny, subject),
        Reason::PlaintextDenied => {
            let pointer = format!("{}/allow_plaintext", credential(policy, deny)?);
            Some(Step::Set { pointer, value: true.into() })
        }
        Reason::ProtocolDenied if subject.traffic == Traffic::Raw => {
            let rule = format!("tcp://{}", bracketed(&subject.host, subject.port));
            Step::append("/network/allow", rule)
        }
        _ => None,
    }
}

fn host(policy: &Policy, document: &Value, deny: &Deny, subject: &Subject) -> Option<Step> {
    const ALLOW: &str = "/network/allow";
    if let Some(rule) = &deny.rule {
        let catch_all = NetworkRule::parse(&rule.text).is_ok_and(|(rule, _)| rule.is_catch_all());
        if !catch_all {
            // The rules of a profile are not the document's.
            let own = rule.pointer.starts_with("/network/");
            let remove = Step::Remove { pointer: rule.pointer.clone(), text: rule.text.clone() };
            return own.then_some(remove);
        }
    }
    let is_open = document.pointer(ALLOW).and_then(Value::as_array).is_none_or(Vec::is_empty)
        && deny.rule.is_none()
        && document.get("network_profile").is_none();
    let address =
        subject.address.filter(|_| policy.decide_host(&subject.host, subject.port).is_allow());
    match (address, &deny.nearest) {
        // An allow list closes what was open: everything stays permitted beside the address.
        _ if is_open => Step::append(ALLOW, "*"),
        _ if subject.host.is_own_host() => {
            Step::append(ALLOW, bracketed(&subject.host, subject.port))
        }
        (Some(address), _) => Step::append(ALLOW, address.to_string()),
        (None, Some(near)) if near.failed == "port" => {
            Step::append(ALLOW, bracketed(&subject.host, subject.port))
        }
        _ => Step::append(ALLOW, subject.host.to_string()),
    }
}

fn endpoint(policy: &Policy, document: &Value, deny: &Deny, subject: &Subject) -> Option<Step> {
    // Rules are in upper case, and methods are compared as sent.
    if subject.method != subject.method.to_ascii_uppercase() {
        return None;
    }
    let path = literal_pattern(&CanonicalPath::parse(&subject.path).ok()?);
    let rule = || json!({ "methods": [subject.method], "paths": [path] });
    let endpoints = format!("{}/endpoints", credential(policy, deny)?);
    let Some(near) = &deny.nearest else { return Step::append(endpoints, rule()) };
    // From the path of the rule to the rule.
    let nearest = near.rule.pointer.rsplit_once("/paths/")?.0;
    if near.failed == "method" {
        return Step::append(format!("{nearest}/methods"), subject.method.as_str());
    }
    let methods = document.pointer(&format!("{nearest}/methods"))?.as_array()?;
    let upper = |known: &Value| {
        known.as_str().is_some_and(|known| known.eq_ignore_ascii_case(&subject.method))
    };
    if methods.is_empty() || (methods.len() == 1 && methods.iter().any(upper)) {
        return Step::append(format!("{nearest}/paths"), path);
    }
    Step::append(endpoints, rule())
}

/// The pointer to the credential of a refusal.
fn credential(policy: &Policy, deny: &Deny) -> Option<String> {
    let pointer = &policy.credential(deny.credential?).key_pointer;
    // The simple form has no fields.
    let own = pointer.strip_prefix("/credentials_v2/")?.strip_suffix("/key")?;
    Some(format!("/credentials_v2/{own}"))
}
