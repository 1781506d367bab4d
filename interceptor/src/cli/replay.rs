//! `interceptor replay`: shows what a new policy would change for the requests in an audit file;
//! exit 1 if anything, so that CI can test a policy change against real traffic.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use interceptor_policy::{Decision, Reason, Recorded};
use serde_json::{Value, json};

use super::history::PastRun;
use super::policy_file::printable;
use super::{audit_file, given, registries};
use crate::words;

/// The arguments of `interceptor replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor replay --policy new.json --audit audit.jsonl
  interceptor replay --policy new.json --audit audit.jsonl --json
  interceptor replay --policy new.json --last          (your last `run`)

A record has no scheme: port 80 counts as http, all others as https. It has no headers and no \
                        query either: requests refused for those are skipped, and counted by \
                        reason.

Exit status: 0 nothing would change, 1 something would, 2 no answer (invalid arguments or files).")]
pub struct Replay {
    /// The new policy: a file, a name as for `run`, or `-` for standard input.
    #[arg(long, value_name = "FILE|NAME")]
    policy: PathBuf,
    /// The audit file to replay.
    #[arg(long, value_name = "FILE", required_unless_present = "last")]
    audit: Option<PathBuf>,
    /// Replay the records of your last `run`.
    #[arg(long, conflicts_with = "audit")]
    last: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The directory of the operator's own profiles.
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
}

/// What was requested: method (or kind of connection), host, port and path.
type ReplayKey = (String, String, u16, String);

/// One subject whose decision would change.
#[derive(Default)]
struct Change {
    records: u64,
    /// Why it would be denied now.
    message: Option<String>,
    reason: Option<&'static str>,
}

/// What would change.
#[derive(Default)]
struct Changes {
    denied: BTreeMap<ReplayKey, Change>,
    allowed: BTreeMap<ReplayKey, Change>,
    judged: u64,
    /// Records that cannot be judged again, by reason.
    skipped: BTreeMap<String, u64>,
    /// Records of other kinds than requests and connections.
    others: u64,
}

/// Runs the command.
pub fn run(arguments: Replay) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(arguments.profiles_dir.as_deref())?;
    let policy = given::load(&arguments.policy, &catalogue)?;
    let mut changes = Changes::default();
    let take = |record: Recorded| {
        if matches!(record.kind.as_str(), "request" | "connection") {
            let decision = record.permitted().zip(record.judge(&policy));
            changes.add(&record, decision);
        } else {
            changes.others += 1;
        }
        true
    };
    let unreadable = match &arguments.audit {
        Some(audit) => audit_file::each(audit, take)?,
        None => {
            let run = PastRun::last()?;
            audit_file::each_of(run.records, &run.path, take)?
        }
    };
    if unreadable > 0 {
        changes.skipped.insert("unreadable".to_owned(), unreadable);
    }
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{:#}", changes.as_json())?;
    } else {
        changes.print(&mut out)?;
    }
    let changed = !(changes.denied.is_empty() && changes.allowed.is_empty());
    Ok(ExitCode::from(u8::from(changed)))
}

impl Changes {
    fn add(&mut self, record: &Recorded, decision: Option<(bool, Decision)>) {
        let Some((permitted, decision)) = decision else {
            let known = Reason::ALL.into_iter().map(Reason::as_str);
            let why = known.into_iter().find(|known| Some(*known) == record.reason.as_deref());
            *self.skipped.entry(why.unwrap_or("incomplete").to_owned()).or_default() += 1;
            return;
        };
        self.judged += 1;
        let changes = match (&decision, permitted) {
            (Decision::Deny(_), true) => &mut self.denied,
            (Decision::Allow(_), false) => &mut self.allowed,
            _ => return,
        };
        let what = record
            .method
            .clone()
            .or_else(|| record.protocol.clone())
            .unwrap_or_else(|| record.kind.clone());
        let subject = (
            what,
            record.host.clone().unwrap_or_default(),
            record.port.unwrap_or_default(),
            record.path.clone().unwrap_or_default(),
        );
        let change = changes.entry(subject).or_default();
        change.records += 1;
        if let Decision::Deny(deny) = decision {
            change.message.get_or_insert(deny.message);
            change.reason.get_or_insert(deny.reason.as_str());
        }
    }

    fn as_json(&self) -> Value {
        let list = |changes: &BTreeMap<ReplayKey, Change>| -> Vec<Value> {
            changes
                .iter()
                .map(|((method, host, port, path), change)| {
                    json!({
                        "method": method, "host": host, "port": port, "path": path,
                        "records": change.records, "type": change.reason, "message": change.message,
                    })
                })
                .collect()
        };
        json!({
            "newly_denied": list(&self.denied),
            "newly_allowed": list(&self.allowed),
            "judged": self.judged,
            "skipped": self.skipped.values().sum::<u64>(),
            "skipped_for": self.skipped,
            "other_kinds": self.others,
            "records": self.records(),
        })
    }

    fn records(&self) -> u64 {
        self.judged + self.skipped.values().sum::<u64>() + self.others
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (title, changes) in [("newly denied", &self.denied), ("newly allowed", &self.allowed)] {
            for ((method, host, port, path), change) in changes {
                let subject = printable(&format!("{method} {host}:{port}{path}"));
                writeln!(out, "{title}  {subject}  ({} recorded)", change.records)?;
                if let Some(message) = &change.message {
                    writeln!(out, "    {}", printable(message))?;
                }
            }
        }
        let reasons: Vec<_> =
            self.skipped.iter().map(|(reason, records)| format!("{records} {reason}")).collect();
        let reasons = match reasons[..] {
            [] => String::new(),
            _ => format!(" ({})", reasons.join(", ")),
        };
        writeln!(
            out,
            "{}: {} judged, {} skipped{reasons}, {} of other kinds: {} newly denied, {} newly \
             allowed",
            words::count(self.records(), "record"),
            self.judged,
            self.skipped.values().sum::<u64>(),
            self.others,
            self.denied.len(),
            self.allowed.len()
        )
    }
}
