//! `interceptor ctl approvals`, `approve`, `refuse`: answers what sandboxes ask.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::{Value, json};

use super::always::for_good;
use super::print;
use super::to::DaemonClient;
use crate::cli::daemon::client::ApiRequest;
use crate::cli::daemon::events::{self, encoded};
use crate::cli::policy_file::{printable, printable_json};
use crate::cli::table;
use crate::words;

/// The most characters of a path in a table; `--json` shows all of it.
const MOST_SHOWN: usize = 120;

/// The arguments of `interceptor ctl approve`.
#[derive(Debug, clap::Args)]
pub(super) struct Approve {
    /// The question, as `ctl approvals` lists it.
    #[arg(value_name = "ID")]
    id: String,
    /// Permit for this long, e.g. 30s, 15m, 1h or 2d [default: only the requests that wait].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// Permit this many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    uses: Option<u64>,
    /// Permit similar paths too, as the question's second patch says.
    #[arg(long)]
    wider: bool,
    /// Also write the edit into the policy's file; comments stay.
    #[arg(long)]
    always: bool,
}

impl Approve {
    /// What is answered to a question as it was listed. Requests that came later are not approved,
    /// unless a time or a number says so.
    fn answer(&self, question: Option<&Value>) -> anyhow::Result<Value> {
        let mut body = json!({ "decision": "allow" });
        let mut uses = self.uses;
        // A question that is not listed is decided or unknown: the daemon says which.
        if let Some(question) = question {
            let patches = question["patches"].as_array().map(Vec::as_slice).unwrap_or_default();
            let chosen = patches.iter().find(|patch| patch["wider"] == self.wider);
            let Some(chosen) = chosen.filter(|patch| patch["patch"].is_array()) else {
                bail!("the question has no wider patch; approve it without --wider");
            };
            body["patch"] = chosen["patch"].clone();
            if self.time.is_none() {
                uses = uses.or(question["waiting"].as_u64());
            }
        }
        if let Some(time) = self.time {
            body["seconds"] = time.as_secs().into();
        }
        if let Some(uses) = uses {
            body["uses"] = uses.into();
        }
        Ok(body)
    }
}

/// A time such as `90s`, `15m`, `1h` or `2d`; a number alone is seconds.
pub(in crate::cli) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write a time such as 30s, 15m, 1h or 2d".to_owned();
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// `ctl approvals`.
pub(super) fn list(all: &[DaemonClient], watch: bool) -> anyhow::Result<()> {
    if !watch {
        let asked: Vec<Value> = all.iter().zip(asked(all)?).flat_map(|(_, list)| list).collect();
        return all.last().map_or(Ok(()), |to| to.print(&asked.into(), show));
    }
    std::thread::scope(|scope| {
        let followed: Vec<_> = all.iter().map(|to| scope.spawn(|| follow(to))).collect();
        let ends: Vec<_> = followed.into_iter().filter_map(|one| one.join().ok()).collect();
        match ends.iter().any(Result::is_ok) {
            true => Ok(()),
            false => ends.into_iter().next_back().unwrap_or(Ok(())),
        }
    })
}

/// The questions of all daemons and runs; an error if none of them answers.
fn asked(all: &[DaemonClient]) -> anyhow::Result<Vec<Vec<Value>>> {
    let lists = DaemonClient::get_of_all(all, "/v1/approvals");
    if lists.iter().all(Result::is_err) {
        lists.into_iter().next_back().transpose()?;
        return Ok(Vec::new());
    }
    let list = |list: anyhow::Result<Value>| match list {
        Ok(Value::Array(list)) => list,
        // A run that has just ended, or no daemon.
        _ => Vec::new(),
    };
    Ok(lists.into_iter().map(list).collect())
}

fn follow(to: &DaemonClient) -> anyhow::Result<()> {
    let json = to.json;
    Ok(events::follow(&to.whom.socket, "/v1/approvals/events", None, |event| {
        let mut out = io::stdout().lock();
        if json {
            let data = printable_json(&event.data);
            writeln!(out, "{{\"event\":{},\"data\":{data}}}", Value::from(event.name))?;
        } else {
            let question: Value = serde_json::from_str(&event.data).unwrap_or_default();
            writeln!(out, "{}", line(&event.name, &question))?;
        }
        out.flush()
    })?)
}

/// The questions as a table, and what each would permit.
fn show(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let questions = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if questions.is_empty() {
        return writeln!(out, "nothing waits for an answer");
    }
    let rows: Vec<Vec<String>> = questions
        .iter()
        .map(|one| {
            let text = |field: &str| print::text(&one[field]);
            vec![
                text("id"),
                text("sandbox"),
                text("waiting"),
                time(&one["expires_at"]),
                format!("{}:{}", text("host"), text("port")),
                text("method"),
                shortened(&text("path")),
            ]
        })
        .collect();
    let heading = ["ID", "SANDBOX", "WAITING", "UNTIL", "HOST", "METHOD", "PATH"];
    table::print(out, &heading, &rows, &[2])?;
    for one in questions {
        writeln!(out)?;
        writeln!(out, "{}: {}", print::text(&one["id"]), print::text(&one["message"]))?;
        for patch in one["patches"].as_array().into_iter().flatten() {
            let which = if patch["wider"] == true { "--wider would permit" } else { "permits" };
            writeln!(out, "  {which}: {}", operations(&patch["patch"]))?;
        }
    }
    Ok(())
}

/// An event in one line.
fn line(name: &str, question: &Value) -> String {
    if name == "dropped" {
        let count = question["dropped"].as_u64().unwrap_or_default();
        return format!("{} were not shown", words::count(count, "event"));
    }
    let text = |field: &str| print::text(&question[field]);
    format!(
        "{} {} {}: {} {}:{}{} ({} waiting)",
        printable(name),
        text("id"),
        text("sandbox"),
        text("method"),
        text("host"),
        text("port"),
        shortened(&text("path")),
        text("waiting"),
    )
}

/// A patch in one line: each value and the list it is added to.
fn operations(patch: &Value) -> String {
    let each = patch.as_array().into_iter().flatten().map(|one| {
        let (path, value) = (print::text(&one["path"]), printable_json(&one["value"].to_string()));
        format!("{} {value} at {path}", print::text(&one["op"]))
    });
    each.collect::<Vec<_>>().join(", ")
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= MOST_SHOWN {
        return text.to_owned();
    }
    text.chars().take(MOST_SHOWN).chain(['…']).collect()
}

/// The time of day of a timestamp.
fn time(value: &Value) -> String {
    let text = print::text(value);
    text.get(11..19).map_or(text.clone(), |time| format!("{time}Z"))
}

/// `ctl approve`.
pub(super) fn approve(all: &[DaemonClient], arguments: &Approve) -> anyhow::Result<()> {
    let Approve { id, time, uses, always, .. } = arguments;
    let (to, question) = whose(all, id)?;
    let body = arguments.answer(question.as_ref())?;
    let (decided, file) = match &question {
        Some(question) if *always => {
            let sandbox = question["sandbox"].as_str().unwrap_or_default();
            let (decided, file) = for_good(to, sandbox, id, &body)?;
            (decided, Some(file))
        }
        _ => (decide(to, id, &body)?, None),
    };
    to.print(&decided, |out, value| {
        let lease = &value["lease"];
        let end = match (&lease["until"], &lease["uses"]) {
            (Value::Null, left) if time.is_none() && uses.is_none() => {
                let more = match left.as_u64() {
                    // Some of them gave up.
                    Some(1..) => format!(", and {} more", requests(left)),
                    _ => String::new(),
                };
                format!("for the requests that waited{more}")
            }
            (Value::Null, left) => format!("for {} more", requests(left)),
            (until, Value::Null) => format!("until {}", print::text(until)),
            (until, left) => {
                format!("until {} or for {} more", print::text(until), requests(left))
            }
        };
        writeln!(out, "{}: approved {end}", print::text(&value["id"]))?;
        match &file {
            Some(file) => writeln!(out, "{}: the edit is in it", printable(file)),
            None => Ok(()),
        }
    })
}

fn requests(left: &Value) -> String {
    words::count(left.as_u64().unwrap_or_default(), "request")
}

/// `ctl refuse`.
pub(super) fn refuse(all: &[DaemonClient], id: &str) -> anyhow::Result<()> {
    let (to, _) = whose(all, id)?;
    let decided = decide(to, id, &json!({ "decision": "deny" }))?;
    to.print(&decided, |out, value| writeln!(out, "{}: refused", print::text(&value["id"])))
}

/// The daemon or run that has this question, and the question. If none has it, the last one that
/// answers reports that.
fn whose<'a>(
    all: &'a [DaemonClient],
    id: &str,
) -> anyhow::Result<(&'a DaemonClient, Option<Value>)> {
    let asked = all.iter().zip(asked(all)?);
    let mut found = asked.filter_map(|(to, list)| {
        let question = list.into_iter().find(|one| one["id"] == *id)?;
        Some((to, Some(question)))
    });
    if let Some(first) = found.next() {
        if found.next().is_some() {
            bail!("several runs ask {}: name the socket of one with --control", printable(id));
        }
        return Ok(first);
    }
    let healthy = DaemonClient::get_of_all(all, "/healthz");
    let answers = all.iter().zip(healthy).rev().find(|(_, health)| health.is_ok());
    let last = answers.map(|(to, _)| to).or(all.last());
    last.map(|to| (to, None)).context("no daemon and no run answers")
}

/// Answers a question: the decision, with the lease that it gave.
///
/// # Errors
/// If the daemon refuses, or does not answer.
pub(in crate::cli) fn decide(to: &DaemonClient, id: &str, body: &Value) -> anyhow::Result<Value> {
    let path = format!("/v1/approvals/{}", encoded(id));
    let body = Some(("application/json", body.to_string().into_bytes()));
    to.value(ApiRequest { method: Method::POST, path, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_do() {
        for (text, seconds) in
            [("30", 30), ("30s", 30), ("15m", 900), ("1h", 3600), ("2d", 172_800)]
        {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for wrong in ["", "h", "0s", "-1s", "1w", "1.5h", "99999999999999999999d", "1h30m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_approval_is_for_the_requests_that_were_listed_unless_it_says_otherwise() {
        let patch = |wider: bool| json!({ "patch": [{ "op": "test" }, wider], "wider": wider });
        let question = json!({ "waiting": 3, "patches": [patch(false), patch(true)] });
        let plain =
            Approve { id: "q".to_owned(), time: None, uses: None, wider: false, always: false };
        let answer = |approve: &Approve| approve.answer(Some(&question)).unwrap();
        let permits = |wider: bool| json!([{ "op": "test" }, wider]);
        let expected = json!({ "decision": "allow", "patch": permits(false), "uses": 3 });
        assert_eq!(answer(&plain), expected);
        let approve = Approve { uses: Some(1), wider: true, ..plain };
        let expected = json!({ "decision": "allow", "patch": permits(true), "uses": 1 });
        assert_eq!(answer(&approve), expected);
        let approve = Approve { uses: None, time: Some(Duration::from_secs(60)), ..approve };
        let expected = json!({ "decision": "allow", "patch": permits(true), "seconds": 60 });
        assert_eq!(answer(&approve), expected);
        assert_eq!(approve.answer(None).unwrap(), json!({ "decision": "allow", "seconds": 60 }));
    }

    #[test]
    fn o2_nothing_that_a_sandbox_chose_steers_the_terminal_or_makes_a_row() {
        let hostile = "\u{1b}[2J\u{1b}]0;x\u{7}\n\u{202e}q7  other  1  GET";
        let question = json!({
            "id": "q1", "sandbox": "s1", "waiting": 1, "expires_at": "2030-01-31T12:00:05.000000Z",
            "host": hostile, "port": 443, "method": hostile,
            "path": format!("/{hostile}{}", "a".repeat(9000)),
            "message": hostile,
            "patches": [{
                "patch": [{ "op": "add", "path": hostile, "value": hostile }],
                "wider": false,
            }],
        });
        let mut out = Vec::new();
        show(&mut out, &json!([question])).unwrap();
        let text = String::from_utf8(out).unwrap() + &line("asked", &question);
        let steers = |c: char| c != '\n' && crate::audit::steers_or_hides(c);
        assert!(!text.chars().any(steers), "{text:?}");
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 800), "{text}");
    }
}
