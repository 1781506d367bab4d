//! The oracles: see [`super`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Lab;
use crate::audit::Record;
use crate::canary;
use crate::origin::record::Seen;

impl Lab {
    /// The objections of the three oracles.
    pub fn judge(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.judge_reach(&mut problems);
        self.judge_canary(&mut problems);
        self.judge_agreement(&mut problems);
        problems
    }

    fn judge_reach(&self, problems: &mut Vec<String>) {
        if let Some(reached) = self.forbidden.reached() {
            problems.push(format!("reach: the forbidden destination received {reached}"));
        }
        self.judge_names(problems);
        let runs = self.runs.lock().expect("no test thread panicked");
        for sweep in runs.iter().filter_map(|run| run.sweep.as_ref()) {
            let isolated = sweep.isolated;
            let sweep = match fs::read(&sweep.file) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound && !sweep.required => continue,
                Err(error) => {
                    let file = sweep.file.display();
                    problems.push(format!(
                        "canary: the sweep of a sandbox is missing: {file}: {error}"
                    ));
                    continue;
                }
            };
            let text = String::from_utf8_lossy(&sweep);
            let devices = text
                .split("== /proc/net/dev\n")
                .nth(1)
                .map(|part| part.split("\n== ").next().unwrap_or(part));
            let other = devices
                .unwrap_or("the sweep lists no devices: x")
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(device, _)| device.trim() != "lo");
            if let (true, Some((device, _))) = (isolated, other) {
                problems.push(format!(
                    "reach: an isolated sandbox had the network device {:?}",
                    device.trim()
                ));
            }
        }
    }

    /// A policy names every name that an origin was asked for, or a service or profile of a policy
    /// allowed it.
    fn judge_names(&self, problems: &mut Vec<String>) {
        let runs = self.runs.lock().expect("no test thread panicked");
        let policies = self.policies.lock().expect("no test thread panicked");
        // A test without either runs the product in its own process, and checks itself.
        if runs.is_empty() {
            return;
        }
        let records = || runs.iter().flat_map(|run| &run.audit);
        for name in self.ca.asked() {
            let allowed = records().any(|r| {
                r.decision.as_deref() == Some("allow") && r.host.as_deref() == Some(&name)
            });
            if !allowed && !policies.iter().any(|policy| names(policy, &name)) {
                problems.push(format!(
                    "reach: an origin was asked for {name:?}, which no policy permits"
                ));
            }
        }
    }

    fn judge_canary(&self, problems: &mut Vec<String>) {
        let keys = self.keys.lock().expect("no test thread panicked");
        let search = canary::Search::new(keys.iter().map(String::as_str));
        for run in self.runs.lock().expect("no test thread panicked").iter() {
            for (what, bytes) in &run.transcript {
                problems
                    .extend(search.find(bytes).map(|found| format!("canary: in {what}: {found}")));
            }
        }
        let work = self.work();
        for found in below(&work) {
            let path = found.path.strip_prefix(&work).unwrap_or(&found.path).display().to_string();
            let name = found.path.as_os_str().as_encoded_bytes();
            let held = found.content.as_ref().ok().and_then(|bytes| search.find(bytes));
            problems.extend(held.map(|held| format!("canary: in {path}: {held}")));
            problems.extend(
                search.find(name).map(|held| format!("canary: in the name of a file: {held}")),
            );
            if let Err(error) = found.content {
                problems.push(format!("canary: {path} cannot be read: {error}"));
            }
        }
    }

    fn judge_agreement(&self, problems: &mut Vec<String>) {
        let leniency = self.leniency.lock().expect("no test thread panicked");
        let runs = self.runs.lock().expect("no test thread panicked");
        let records =
            || runs.iter().flat_map(|run| &run.audit).filter(|record| record.kind == "request");
        let mut allowed: Vec<String> = records()
            .filter(|r| r.is_request("allow") && !is_given_up(r))
            .map(Record::line)
            .collect();
        allowed
            .retain(|line| !leniency.unseen.iter().any(|host| line.contains(&format!(" {host}/"))));
        // If the origin's answer to a permitted request fails, the record is a refusal for the
        // origin's fault, and the origin may or may not have parsed the request. The same holds if
        // the client gave up before the answer.
        let failed = |record: &&Record| {
            let reason = record.reason.as_deref();
            record.is_request("deny")
                && reason.is_some_and(|reason| reason.starts_with("upstream_"))
                || is_given_up(record)
        };
        let mut faults: BTreeMap<String, usize> = BTreeMap::new();
        for record in records().filter(failed) {
            *faults.entry(record.line()).or_default() += 1;
        }
        let mut seen: Vec<String> = self.seen().iter().map(Seen::line).collect();
        seen.retain(|line| {
            let tunnelled =
                leniency.tunnelled.iter().any(|host| line.contains(&format!(" {host}/")));
            let fault = faults.get_mut(line).filter(|left| **left > 0);
            let excused = fault.is_some();
            if let Some(left) = fault {
                *left -= 1;
            }
            !tunnelled && !excused
        });
        if leniency.unordered {
            allowed.sort();
            seen.sort();
        }
        if leniency.audit_lost && leniency.unordered {
            let mut told = allowed.clone();
            seen.retain(|line| {
                told.iter().position(|known| known == line).map(|at| told.swap_remove(at)).is_some()
            });
        } else if leniency.audit_lost {
            seen.truncate(allowed.len());
        }
        if allowed != seen {
            let text = |lines: &[String]| {
                lines.iter().map(|line| format!("\n    {line}")).collect::<String>()
            };
            problems.push(format!(
                "agreement: the audit file allowed {} requests:{}\n  the origins parsed {}:{}",
                allowed.len(),
                text(&allowed[..allowed.len().min(40)]),
                seen.len(),
                text(&seen[..seen.len().min(40)])
            ));
        }
    }
}

/// Whether the client gave a permitted request up before it was answered.
fn is_given_up(record: &Record) -> bool {
    record.is_request("allow")
        && record.reason.as_deref() == Some("aborted")
        && record.status.is_none()
}

/// Something that a sandbox left behind.
struct Left {
    path: PathBuf,
    /// The content of a file, or the target of a link, which may also contain the key.
    content: io::Result<Vec<u8>>,
}

/// Everything below a directory except directories, and unreadable ones.
fn below(directory: &Path) -> Vec<Left> {
    let mut left = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries =
            match fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
                Ok(entries) => entries,
                Err(error) => {
                    left.push(Left { path: directory, content: Err(error) });
                    continue;
                }
            };
        for entry in entries {
            let path = entry.path();
            let content = match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    directories.push(path.clone());
                    Ok(Vec::new())
                }
                Ok(kind) if kind.is_file() => fs::read(&path),
                // Links are not followed: root may find a target that the sandbox could not read.
                Ok(kind) if kind.is_symlink() => {
                    fs::read_link(&path).map(|target| target.into_os_string().into_encoded_bytes())
                }
                Ok(_) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
            left.push(Left { path, content });
        }
    }
    left
}

/// Whether a policy names a host other than to deny it: directly, by a wildcard, or in a base URL.
fn names(policy: &str, host: &str) -> bool {
    fn within(value: &Value, host: &str) -> bool {
        match value {
            Value::String(text) => {
                let text = text.split_once("://").map_or(&text[..], |(_, rest)| rest);
                let text = text.split(['/', ':']).next().unwrap_or_default().to_ascii_lowercase();
                match text.trim_start_matches('*') {
                    "" => !text.is_empty(),
                    below if below.starts_with('.') => host.ends_with(below),
                    name => name == host,
                }
            }
            Value::Array(all) => all.iter().any(|one| within(one, host)),
            Value::Object(fields) => {
                fields.iter().any(|(name, value)| name != "deny" && within(value, host))
            }
            _ => false,
        }
    }
    serde_json::from_str(policy).is_ok_and(|policy| within(&policy, host))
}
