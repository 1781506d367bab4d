//! `interceptor audit stats`: counts requests by decision, sandbox, host and path.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::filter::{RecordFilter, Since};
use super::lines::{Line, Lines};
use super::record::ParsedRecord;
use super::{pattern, show, tail};
use crate::cli::daemon::events;
use crate::cli::policy_file::printable_json;
use crate::cli::table;
use crate::cli::whom::Whom;
use crate::files;
use crate::words;

/// The maximum number of rows counted separately; the rest are counted together.
const MOST: usize = 50_000;
/// Longer texts are cut to this many bytes before rows are compared.
const LONGEST: usize = 512;

/// The arguments of `interceptor audit stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor audit stats audit.jsonl
  interceptor audit stats audit.jsonl.1 audit.jsonl --decision deny --top 5
  interceptor audit stats audit.jsonl --since 24h --json
  interceptor audit stats audit.jsonl --by host,credential
  sudo interceptor audit stats --sandbox web         (from the daemon's memory)

Paths that differ only in what looks like an identifier are counted together: \
                        /v1/files/file-a1b2c3d4 as /v1/files/*.")]
#[command(group(
    clap::ArgGroup::new("source").required(true).multiple(true).args(["files", "sandbox"])
))]
pub(super) struct Stats {
    /// The audit files; `-` is standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only this sandbox; without FILE, from the run or the daemon that serves it.
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// The control socket [default: that of your run with this ID, else
    /// /run/interceptor/control.sock].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Also count new records for this time, e.g. 10m [default: only those that are kept].
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    span: Option<Duration>,
    /// Which records.
    #[command(flatten)]
    filter: RecordFilter,
    /// Group by these fields, e.g. host,credential [default: all of them].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FIELD")]
    by: Vec<By>,
    /// How many rows to show, most frequent first.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    top: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = super::filter::duration(text).and_then(|time| Duration::try_from(time).ok());
    time.ok_or_else(|| "a time such as 30s, 10m or 2h".to_owned())
}

/// A field of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// Permitted or refused.
    Decision,
    /// Why it was refused, or how it ended.
    Type,
    /// The sandbox.
    Sandbox,
    /// The credential concerned.
    Credential,
    /// The method, or the protocol.
    Method,
    /// The destination.
    Host,
    /// The path.
    Path,
}

impl By {
    /// Every field, in the order of the columns.
    const ALL: [By; 7] =
        [By::Decision, By::Type, By::Sandbox, By::Credential, By::Method, By::Host, By::Path];

    fn name(self) -> &'static str {
        match self {
            By::Decision => "decision",
            By::Type => "type",
            By::Sandbox => "sandbox",
            By::Credential => "credential",
            By::Method => "method",
            By::Host => "host",
            By::Path => "path",
        }
    }

    /// The columns for what was asked for.
    fn columns(asked: &[By]) -> Vec<By> {
        By::ALL.into_iter().filter(|field| asked.is_empty() || asked.contains(field)).collect()
    }
}

/// The key of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Subject {
    sandbox: String,
    decision: String,
    reason: String,
    credential: String,
    host: String,
    method: String,
    path: String,
}

impl Subject {
    fn field(&self, field: By) -> &str {
        match field {
            By::Decision => &self.decision,
            By::Type => &self.reason,
            By::Sandbox => &self.sandbox,
            By::Credential => &self.credential,
            By::Method => &self.method,
            By::Host => &self.host,
            By::Path => &self.path,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Count {
    records: u64,
    last: String,
}

/// All counts.
#[derive(Debug)]
struct Statistics {
    /// The fields that distinguish rows.
    columns: Vec<By>,
    subjects: HashMap<Subject, Count>,
    /// Records beyond the limit of rows.
    others: u64,
    records: u64,
    unreadable: u64,
    /// Records that the interceptor reported as lost.
    dropped: u64,
}

/// Runs the command.
pub(super) fn run(arguments: Stats) -> anyhow::Result<ExitCode> {
    let mut counts = Statistics::by(&arguments.by);
    let wanted = |record: &ParsedRecord| {
        arguments.sandbox.as_ref().is_none_or(|id| *id == record.sandbox)
            && arguments.filter.wants(record)
    };
    for path in &arguments.files {
        read(path, |line| counts.line(line, &wanted))?;
    }
    if let (true, Some(sandbox)) = (arguments.files.is_empty(), &arguments.sandbox) {
        // All kept records, unless --since asks for fewer.
        let since = arguments.filter.since.unwrap_or(Since(Timestamp::UNIX_EPOCH));
        let query = tail::query(&RecordFilter { since: Some(since), ..arguments.filter.clone() });
        let span = arguments.span.unwrap_or(tail::KEPT_COME);
        let path = events::path(sandbox, &query);
        let whom = Whom::has(arguments.control.clone(), sandbox)?;
        let outcome = events::follow(&whom.socket, &path, Some(span), |event| {
            match event.name.as_str() {
                "dropped" => counts.lost(&event.data),
                "end" => {}
                _ => counts.line(Line::Whole(event.data.into_bytes()), &wanted),
            }
            Ok(())
        });
        if outcome.is_err() {
            return whom.conclude(sandbox, outcome);
        }
    }
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", printable_json(&format!("{:#}", counts.as_json(arguments.top))))?;
    } else {
        counts.print(&mut out, arguments.top)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path, mut each: impl FnMut(Line)) -> anyhow::Result<()> {
    let context = || format!("cannot read the audit file {}", path.display());
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(files::open(path).with_context(context)?.0)
    };
    let (mut reader, mut lines) = (BufReader::new(source), Lines::default());
    while let Some(line) = lines.next(&mut reader).with_context(context)? {
        each(line);
    }
    lines.rest().into_iter().for_each(each);
    Ok(())
}

impl Statistics {
    fn by(asked: &[By]) -> Statistics {
        Statistics {
            columns: By::columns(asked),
            subjects: HashMap::new(),
            others: 0,
            records: 0,
            unreadable: 0,
            dropped: 0,
        }
    }

    fn line(&mut self, line: Line, wanted: &impl Fn(&ParsedRecord) -> bool) {
        let record = match line {
            Line::Whole(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => return,
            Line::Whole(bytes) => ParsedRecord::parse(&bytes),
            Line::TooLong(_) => None,
        };
        match record {
            None => self.unreadable += 1,
            Some(record) if wanted(&record) => self.add(&record),
            Some(_) => {}
        }
    }

    fn lost(&mut self, data: &str) {
        let value: Value = serde_json::from_str(data).unwrap_or_default();
        self.dropped = self.dropped.saturating_add(value["dropped"].as_u64().unwrap_or(1));
    }

    fn add(&mut self, record: &ParsedRecord) {
        self.records += 1;
        self.dropped = self.dropped.saturating_add(record.dropped.unwrap_or(0));
        let text = |field: By, text: Option<&str>| match self.columns.contains(&field) {
            true => bounded(text.unwrap_or_default()),
            false => String::new(),
        };
        let method =
            record.method.as_deref().or(record.protocol.as_deref()).unwrap_or(&record.kind);
        let path = pattern::of(record.path.as_deref().unwrap_or_default());
        let subject = Subject {
            sandbox: text(By::Sandbox, Some(&record.sandbox)),
            decision: text(By::Decision, record.decision.as_deref()),
            reason: text(By::Type, record.reason.as_deref()),
            credential: text(By::Credential, record.credential.as_deref()),
            host: text(By::Host, Some(record.destination())),
            method: text(By::Method, Some(method)),
            path: text(By::Path, Some(&path)),
        };
        if self.subjects.len() >= MOST && !self.subjects.contains_key(&subject) {
            self.others += 1;
            return;
        }
        let count = self.subjects.entry(subject).or_default();
        count.records += 1;
        if record.ts > count.last {
            count.last = bounded(&record.ts);
        }
    }

    /// The rows, refusals first, most frequent first.
    fn rows(&self, top: usize) -> Vec<(&Subject, &Count)> {
        let mut rows: Vec<_> = self.subjects.iter().collect();
        let rank = |decision: &str| match decision {
            "deny" => 0,
            "allow" => 1,
            _ => 2,
        };
        rows.sort_by(|(one, one_count), (other, other_count)| {
            let order = rank(&one.decision).cmp(&rank(&other.decision));
            order.then(other_count.records.cmp(&one_count.records)).then(one.cmp(other))
        });
        rows.truncate(top);
        rows
    }

    fn print(&self, out: &mut impl Write, top: usize) -> io::Result<()> {
        let rows: Vec<Vec<String>> = self
            .rows(top)
            .into_iter()
            .map(|(subject, count)| {
                let cell = |field: &By| match (field, subject.field(*field)) {
                    (By::Decision, "") => "-".to_owned(),
                    (_, text) => show::short(text),
                };
                let mut row = vec![count.records.to_string()];
                row.extend(self.columns.iter().map(cell));
                row.push(show::time(&count.last));
                row
            })
            .collect();
        if !rows.is_empty() {
            let columns: Vec<String> =
                self.columns.iter().map(|field| field.name().to_uppercase()).collect();
            let mut heading = vec!["COUNT"];
            heading.extend(columns.iter().map(String::as_str));
            heading.push("LAST");
            table::print(out, &heading, &rows, &[0])?;
        }
        let hidden = self.subjects.len().saturating_sub(rows.len());
        write!(out, "{}", words::count(self.records, "record"))?;
        for (count, noun, what) in [
            (hidden as u64, "row", "not shown (--top)"),
            (self.others, "record", "not counted separately"),
            (self.unreadable, "line", "unreadable as a record"),
            (self.dropped, "record", "lost before being written"),
        ] {
            if count > 0 {
                write!(out, "; {} {what}", words::count(count, noun))?;
            }
        }
        writeln!(out)
    }

    fn as_json(&self, top: usize) -> Value {
        let rows: Vec<Value> = self
            .rows(top)
            .into_iter()
            .map(|(subject, count)| {
                let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                let mut row = json!({ "count": count.records, "last": text(&count.last) });
                for field in &self.columns {
                    row[field.name()] = text(subject.field(*field)).into();
                }
                row
            })
            .collect();
        json!({
            "rows": rows,
            "records": self.records,
            "rows_not_shown": self.subjects.len().saturating_sub(rows.len()),
            "records_not_counted_apart": self.others,
            "unreadable_lines": self.unreadable,
            "dropped": self.dropped,
        })
    }
}

/// Truncates long text, so that a row stays small.
fn bounded(text: &str) -> String {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(lines: &[&str]) -> Statistics {
        let mut counts = Statistics::by(&[]);
        for line in lines {
            counts.line(Line::Whole(line.as_bytes().to_vec()), &|_| true);
        }
        counts
    }

    fn printed(counts: &Statistics, top: usize) -> String {
        let mut out = Vec::new();
        counts.print(&mut out, top).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn refusals_are_counted_by_what_they_have_in_common() {
        let line = |ts: &str, decision: &str, path: &str| {
            format!(
                r#"{{"ts":"2026-01-31T12:00:{ts}.000000Z","sandbox":"s1","kind":"request",
                    "decision":"{decision}","host":"h.test","method":"GET","path":"{path}"}}"#
            )
        };
        let lines = [
            line("03", "deny", "/files/1"),
            line("09", "deny", "/files/22"),
            line("01", "allow", "/models"),
            line("02", "allow", "/models"),
            line("04", "allow", "/models"),
            "garbage".to_owned(),
            String::new(),
            r#"{"ts":"2026-01-31T12:00:05.000000Z","sandbox":"s1","kind":"lifecycle",
                "type":"audit_dropped","dropped":7}"#
                .to_owned(),
        ];
        let counts = counted(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            printed(&counts, 2),
            "COUNT  DECISION  TYPE  SANDBOX  CREDENTIAL  METHOD  HOST    PATH      LAST\n    \
             2  deny            s1                   GET     h.test  /files/*  \
             2026-01-31T12:00:09.000Z\n    \
             3  allow           s1                   GET     h.test  /models   \
             2026-01-31T12:00:04.000Z\n\
             6 records; 1 row not shown (--top); 1 line unreadable as a record; 7 records lost \
             before being written\n"
        );
        let value = counts.as_json(20);
        assert_eq!(
            (&value["rows"][0]["count"], &value["rows"][0]["path"]),
            (&json!(2), &json!("/files/*"))
        );
        assert_eq!((&value["unreadable_lines"], &value["dropped"]), (&json!(1), &json!(7)));
    }

    #[test]
    fn rows_are_those_that_were_asked_for() {
        let line = |credential: &str, path: &str| {
            format!(
                r#"{{"ts":"2026-01-31T12:00:00.000000Z","sandbox":"s1","kind":"request",
                    "decision":"allow","credential":"{credential}","host":"h.test","method":"GET",
                    "path":"{path}"}}"#
            )
        };
        let mut counts = Statistics::by(&[By::Credential, By::Host]);
        for text in [line("one", "/a"), line("one", "/b"), line("two", "/a")] {
            counts.line(Line::Whole(text.into_bytes()), &|_| true);
        }
        let text = printed(&counts, 20);
        assert_eq!(
            text,
            "COUNT  CREDENTIAL  HOST    LAST\n    2  one         h.test  \
             2026-01-31T12:00:00.000Z\n    1  two         h.test  2026-01-31T12:00:00.000Z\n\
             3 records\n"
        );
        let rows = counts.as_json(20)["rows"].clone();
        assert_eq!(rows[0]["credential"], "one");
        assert!(rows[0].get("path").is_none(), "{rows}");
    }

    #[test]
    fn o2_nothing_in_a_record_breaks_the_table() {
        let hostile = r"\u001b[2J\nfake 1 deny\u202e\u009b31m\u2028";
        let line = format!(
            r#"{{"ts":"{hostile}","sandbox":"{hostile}","kind":"{hostile}",
                "decision":"{hostile}","type":"{hostile}","host":"{hostile}",
                "method":"{hostile}","path":"{hostile}"}}"#
        );
        let text = printed(&counted(&[&line]), 20);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.chars().any(|c| c != '\n' && crate::audit::steers_or_hides(c)), "{text:?}");
    }

    #[test]
    fn a_flood_of_different_paths_does_not_fill_the_memory() {
        let mut counts = Statistics::by(&[]);
        for number in 0..MOST + 10 {
            let record = ParsedRecord {
                host: Some(format!("h{number}")),
                kind: "dns".into(),
                ..ParsedRecord::default()
            };
            counts.add(&record);
        }
        assert_eq!((counts.subjects.len(), counts.others), (MOST, 10));
    }
}
