//! `interceptor ps`: lists the user's own runs.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::daemon::block_on;
use super::daemon::client::{self, ApiRequest};
use super::live::place::{self, RunSocket};
use super::person::Person;
use super::policy_file::printable_json;
use super::table;

/// How long to wait for a run: a stopped one does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The arguments of `interceptor ps`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor ps
  interceptor ctl policy get NAME
  interceptor ctl audit NAME --decision deny

It lists the runs that you started. NAME is a run's id, which `run --name` gives it.")]
pub struct Ps {
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Ps) -> anyhow::Result<ExitCode> {
    let person = Person::invoking()?;
    let runs: Vec<Value> = ask(place::runs(&person)?).into_iter().map(about).collect();
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", printable_json(&format!("{:#}", Value::from(runs))))?;
    } else if runs.is_empty() {
        writeln!(out, "no runs")?;
    } else {
        let heading = ["ID", "USER", "POLICY", "SINCE", "ALLOWED", "REFUSED", "COMMAND"];
        let rows: Vec<Vec<String>> = runs.iter().map(row).collect();
        table::print(&mut out, &heading, &rows, &[4, 5])?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Each run's description of itself, sorted by id; only the id of one that does not answer in time.
pub(super) fn ask(runs: Vec<RunSocket>) -> Vec<Value> {
    let asked = block_on(async {
        let mut asking = JoinSet::new();
        for run in runs {
            asking.spawn(async move {
                let said = tokio::time::timeout(PATIENCE, say(&run)).await.ok().flatten();
                said.unwrap_or_else(|| json!({ "id": run.id }))
            });
        }
        Ok(asking.join_all().await)
    });
    let mut asked = asked.unwrap_or_default();
    asked.sort_by(|one, other| one["id"].as_str().cmp(&other["id"].as_str()));
    asked
}

async fn say(run: &RunSocket) -> Option<Value> {
    let answer = client::ask(&run.address(), ApiRequest::get("/v1/sandboxes")).await.ok()?;
    let list: Value = serde_json::from_slice(&answer.body).ok()?;
    list["sandboxes"].as_array()?.first().cloned()
}

/// A run as a row of the list.
fn about(run: Value) -> Value {
    json!({
        "id": run["id"],
        "user": run["user"],
        "policy": run["policy_name"],
        "since": run["created"],
        "allowed": run["allowed"],
        "refused": run["denied"],
        "command": run["command"],
    })
}

fn row(run: &Value) -> Vec<String> {
    let text = |field: &str| match &run[field] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    // In local time, to the minute.
    let since = run["since"].as_str().and_then(|since| since.parse::<Timestamp>().ok());
    let since = since.map(|since| since.to_zoned(TimeZone::system()).strftime("%F %R").to_string());
    let command = match run["command"] {
        Value::Null => "(does not answer)".to_owned(),
        _ => text("command"),
    };
    vec![
        text("id"),
        text("user"),
        text("policy"),
        since.unwrap_or_else(|| "-".to_owned()),
        text("allowed"),
        text("refused"),
        command,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_row_and_one_that_does_not_answer_is_one_too() {
        let run = about(json!({
            "id": "web", "user": "me", "policy_name": "p.json", "allowed": 3, "denied": 1,
            "created": "2026-01-31T12:00:00.123456Z", "command": "my-agent --fast",
        }));
        let row = row(&run);
        assert_eq!((row[0].as_str(), row[4].as_str(), row[5].as_str()), ("web", "3", "1"));
        assert!(row[3].starts_with("2026-01-3") || row[3].starts_with("2026-02-01"), "{row:?}");
        assert_eq!(row[6], "my-agent --fast");
        let stopped = super::row(&about(json!({ "id": "web" })));
        assert_eq!(stopped, ["web", "-", "-", "-", "-", "-", "(does not answer)"]);
    }
}
