//! What `run` prints at a terminal: one line before the command, and afterwards what was permitted
//! and refused, with the edits that would permit it.
//!
//! Hosts, methods and paths come from the sandbox, so they are escaped for the terminal.

mod tally;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use interceptor_policy::{Catalogue, Edit, Recorded};
use serde_json::Value;

use self::tally::{Refusal, Tally, Watcher};
use super::policy_file::printable;
use super::{Common, colours, registries};
use crate::audit::Audit;
use crate::words;

/// The width of lines.
const WIDTH: usize = 80;
/// How many refusals are shown.
const MOST_SHOWN: usize = 20;

/// The option of `run`.
#[derive(Debug, clap::Args)]
pub(super) struct Summary {
    /// Print to standard error what the sandbox is and, at the end, what was allowed and refused
    /// [default: auto, at a terminal].
    #[arg(long, value_enum, value_name = "WHEN")]
    summary: Option<When>,
}

/// When the summary is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    /// Even if standard error is not a terminal.
    Always,
    /// At a terminal.
    Auto,
    /// Not at all.
    Never,
}

/// A run whose summary will be shown.
pub(super) struct Shown {
    tally: Arc<Mutex<Tally>>,
    /// The name of the policy, and its document without keys.
    policy: Value,
    colour: bool,
}

impl Summary {
    /// Starts to count what is permitted and refused, if there will be a summary.
    pub(super) fn begin(&self, audit: &Audit, common: &Common, policy: Value) -> Option<Shown> {
        let shown = match self.summary.unwrap_or(When::Auto) {
            When::Always => true,
            When::Auto => io::stderr().is_terminal() && !common.quiet,
            When::Never => false,
        };
        if !shown {
            return None;
        }
        let tally = Arc::new(Mutex::new(Tally::default()));
        audit.observe(Box::new(Watcher(Arc::clone(&tally))));
        let colour = colours(&io::stderr());
        Some(Shown { tally, policy, colour })
    }
}

impl Shown {
    /// Prints what the sandbox is. `outside` says what was left out of its environment.
    pub(super) fn before(&self, sandbox: &str, user: &str, outside: &str) {
        let policy = self.policy["name"].as_str().unwrap_or_default();
        let mut text = format!("interceptor: sandbox {sandbox}, user {user}, policy {policy}");
        if !outside.is_empty() {
            text.push_str("; not passed in: ");
            text.push_str(outside);
        }
        say(&wrapped(&printable(&text), 0, 4));
    }

    /// Prints what was permitted and refused; call after the last record.
    pub(super) fn after(&self, is_kept: bool) {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        // Without the operator's profiles, edits would be judged under another policy.
        let catalogue = registries::catalogue(None).ok();
        // The operator's policy is not the user's to read, let alone to edit.
        let catalogue = catalogue.filter(|_| !self.policy["document"].is_null());
        let document = &self.policy["document"];
        let edit = |record: &Recorded| edit_for(document, catalogue.as_ref()?, record);
        say(&summary(&tally, edit, self.colour, is_kept));
    }
}

/// The record, with its address as the host if it names none.
pub(super) fn with_host(record: &Recorded) -> Recorded {
    let mut record = record.clone();
    if record.host.is_none() {
        record.host = record.ip.map(|address| address.to_string());
    }
    record
}

/// The edit of the policy document that would permit what a record describes.
pub(super) fn edit_for(document: &Value, catalogue: &Catalogue, record: &Recorded) -> Option<Edit> {
    Edit::permitting(document, catalogue, &with_host(record).subject()?)
}

/// The text of the summary.
fn summary(
    tally: &Tally,
    edit: impl Fn(&Recorded) -> Option<Edit>,
    colour: bool,
    is_kept: bool,
) -> String {
    let paint = |text: String, code: &str| match colour {
        true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        false => text,
    };
    let refusals = tally.refusals();
    let refused: u64 = refusals.iter().map(|refusal| refusal.count).sum::<u64>() + tally.others;
    let count = |number: u64, code: &str, what: &str| {
        let text = format!("{number} {what}");
        if number > 0 { paint(text, code) } else { text }
    };
    let mut out = format!(
        "interceptor: {}, {}\n",
        count(
            tally.allowed,
            "32",
            if tally.allowed == 1 { "request allowed" } else { "requests allowed" }
        ),
        count(refused, "31", "refused")
    );
    for refusal in refusals.iter().take(MOST_SHOWN) {
        let count = format!("{:>5}x ", refusal.count);
        let what = cut(&printable(&subject(refusal)), WIDTH - count.len());
        out.push_str(&paint(format!("{count}{what}"), "31"));
        out.push('\n');
        let permit = match edit(&refusal.record) {
            Some(edit) => format!("to permit: {edit}"),
            None => {
                let reason = refusal.record.reason.as_deref().unwrap_or("refused");
                format!("{reason}: interceptor why {}", refusal.record.id)
            }
        };
        out.push_str(&wrapped(&printable(&permit), 7, 9));
    }
    let hidden: u64 =
        refusals.iter().skip(MOST_SHOWN).map(|refusal| refusal.count).sum::<u64>() + tally.others;
    if hidden > 0 {
        out.push_str(&format!("       and {} more\n", words::count(hidden, "refusal")));
    }
    if refused > 0 && is_kept {
        out.push_str("       more: interceptor why, interceptor audit last --decision deny\n");
    }
    out
}

/// What was refused, in a few words.
pub(super) fn subject_of(record: &Recorded) -> String {
    let host = record.host.clone().or_else(|| record.ip.map(|ip| ip.to_string()));
    let host = host.unwrap_or_default();
    let port = |usual: &[u16]| {
        let port = record.port.filter(|port| !usual.contains(port));
        port.map(|port| format!(":{port}")).unwrap_or_default()
    };
    match record.kind.as_str() {
        "request" => {
            let method = record.method.as_deref().unwrap_or("?");
            let path = record.path.as_deref().unwrap_or_default();
            format!("{method} {host}{}{path}", port(&[80, 443]))
        }
        "dns" => format!("look-up of {host}"),
        _ => {
            let protocol = record.protocol.as_deref().unwrap_or("connection to");
            format!("{protocol} {host}{}", port(&[]))
        }
    }
}

fn subject(refusal: &Refusal) -> String {
    subject_of(&refusal.record)
}

/// Cuts a text to a number of columns.
fn cut(text: &str, columns: usize) -> String {
    match text.char_indices().nth(columns) {
        None => text.to_owned(),
        Some(_) => text.chars().take(columns - 1).chain(['…']).collect(),
    }
}

/// A paragraph wrapped at [`WIDTH`], with a final line feed. A word is never broken, so that it can
/// be copied.
pub(super) fn wrapped(text: &str, first: usize, then: usize) -> String {
    let mut out = " ".repeat(first);
    let mut column = first;
    let mut is_begun = false;
    for word in text.split(' ') {
        let length = word.chars().count();
        if is_begun && column + 1 + length > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(then));
            column = then;
        } else if is_begun {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        is_begun = true;
    }
    out.push('\n');
    out
}

fn say(text: &str) {
    // Standard error may be closed or full.
    let _ = io::stderr().write_all(text.as_bytes());
}
