//! What `run` prints about a run, before and after it.

use std::io::{IsTerminal as _, Write as _};

use super::perform::option;
use super::summary::Shown;
use crate::entrance::WAY_IN;
use crate::notice;
use crate::sandbox::resources::Bounded;

/// What is known when the command starts.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    /// Variables that stay outside because no credential is for them.
    pub(super) withheld: &'a [String],
    /// Variables that stay outside because they hold a key.
    pub(super) with_key: &'a [String],
    /// The address that lets a browser in to the page.
    pub(super) page: Option<&'a str>,
}

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
    /// Prints what starts, which variables are not passed in, and where the page is.
    pub(super) fn before(&self, before: &Before<'_>) {
        let Before { withheld, with_key, page } = *before;
        let unpassed = not_passed(withheld, with_key);
        match &self.summary {
            Some(summary) => summary.before(&self.id, &self.user, &unpassed),
            None if self.quiet || unpassed.is_empty() => {}
            None => {
                let _ = writeln!(std::io::stderr(), "interceptor: not passed in: {unpassed}");
            }
        }
        if let Some(page) = page {
            // What is no terminal may be a file, which the sandbox can perhaps read.
            let plain = page.split_once(WAY_IN).map_or(page, |(plain, _)| plain);
            match std::io::stderr().is_terminal() {
                true => notice::info(format_args!("page at {page}")),
                false => notice::info(format_args!(
                    "page at {plain}/ (interceptor ctl page {} lets you in)",
                    self.id
                )),
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
