//! What `run` prints about a run, before and after it.

use std::io::Write as _;

use super::perform::option;
use super::summary::Shown;
use crate::notice;
use crate::sandbox::resources::Bounded;

/// A run to report on.
pub(super) struct Told {
    /// The summary, if there is one.
    pub(super) summary: Option<Shown>,
    /// The sandbox.
    pub(super) id: String,
    /// The user of the command.
    pub(super) user: String,
    /// Whether warnings are suppressed.
    pub(super) quiet: bool,
}

impl Told {
    /// Prints what starts, and which variables are not passed in: those without a credential, and
    /// those that hold a key.
    pub(super) fn before(&self, withheld: &[String], with_key: &[String]) {
        let unpassed = not_passed(withheld, with_key);
        match &self.summary {
            Some(summary) => summary.before(&self.id, &self.user, &unpassed),
            None if self.quiet || unpassed.is_empty() => {}
            None => {
                let _ = writeln!(std::io::stderr(), "interceptor: not passed in: {unpassed}");
            }
        }
    }

    /// Prints what was allowed and refused.
    pub(super) fn after(&self, is_kept: bool) {
        self.summary.iter().for_each(|summary| summary.after(is_kept));
    }

    /// Reports the limits that the sandbox reached.
    pub(super) fn reached(&self, reached: &[Bounded]) {
        for resource in reached.iter().filter(|_| !self.quiet) {
            let what = match resource {
                Bounded::Processes => "more were refused",
                Bounded::Memory => "processes were killed",
            };
            notice::warning(format_args!(
                "the sandbox reached its limit of {resource}, and {what}; see {}",
                option(*resource)
            ));
        }
    }
}

/// The variables that are not passed in, and why.
fn not_passed(withheld: &[String], with_key: &[String]) -> String {
    let mut reasons = Vec::new();
    if !withheld.is_empty() {
        reasons.push(format!(
            "{} (no credential in the policy; `--env NAME` passes one)",
            withheld.join(", ")
        ));
    }
    if !with_key.is_empty() {
        reasons.push(format!("{} (with a real key of the policy)", with_key.join(", ")));
    }
    reasons.join("; ")
}
