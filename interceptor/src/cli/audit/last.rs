//! `interceptor audit last`: shows the records of the last run.

use std::io::BufReader;
use std::process::ExitCode;

use anyhow::Context;

use super::filter::RecordFilter;
use super::follow::Last as LastLines;
use super::lines::Lines;
use super::record::ParsedRecord;
use super::tail::{Printer, print};
use crate::cli::history::PastRun;

/// The arguments of `interceptor audit last`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor audit last
  interceptor audit last --decision deny
  interceptor audit last --json | jq -r .host | sort | uniq -c

Each `run` keeps its records for the user who started it, also under sudo, except with \
                        --no-history.")]
pub(super) struct Last {
    /// Which records.
    #[command(flatten)]
    filter: RecordFilter,
    /// Show only the last NUMBER records [default: all].
    #[arg(short = 'n', long, value_name = "NUMBER")]
    lines: Option<usize>,
    /// Print the records as JSON lines, unchanged.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Last) -> anyhow::Result<ExitCode> {
    let printer = Printer::new(arguments.json);
    let wanted = |record: &ParsedRecord| arguments.filter.wants(record);
    let run = PastRun::last()?;
    let context = || format!("cannot read {}", run.path.display());
    let (mut reader, mut lines) = (BufReader::new(&run.records), Lines::default());
    let mut last = LastLines::new(arguments.lines.unwrap_or_default());
    loop {
        let line = lines.next(&mut reader).with_context(context)?;
        let ended = line.is_none();
        // A running sandbox may be writing a line, which is incomplete.
        if let Some(shown) = line.and_then(|line| printer.shown(line, &wanted)) {
            match arguments.lines {
                None => print(&shown)?,
                Some(_) => drop(last.push(shown)),
            }
        }
        if ended {
            break;
        }
    }
    last.take().try_for_each(|shown| print(&shown))?;
    Ok(ExitCode::SUCCESS)
}
