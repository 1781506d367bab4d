//! `interceptor check`: lints policies: every error and warning with its JSON path; exit 1 on an error.
//!
//! Beside what the document itself shows, the sources of keys are tried: a variable that is not set or a file that is not there
//! is an error here rather than when the sandbox starts. Nothing of a key is kept or printed.

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::policy_file::{self, printable};
use super::registries;
use crate::policy::{self, Credential, KeySource, Problem};

/// The arguments of `interceptor check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor check policy.json
  interceptor check --json policies/*.json
  generate-policy | interceptor check --skip-keys -")]
pub struct Check {
    /// The policy documents; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON object: {"errors": [...], "warnings": [...]}.
    #[arg(long)]
    json: bool,
    /// Do not try to read the keys that the policies name by `env` and `file`.
    #[arg(long)]
    skip_keys: bool,
    /// Where the operator's own profiles are.
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
}

/// What was found in one file.
struct Checked {
    file: String,
    lines: Vec<String>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Runs the command.
pub fn run(arguments: Check) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(arguments.profiles_dir.as_deref())?;
    let mut all = Vec::new();
    for file in &arguments.files {
        let text = Zeroizing::new(policy_file::read(file)?);
        let mut report = policy::check(&text, &catalogue);
        if let Some(policy) = report.policy.as_ref().filter(|_| !arguments.skip_keys) {
            report.errors.extend(policy.credentials().iter().filter_map(unreadable_key));
        }
        let shown = |problem: &Problem| shown_line(&text, problem);
        let lines =
            report.errors.iter().chain(&report.warnings).map(|problem| shown(problem).unwrap_or_default());
        all.push(Checked {
            file: file.display().to_string(),
            lines: lines.collect(),
            errors: report.errors,
            warnings: report.warnings,
        });
    }
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", as_json(&all))?;
    } else {
        print(&mut out, &all)?;
    }
    let failed = all.iter().any(|checked| !checked.errors.is_empty());
    Ok(ExitCode::from(u8::from(failed)))
}

/// What is wrong with the source of a key, as far as it can be seen from here.
fn unreadable_key(credential: &Credential) -> Option<Problem> {
    let message = match &credential.key {
        KeySource::Literal(_) => return None,
        KeySource::Env(name) => match env::var_os(name).map(|value| value.is_empty()) {
            None => format!(
                "the variable `{name}` is not set; set it where the interceptor runs (--skip-keys leaves this check out)"
            ),
            Some(true) => format!("the variable `{name}` is empty"),
            Some(false) => return None,
        },
        KeySource::File(path) => {
            let path_text = path.display();
            match fs::read(path).map(Zeroizing::new) {
                Ok(bytes) if bytes.strip_suffix(b"\n").unwrap_or(&bytes).is_empty() => {
                    format!("the file {path_text} is empty")
                }
                Ok(_) => return None,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    format!("the file {path_text} does not exist (--skip-keys leaves this check out)")
                }
                Err(error) => format!("the file {path_text} cannot be read: {}", error.kind()),
            }
        }
    };
    Some(Problem::new(credential.key_pointer.clone(), message))
}

/// The line of a problem, unless it holds a key.
fn shown_line(text: &str, problem: &Problem) -> Option<String> {
    let line = text.lines().nth(problem.line?.checked_sub(1)?)?;
    let simple = problem.pointer.starts_with("/credentials/") || line.contains("\"credentials\"");
    let of_a_key = problem.pointer.split('/').any(|token| token == "key") || line.contains("\"key\"");
    (!simple && !of_a_key).then(|| masked(line))
}

/// A line of the document with the strings that may be keys masked: only words of the policy's own grammar are shown.
fn masked(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('"') {
        shown.push_str(&rest[..=start]);
        rest = &rest[start + 1..];
        let mut escaped = false;
        let end = rest.find(|character: char| match character {
            _ if escaped => {
                escaped = false;
                false
            }
            '\\' => {
                escaped = true;
                false
            }
            character => character == '"',
        });
        let text = &rest[..end.unwrap_or(rest.len())];
        let behind = end.map_or("", |end| &rest[end + 1..]);
        let is_name = behind.trim_start().starts_with(':');
        shown.push_str(if is_name && text.len() <= 32 && !policy::looks_like_key(text) || harmless(text) {
            text
        } else {
            "…"
        });
        if end.is_none() {
            return shown;
        }
        shown.push('"');
        rest = behind;
    }
    shown.push_str(rest);
    shown
}

/// Whether a string is surely a method, a pattern or a rule rather than a key.
fn harmless(text: &str) -> bool {
    let short = |limit: usize, separator: char| text.split(separator).all(|part| part.len() <= limit);
    let method = text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    let pattern = text.starts_with('/') && short(32, '/');
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".:/*-_[]".contains(&byte);
    let host = text.contains(['.', ':', '*']) && text.bytes().all(plain) && short(24, '.');
    method || pattern || host
}

fn as_json(all: &[Checked]) -> Value {
    let entry = |checked: &Checked, problem: &Problem| {
        let mut entry = json!({ "path": problem.pointer, "message": problem.message });
        if let Some(line) = problem.line {
            entry["line"] = json!(line);
        }
        if all.len() > 1 {
            entry["file"] = json!(checked.file);
        }
        entry
    };
    let list = |select: fn(&Checked) -> &[Problem]| -> Vec<Value> {
        all.iter().flat_map(|checked| select(checked).iter().map(|problem| entry(checked, problem))).collect()
    };
    json!({ "errors": list(|checked| &checked.errors), "warnings": list(|checked| &checked.warnings) })
}

fn print(out: &mut impl Write, all: &[Checked]) -> io::Result<()> {
    for checked in all {
        let kinds = std::iter::repeat_n("error", checked.errors.len()).chain(std::iter::repeat("warning"));
        let problems = checked.errors.iter().chain(&checked.warnings).zip(kinds).zip(&checked.lines);
        for ((problem, kind), line) in problems {
            let place = problem.line.map_or_else(String::new, |line| format!(":{line}"));
            writeln!(out, "{}{place}: {kind}: {}", printable(&checked.file), printable(&problem.message))?;
            if !problem.pointer.is_empty() {
                writeln!(out, "    at {}", printable(&problem.pointer))?;
            }
            if !line.trim().is_empty() {
                let line: String = printable(line.trim()).chars().take(160).collect();
                writeln!(out, "    | {line}")?;
            }
        }
        let (errors, warnings) = (checked.errors.len(), checked.warnings.len());
        writeln!(
            out,
            "{}: {}, {}",
            printable(&checked.file),
            count(errors, "error"),
            count(warnings, "warning")
        )?;
    }
    Ok(())
}

fn count(number: usize, noun: &str) -> String {
    match number {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}
