//! Leases: a policy with a JSON Patch (RFC 6902) laid over its document. The policy itself stays as
//! it is.
//!
//! A patch may change which hosts, methods and paths are permitted, and nothing else: no key, no
//! limit, nothing that the kernel or a connection without requests is judged by.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Policy;
use super::check;
use super::json::MAX_BYTES;
use super::problem::Problem;
use super::written::Written;

/// The most operations of a patch.
pub const MAX_OPERATIONS: usize = 64;

/// A JSON Patch on a policy's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Patch(json_patch::Patch);

/// Why a patch cannot be laid over a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// The policy was not made from a document.
    #[error("the policy has no document that could be changed")]
    NoDocument,
    /// Too many operations, or a result that is too large.
    #[error(
        "the patch is too large: it may have {MAX_OPERATIONS} operations and may not make the \
             document larger than {MAX_BYTES} bytes"
    )]
    TooLarge,
    /// It changes something that a lease must not.
    #[error(
        "the operation on {0} is none of a lease: it may change the rules below /network/allow \
             and /network/deny, /network_profile, and a credential's `endpoints` and \
             `allow_plaintext`"
    )]
    OutOfBounds(String),
    /// It does not apply to the document.
    #[error("the patch does not apply to the policy: {0}")]
    Unfit(String),
    /// The patched document is not a policy.
    #[error("with the patch, the document is no policy: {}", problems(.0))]
    Invalid(Vec<Problem>),
    /// It changes what the kernel enforces, or what holds for connections without requests.
    #[error("a lease cannot change {0}, which hold for whole connections: replace the policy")]
    Connections(&'static str),
}

fn problems(problems: &[Problem]) -> String {
    let each = problems.iter().map(|problem| format!("{}: {}", problem.pointer, problem.message));
    each.collect::<Vec<_>>().join("; ")
}

impl Patch {
    /// The patch with these operations.
    ///
    /// # Errors
    /// If they are none of RFC 6902.
    pub fn from_value(value: Value) -> Result<Patch, serde_json::Error> {
        serde_json::from_value(value)
    }

    /// As JSON.
    pub fn to_value(&self) -> Value {
        // Operations are made of strings and values.
        serde_json::to_value(&self.0).unwrap_or_default()
    }

    /// Applies it to a document.
    ///
    /// # Errors
    /// If it is too large or does not fit.
    pub fn apply(&self, document: &mut Value) -> Result<(), OverlayError> {
        if self.0.len() > MAX_OPERATIONS {
            return Err(OverlayError::TooLarge);
        }
        for operation in self.0.iter() {
            json_patch::patch(document, std::slice::from_ref(operation))
                .map_err(|error| OverlayError::Unfit(error.to_string()))?;
            // Copies of copies would double it each time.
            let copies = matches!(operation, json_patch::PatchOperation::Copy(_));
            if copies && document.to_string().len() > MAX_BYTES {
                return Err(OverlayError::TooLarge);
            }
        }
        Ok(())
    }

    /// Whether each operation stays within what a lease may change.
    ///
    /// # Errors
    /// Else, with the first that does not.
    pub fn within_bounds(&self) -> Result<(), OverlayError> {
        use json_patch::PatchOperation::{Add, Copy, Move, Remove, Replace, Test};
        for operation in self.0.iter() {
            let (path, from) = match operation {
                Test(_) => continue,
                Add(one) => (&one.path, None),
                Remove(one) => (&one.path, None),
                Replace(one) => (&one.path, None),
                // What is copied may be read anywhere; what is moved is removed there.
                Copy(one) => (&one.path, None),
                Move(one) => (&one.path, Some(&one.from)),
            };
            for pointer in [Some(path), from].into_iter().flatten() {
                if !may_change(pointer.as_str()) {
                    return Err(OverlayError::OutOfBounds(pointer.as_str().to_owned()));
                }
            }
        }
        Ok(())
    }
}

/// Whether a lease may change what is at a pointer.
fn may_change(pointer: &str) -> bool {
    let parts: Vec<&str> = pointer.split('/').skip(1).collect();
    match parts.as_slice() {
        ["network"] | ["network_profile", ..] | ["network", "allow" | "deny", ..] => true,
        ["credentials_v2", _, field, ..] => matches!(*field, "endpoints" | "allow_plaintext"),
        _ => false,
    }
}

impl Policy {
    /// The policy with a patch laid over its document: it permits what the patched document
    /// permits. Credentials keep their numbers.
    ///
    /// # Errors
    /// If the patch does not fit, or changes what no lease may change.
    pub fn overlay(&self, patch: &Patch) -> Result<Policy, OverlayError> {
        let written = self.written.as_ref().ok_or(OverlayError::NoDocument)?;
        patch.within_bounds()?;
        let mut document = written.document();
        patch.apply(&mut document)?;
        let text = Written::text_of(&document, self);
        let report = check(&text, &written.catalogue);
        let policy = report.policy.ok_or(OverlayError::Invalid(report.errors))?;
        let names = |policy: &Policy| -> Vec<String> {
            policy.credentials().iter().map(|one| one.name.clone()).collect()
        };
        if names(&policy) != names(self) {
            return Err(OverlayError::Unfit("it changes the credentials".to_owned()));
        }
        let of = |policy: &Policy| (policy.denied_networks(), policy.allowed_loopback());
        if of(&policy) != of(self) {
            return Err(OverlayError::Connections("denied networks or allowed loopback"));
        }
        let texts = |set: &super::RuleSet| -> Vec<String> {
            set.iter().map(|(_, rule)| rule.text.clone()).collect()
        };
        if texts(&policy.network.allow_tcp) != texts(&self.network.allow_tcp)
            || texts(&policy.passthrough) != texts(&self.passthrough)
        {
            return Err(OverlayError::Connections("`tcp://` and `passthrough` rules"));
        }
        // Nothing is laid over a lease, and its document is the base's. The way out may have a
        // secret, is left out of it, and stays as it is.
        Ok(Policy { written: None, way_out: self.way_out.clone(), ..policy })
    }
}
