//! `interceptor audit verify`: verifies the hash chain of audit files.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use crate::audit::{ChainKey, ChainVerifier, Chained, Fault};
use crate::cli::policy_file::printable;
use crate::files;
use crate::words;

/// The longest line that can be a record, in bytes.
const LONGEST: u64 = 1 << 20;

/// The arguments of `interceptor audit verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor audit verify --key chain.key audit.jsonl
  interceptor audit verify --key chain.key audit.jsonl.1 audit.jsonl
  interceptor audit verify --key chain.key --expect-end audit.jsonl

Name rotated files from the oldest to the newest. It names the first record that was altered, \
                        removed, reordered, repeated or inserted. It cannot detect records cut \
                        off at the end while the log is still being written: once the \
                        interceptor has stopped, --expect-end demands its closing record. \
                        Whoever has the key can forge a chain, so keep it away from the log \
                        files.

Exit status: 0 unaltered, 1 altered, 2 no answer (a file cannot be read).")]
pub(super) struct Verify {
    /// The key file passed to --audit-chain.
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
    /// Require that the last record is the interceptor's closing record.
    #[arg(long)]
    expect_end: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The audit files, oldest first; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// A note on the chain, with its location.
struct Remark {
    file: String,
    line: u64,
    text: String,
}

/// Runs the command.
pub(super) fn run(arguments: Verify) -> anyhow::Result<ExitCode> {
    let mut verifier = ChainVerifier::new(ChainKey::read(&arguments.key)?);
    let mut notes = Vec::new();
    let mut fault = None;
    let mut last = String::new();
    for path in &arguments.files {
        last = path.display().to_string();
        verifier.next_file();
        if let Some(found) = check(path, &last, &mut verifier, &mut notes)? {
            fault = Some(found);
            break;
        }
    }
    let outcome = match fault {
        Some(fault) => Err(fault),
        None => verifier.end(arguments.expect_end),
    };
    let mut out = io::stdout().lock();
    let printed = if arguments.json {
        print_json(&mut out, &outcome, &last, &notes)
    } else {
        print(&mut out, &outcome, &last, &notes)
    };
    crate::cli::verdict(printed, u8::from(outcome.is_err()))
}

fn check(
    path: &Path,
    name: &str,
    verifier: &mut ChainVerifier,
    notes: &mut Vec<Remark>,
) -> anyhow::Result<Option<Fault>> {
    let context = || format!("cannot read the audit file {}", printable(name));
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(files::open(path).with_context(context)?.0)
    };
    let mut reader = BufReader::new(source);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.by_ref().take(LONGEST).read_until(b'\n', &mut line).with_context(context)? == 0 {
            break;
        }
        match verifier.line(&line) {
            Ok(None) => {}
            Ok(Some(note)) => {
                notes.push(Remark { file: name.to_owned(), line: number, text: note.to_string() });
            }
            Err(fault) => return Ok(Some(fault)),
        }
    }
    Ok(None)
}

fn print(
    out: &mut impl Write,
    outcome: &Result<Chained, Fault>,
    last: &str,
    notes: &[Remark],
) -> io::Result<()> {
    for Remark { file, line, text } in notes {
        writeln!(out, "{}:{line}: note: {text}", printable(file))?;
    }
    match outcome {
        Err(Fault { line, flaw }) => {
            writeln!(out, "{}:{line}: broken: line {line} {flaw}", printable(last))
        }
        Ok(Chained { records, ended: true }) => {
            writeln!(
                out,
                "OK: {}, unaltered, up to the closing record",
                words::count(*records, "record")
            )
        }
        Ok(Chained { records, ended: false }) => writeln!(
            out,
            "OK: {}, unaltered; the log has no closing record, so a cut at the end cannot be \
             ruled out (--expect-end demands one)",
            words::count(*records, "record")
        ),
    }
}

fn print_json(
    out: &mut impl Write,
    outcome: &Result<Chained, Fault>,
    last: &str,
    notes: &[Remark],
) -> io::Result<()> {
    let notes: Vec<_> = notes
        .iter()
        .map(|Remark { file, line, text }| json!({ "file": file, "line": line, "message": text }))
        .collect();
    let value = match outcome {
        Ok(Chained { records, ended }) => {
            json!({ "whole": true, "records": records, "ended": ended, "notes": notes })
        }
        Err(Fault { line, flaw }) => {
            let message = format!("line {line} {flaw}");
            json!({
                "whole": false, "file": last, "line": line, "message": message, "notes": notes,
            })
        }
    };
    writeln!(out, "{value}")
}
