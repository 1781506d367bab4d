//! Learns a policy from audit records: the smallest readable one that permits what was recorded as
//! permitted, and refuses what was recorded as refused.
//!
//! Hosts come from every record, endpoint rules from the requests that a credential authenticated.
//! Keys, hosts and forms of credentials come from a base document where there is one, else from the
//! catalogue. The result is judged against every record before it is returned; what it cannot keep
//! is told ([`Learnt::unkept`]), which happens only with records of policies that contradict each
//! other or when the base is not the policy that made them.

mod assemble;
mod hosts;
mod observed;
mod rules;
pub(super) mod template;
mod write;

use std::collections::BTreeMap;

use serde_json::Value;

use super::catalogue::Catalogue;
use super::problem::Problem;
use super::recorded::Subject;
use super::{Policy, check};

pub use observed::{Observations, Usage};

/// A policy that was learnt.
#[derive(Clone, Debug)]
pub struct Learnt {
    document: Value,
    /// How often and when a part was used, by the JSON pointer to it; empty for the document.
    comments: BTreeMap<String, String>,
    /// What it decides otherwise than was recorded, and whether that was permitted.
    pub unkept: Vec<(Subject, bool)>,
}

impl Learnt {
    /// The document as strict JSON.
    pub fn to_json(&self) -> String {
        write::document(&self.document, &BTreeMap::new())
    }

    /// The document with a comment at each rule: how often and when it was used.
    pub fn to_jsonc(&self) -> String {
        write::document(&self.document, &self.comments)
    }
}

/// Learns a policy. `base` is the document that credentials and everything but rules are taken
/// from. With `include_refused`, what was refused for want of a rule is permitted too.
///
/// # Errors
/// If the base is not a policy, or what was learnt is none, as with more rules than a document may
/// hold.
pub fn learn(
    observed: &Observations,
    base: Option<&Value>,
    catalogue: &Catalogue,
    include_refused: bool,
) -> Result<Learnt, Vec<Problem>> {
    let learnt = attempt(observed, base, catalogue, include_refused, false)?;
    if learnt.unkept.iter().all(|(_, permitted)| !permitted) {
        return Ok(learnt);
    }
    // Rules may have been narrowed by what other credentials of the base refuse anyway.
    let wider = attempt(observed, base, catalogue, include_refused, true)?;
    Ok(if wider.unkept.is_empty() { wider } else { learnt })
}

/// Learns a policy once. With `wide`, a permitted request gets a rule even where that covers
/// something refused.
fn attempt(
    observed: &Observations,
    base: Option<&Value>,
    catalogue: &Catalogue,
    include_refused: bool,
    wide: bool,
) -> Result<Learnt, Vec<Problem>> {
    let base_policy = base.map(|base| compiled(base, catalogue)).transpose()?;
    let aim = assemble::Aim { include_refused, wide };
    let mut draft = assemble::Draft::new(observed, base, base_policy.as_ref(), catalogue, aim)?;
    let mut policy = compiled(&draft.document, catalogue)?;
    // What is refused by more than a missing rule needs a part of the base.
    let allowed: Vec<&Subject> =
        draft.refused.iter().copied().filter(|one| one.judge(&policy).is_allow()).collect();
    if draft.refuse(&allowed, base, base_policy.as_ref(), catalogue) {
        policy = compiled(&draft.document, catalogue)?;
    }
    let differs =
        |subject: &&Subject, permitted: bool| subject.judge(&policy).is_allow() != permitted;
    let permitted = draft.permitted.iter().map(|(subject, _)| *subject);
    let denied = permitted.filter(|one| differs(one, true)).map(|one| (one.clone(), true));
    let allowed = draft.refused.iter().copied().filter(|one| differs(one, false));
    let unkept = denied.chain(allowed.map(|one| (one.clone(), false))).collect();
    let assemble::Draft { document, comments, .. } = draft;
    Ok(Learnt { document, comments, unkept })
}

fn compiled(document: &Value, catalogue: &Catalogue) -> Result<Policy, Vec<Problem>> {
    let report = check(&document.to_string(), catalogue);
    report.policy.ok_or(report.errors)
}
