//! `interceptor audit tail`: shows the last records, and follows.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;

use super::filter::{RecordFilter, Since};
use super::follow::{Followed, Last, pause};
use super::lines::Line;
use super::record::ParsedRecord;
use super::show;
use crate::cli::colours;
use crate::cli::daemon::events;
use crate::cli::policy_file::printable_json;
use crate::cli::whom::Whom;
use crate::words;

/// Time limit for receiving the records that the daemon has kept.
pub(super) const KEPT_COME: Duration = Duration::from_secs(2);

/// The arguments of `interceptor audit tail`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor audit tail audit.jsonl
  interceptor audit tail audit.jsonl --decision deny --since 1h
  interceptor audit tail audit.jsonl --host '*.example.com' --json --no-follow
  sudo interceptor audit tail --sandbox web --since 5m    (from the daemon)

It follows the file until interrupted, across rotations too. Characters that could control the \
                        terminal are shown as escapes.")]
#[command(group(
    clap::ArgGroup::new("source").required(true).multiple(true).args(["file", "sandbox"])
))]
pub(in crate::cli) struct Tail {
    /// The audit file.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only this sandbox; without FILE, from the run or the daemon that serves it.
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// The control socket [default: that of your run with this ID, else
    /// /run/interceptor/control.sock].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Which records.
    #[command(flatten)]
    filter: RecordFilter,
    /// How many records of FILE to show first [default: 10; all with --since].
    #[arg(short = 'n', long, value_name = "NUMBER")]
    lines: Option<usize>,
    /// Stop at the end of the file.
    #[arg(long)]
    no_follow: bool,
    /// Print the records as JSON lines, unchanged.
    #[arg(long)]
    json: bool,
}

impl Tail {
    /// Shows the records that the daemon has kept of a sandbox, unless the filter asks for fewer,
    /// and follows.
    pub(in crate::cli) fn of_daemon(
        sandbox: String,
        control: Option<PathBuf>,
        mut filter: RecordFilter,
        json: bool,
    ) -> Tail {
        filter.since.get_or_insert(Since(Timestamp::UNIX_EPOCH));
        Tail {
            file: None,
            sandbox: Some(sandbox),
            control,
            filter,
            lines: None,
            no_follow: false,
            json,
        }
    }
}

/// Runs the command.
pub(in crate::cli) fn run(arguments: Tail) -> anyhow::Result<ExitCode> {
    let printer = Printer::new(arguments.json);
    match (&arguments.file, &arguments.sandbox) {
        (Some(_), _) => from_file(&arguments, &printer),
        (None, Some(sandbox)) => from_daemon(&arguments, sandbox, &printer),
        // Unreachable: clap requires one of the two.
        (None, None) => Ok(ExitCode::from(2)),
    }
}

fn from_file(arguments: &Tail, printer: &Printer) -> anyhow::Result<ExitCode> {
    let Some(path) = &arguments.file else { return Ok(ExitCode::from(2)) };
    let mut followed = Followed::open(path)?;
    let wanted = |record: &ParsedRecord| {
        arguments.sandbox.as_ref().is_none_or(|id| *id == record.sandbox)
            && arguments.filter.wants(record)
    };
    let first = match (arguments.lines, arguments.filter.since) {
        (Some(number), _) => Some(number),
        (None, Some(_)) => None,
        (None, None) => Some(10),
    };
    let mut last = Last::new(first.unwrap_or_default());
    while let Some(line) = followed.next()? {
        let Some(shown) = printer.shown(line, &wanted) else { continue };
        match first {
            None => print(&shown)?,
            Some(_) => drop(last.push(shown)),
        }
    }
    last.take().try_for_each(|shown| print(&shown))?;
    if arguments.no_follow {
        // The last line may be unfinished.
        if let Some(shown) = followed.rest().and_then(|line| printer.shown(line, &wanted)) {
            print(&shown)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let line = match followed.next()? {
            Some(line) => Some(line),
            None => followed.turn()?,
        };
        match line {
            Some(line) => {
                if let Some(shown) = printer.shown(line, &wanted) {
                    print(&shown)?;
                }
            }
            None if pause() => {}
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn from_daemon(arguments: &Tail, sandbox: &str, printer: &Printer) -> anyhow::Result<ExitCode> {
    let wanted = |record: &ParsedRecord| arguments.filter.wants(record);
    let path = events::path(sandbox, &query(&arguments.filter));
    let limit = arguments.no_follow.then_some(KEPT_COME);
    let whom = Whom::has(arguments.control.clone(), sandbox)?;
    let followed = events::follow(&whom.socket, &path, limit, |event| match event.name.as_str() {
        "dropped" => {
            let lost = printer.lost(&event.data);
            lost.map_or(Ok(()), |lost| print(&lost))
        }
        "end" => {
            let _ = writeln!(io::stderr(), "interceptor: the sandbox was removed");
            Ok(())
        }
        _ => {
            let shown = printer.shown(Line::Whole(event.data.into_bytes()), &wanted);
            shown.map_or(Ok(()), |shown| print(&shown))
        }
    });
    whom.conclude(sandbox, followed)
}

/// The part of the filter that the daemon applies; the rest is applied here.
pub(super) fn query(filter: &RecordFilter) -> Vec<(&'static str, String)> {
    let mut query = Vec::new();
    query.extend(filter.decision.map(|decision| ("decision", decision.as_str().to_owned())));
    query.extend(filter.host.clone().map(|host| ("host", host)));
    query.extend(filter.since.map(|since| ("since", since.0.to_string())));
    query
}

pub(super) struct Printer {
    json: bool,
    colour: bool,
}

impl Printer {
    /// Prints JSON lines, or text, with colours on a terminal.
    pub(super) fn new(json: bool) -> Printer {
        Printer { json, colour: !json && colours(&io::stdout()) }
    }

    /// The text to print for a line, if any.
    pub(super) fn shown(
        &self,
        line: Line,
        wanted: &impl Fn(&ParsedRecord) -> bool,
    ) -> Option<String> {
        let bytes = match line {
            Line::Whole(bytes) => bytes,
            Line::TooLong(length) => return self.unreadable(length),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let Some(record) = ParsedRecord::parse(&bytes) else {
            return self.unreadable(bytes.len() as u64);
        };
        if !wanted(&record) {
            return None;
        }
        if !self.json {
            return Some(show::line(&record, self.colour));
        }
        // Our own records are escaped already; files from elsewhere may not be.
        Some(printable_json(&String::from_utf8(bytes).ok()?))
    }

    /// Reports records that the daemon could not deliver.
    fn lost(&self, data: &str) -> Option<String> {
        if self.json {
            let _ = writeln!(
                io::stderr(),
                "interceptor: records were lost in transit: {}",
                show::short(data)
            );
            return None;
        }
        Some(format!("? records were lost in transit: {}", show::short(data)))
    }

    /// Reports a line that is not a record: it may replace a deleted one.
    fn unreadable(&self, length: u64) -> Option<String> {
        if self.json {
            let _ = writeln!(
                io::stderr(),
                "interceptor: a line of {} is not an audit record",
                words::count(length, "byte")
            );
            return None;
        }
        Some(format!("? a line of {} that is not an audit record", words::count(length, "byte")))
    }
}

pub(super) fn print(shown: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{shown}")?;
    out.flush()
}
