//! A request's whole story: looked up, judged, asked, sent, and for a refusal what would permit it.

use serde_json::Value;

use super::super::policy::line_number;
use super::super::screen::Story;
use super::super::store::Store;
use super::super::text::{Plain, bytes, clock, edit, subject, took, wrap};

/// The title of a record's story.
pub(super) fn title(record: &Value) -> String {
    let (method, subject) = (Plain::of_value(&record["method"]), subject(record));
    let gap = if method.is_empty() { "" } else { " " };
    format!("{method}{gap}{subject}")
}

/// Its lines.
pub(super) fn lines(
    story: &Story,
    told: Option<&Value>,
    store: &Store,
    width: usize,
) -> Vec<String> {
    let record = &story.record;
    let mut steps = vec![("", title(record))];
    let sandbox = Plain::of_value(&record["sandbox"]);
    let verdict = if record["decision"] == "deny" { "refused" } else { "allowed" };
    steps.push(("", format!("{verdict}, {sandbox}, {}", clock(&record["ts"]))));
    if record["decision"] == "deny" {
        steps.push(("To permit", permits(told)));
        if let Some(message) = told.and_then(|told| told["message"].as_str()) {
            steps.push(("Why", message.to_owned()));
        }
    }
    if let Some((clock, is_refused)) = store.lookup(story.source, record) {
        let said = if *is_refused { "the name is not permitted" } else { "permitted" };
        steps.push(("Looked up", format!("{clock}, {said}")));
    }
    steps.push(("Judged", judged(record, told)));
    if let Some(lease) = record["lease"].as_str() {
        let by = store.approval(story.source, lease);
        let by = by.map(|(by, clock)| format!(", given by {by} at {clock}")).unwrap_or_default();
        steps.push(("Permitted", format!("beside the policy, by the lease {lease}{by}")));
    }
    if let Some(credential) = record["credential"].as_str() {
        let used = match verdict {
            "allowed" => ": its key was put in outside the sandbox",
            _ => "",
        };
        steps.push(("Credential", format!("{credential}{used}")));
    }
    sent(record, &mut steps);
    let mut lines = Vec::new();
    for (name, text) in steps {
        paragraph(name, &text, width, &mut lines);
    }
    lines.push(String::new());
    lines.push("The whole record".to_owned());
    for (name, value) in record.as_object().into_iter().flatten() {
        let text = format!("{}: {}", Plain::of(name), Plain::of_value(value));
        paragraph("", &text, width, &mut lines);
    }
    lines
}

fn paragraph(name: &str, text: &str, width: usize, lines: &mut Vec<String>) {
    let wrapped = wrap(text, width.saturating_sub(13));
    for (at, line) in wrapped.into_iter().enumerate() {
        let name = if at == 0 { name } else { "" };
        lines.push(format!(" {name:10}  {line}"));
    }
}

fn permits(told: Option<&Value>) -> String {
    let Some(told) = told else { return "...".to_owned() };
    if told["decision"] == "allow" {
        return "the policy in force permits it by now".to_owned();
    }
    let patch = &told["patches"][0]["patch"];
    match (patch.is_array(), told["edit"].as_str()) {
        (true, _) => format!("{}   (h: for 1 hour)", edit(patch)),
        (false, Some(edit)) => edit.to_owned(),
        (false, None) => "no edit of the rules would permit it".to_owned(),
    }
}

fn judged(record: &Value, told: Option<&Value>) -> String {
    let by = match record["filter"].as_str() {
        Some("network") => "the network rules",
        Some("endpoint") => "the endpoint rules of the credential",
        Some("content") => "the content rules",
        Some(other) => other,
        None => "the policy",
    };
    let is_refused = record["decision"] == "deny";
    let verdict = if is_refused { "refused" } else { "allowed" };
    let rule = record["rule"].as_str().map(|rule| format!(", by the rule {rule}"));
    let why = record["type"].as_str().filter(|_| is_refused).map(|why| format!(" ({why})"));
    let line = told.and_then(|told| {
        let pointer = told["rule"]["pointer"].as_str()?;
        line_number(&told["policy"], pointer)
    });
    let line = line.map(|line| format!(", line {line} of the policy (l)"));
    let all = [rule, why, line].map(Option::unwrap_or_default).concat();
    format!("{verdict} by {by}{all}")
}

fn sent(record: &Value, steps: &mut Vec<(&'static str, String)>) {
    if record["decision"] != "allow" {
        return steps.push(("Sent", "nothing left the sandbox".to_owned()));
    }
    let count = |field: &str| bytes(record[field].as_u64().unwrap_or(0));
    let text = |field: &str| Plain::of_value(&record[field]);
    let to = if text("ip").is_empty() { "no address".into() } else { text("ip").to_string() };
    let port = match record["port"].as_u64() {
        Some(port) => format!(" port {port}"),
        None => String::new(),
    };
    let over = match text("protocol") {
        none if none.is_empty() => String::new(),
        protocol => format!(" over {protocol}"),
    };
    steps.push(("Sent", format!("to {to}{port}{over}, {} up", count("bytes_up"))));
    let status = match text("status") {
        none if none.is_empty() => "no status".to_owned(),
        status => format!("status {status}"),
    };
    let time = took(&record["duration_ms"]);
    let time = if time.is_empty() { time } else { format!(" in {time}") };
    let ended = match record["type"].as_str() {
        Some(ended) => format!(", ended with {ended}"),
        None => String::new(),
    };
    steps.push(("Answered", format!("{status}, {} down{time}{ended}", count("bytes_down"))));
    if let Some(times) = record["key_echoed"].as_u64() {
        steps.push(("Key echoed", format!("{times} times, and replaced each time")));
    }
}
