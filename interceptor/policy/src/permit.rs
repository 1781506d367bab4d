//! The smallest edit of a policy's document that permits what the policy refuses.
//!
//! Each step answers one refusal; the edited document is judged again until it permits, so an edit
//! that is returned does. What no edit of the document permits (a placeholder at a foreign host, a
//! path with two readings) has none.

use std::fmt;

use serde_json::{Map, Value, json};

use super::aws::AwsScope;
use super::catalogue::Catalogue;
use super::decision::{Decision, Deny, Reason};
use super::learn::template;
use super::message::bracketed;
use super::nearest::literal_pattern;
use super::network_rule::NetworkRule;
use super::path::CanonicalPath;
use super::pattern::ROOT;
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
    /// Inserts a value before one of a list.
    Insert { pointer: String, value: Value },
    /// Removes a rule from a list.
    Remove { pointer: String, text: String },
}

/// What an edit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To permit, whatever that takes.
    Permit,
    /// To answer a question: only what is missing is added, and no more than the request needs.
    Answer {
        /// Take the template of the path in place of the path.
        wider: bool,
    },
}

impl Edit {
    /// The edit that permits `subject` where `document` refuses it; `None` if it is permitted, or
    /// nothing permits it.
    pub fn permitting(document: &Value, catalogue: &Catalogue, subject: &Subject) -> Option<Edit> {
        Edit::aimed(document, catalogue, subject, Aim::Permit)
    }

    pub(super) fn aimed(
        document: &Value,
        catalogue: &Catalogue,
        subject: &Subject,
        aim: Aim,
    ) -> Option<Edit> {
        let mut edited = document.clone();
        let mut steps: Vec<Step> = Vec::new();
        while steps.len() < MOST_STEPS {
            let policy = check(&edited.to_string(), catalogue).policy?;
            let deny = match subject.judge(&policy) {
                Decision::Allow(_) => return (!steps.is_empty()).then_some(Edit { steps }),
                Decision::Deny(deny) => deny,
            };
            let step = step(&policy, &edited, &deny, subject, aim)?;
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
                Step::Insert { pointer, value } => write!(f, "add {value} before {pointer}")?,
                Step::Remove { pointer, text } => write!(f, "remove \"{text}\" at {pointer}")?,
            }
        }
        Ok(())
    }
}

impl Edit {
    /// The edit as operations of a JSON Patch (RFC 6902) on `document`.
    pub(super) fn operations(&self, document: &Value) -> Option<Vec<Value>> {
        let mut edited = document.clone();
        let mut operations = Vec::new();
        for step in &self.steps {
            match step {
                Step::Append { list, value } => {
                    missing(&edited, list, &mut operations);
                    operations
                        .push(json!({"op": "add", "path": format!("{list}/-"), "value": value}));
                }
                Step::Set { pointer, value } | Step::Insert { pointer, value } => {
                    operations.push(json!({"op": "add", "path": pointer, "value": value}));
                }
                Step::Remove { pointer, .. } => {
                    operations.push(json!({"op": "remove", "path": pointer}));
                }
            }
            step.apply(&mut edited)?;
        }
        Some(operations)
    }
}

/// Operations that make the list at a pointer, and the objects on the way to it.
fn missing(document: &Value, list: &str, operations: &mut Vec<Value>) {
    let ends = list.match_indices('/').map(|(at, _)| at).skip(1).chain([list.len()]);
    for end in ends {
        let pointer = &list[..end];
        if document.pointer(pointer).is_none_or(Value::is_null) {
            let value = if end == list.len() { json!([]) } else { json!({}) };
            operations.push(json!({"op": "add", "path": pointer, "value": value}));
        }
    }
}

impl Step {
    fn append(list: impl Into<String>, value: impl Into<Value>) -> Option<Step> {
        Some(Step::Append { list: list.into(), value: value.into() })
    }

    fn apply(&self, document: &mut Value) -> Option<()> {
        match self {
            Step::Insert { pointer, value } => {
                let (list, index) = pointer.rsplit_once('/')?;
                let list = document.pointer_mut(list)?.as_array_mut()?;
                let index = index.parse().ok().filter(|index| *index <= list.len())?;
                list.insert(index, value.clone());
            }
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
fn step(
    policy: &Policy,
    document: &Value,
    deny: &Deny,
    subject: &Subject,
    aim: Aim,
) -> Option<Step> {
    match deny.reason {
        Reason::HostDenied if aim == Aim::Permit => host(policy, document, deny, subject),
        Reason::HostDenied => {
            let is_unlisted = policy.is_unlisted(&subject.host, subject.port);
            let rule = bracketed(&subject.host, subject.port);
            is_unlisted.then(|| Step::append("/network/allow", rule)).flatten()
        }
        Reason::EndpointDenied => endpoint(policy, document, deny, subject, aim),
        _ if aim != Aim::Permit => None,
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

fn endpoint(
    policy: &Policy,
    document: &Value,
    deny: &Deny,
    subject: &Subject,
    aim: Aim,
) -> Option<Step> {
    // Rules are in upper case, and methods are compared as sent.
    if subject.method != subject.method.to_ascii_uppercase() {
        return None;
    }
    let path = CanonicalPath::parse(&subject.path).ok()?;
    let path = match aim {
        // As a pattern `/` is every path.
        Aim::Answer { .. } if path.as_str() == "/" => ROOT.to_owned(),
        Aim::Answer { wider: true } => template::of(&path),
        _ => literal_pattern(&path),
    };
    let rule = || match subject.aws() {
        None => json!({ "methods": [subject.method], "paths": [path] }),
        Some(AwsScope { service, region }) => json!({
            "methods": [subject.method], "paths": [path],
            "aws": { "services": [service], "regions": [region] }
        }),
    };
    let endpoints = format!("{}/endpoints", credential(policy, deny)?);
    if let Some(asks) = &deny.rule {
        // The rule that asks stays, and one that permits stands before it.
        let pointer = asks.pointer.rsplit_once("/paths/")?.0.to_owned();
        let is_asking = document.pointer(&format!("{pointer}/ask")) == Some(&Value::Bool(true));
        return is_asking.then(|| Step::Insert { pointer, value: rule() });
    }
    let Some(near) = &deny.nearest else { return Step::append(endpoints, rule()) };
    // From the path of the rule to the rule.
    let nearest = near.rule.pointer.rsplit_once("/paths/")?.0;
    if document.pointer(&format!("{nearest}/ask")) == Some(&Value::Bool(true)) {
        return Step::append(endpoints, rule());
    }
    if near.failed == "aws" || document.pointer(&format!("{nearest}/aws")).is_some() {
        return Step::append(endpoints, rule());
    }
    if near.failed == "method" {
        // A method more permits it for every path of the rule, which nobody asked for.
        if aim != Aim::Permit {
            return Step::append(endpoints, rule());
        }
        return Step::append(format!("{nearest}/methods"), subject.method.as_str());
    }
    let methods = document.pointer(&format!("{nearest}/methods"))?.as_array()?;
    let upper = |known: &Value| {
        known.as_str().is_some_and(|known| known.eq_ignore_ascii_case(&subject.method))
    };
    // A rule for any method would permit more than was asked.
    let any = methods.is_empty() && aim == Aim::Permit;
    if any || (methods.len() == 1 && methods.iter().any(upper)) {
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
