//! `interceptor check`: lints policies: every error and warning with its JSON path; exit 1 on an
//! error.
//!
//! It also tries the sources of keys, so that an unset variable or a missing file is an error here,
//! not when the sandbox starts. No key is kept or printed.

use std::env;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use interceptor_policy::{Credential, KeySource, Problem, strict_json};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::excerpt::Excerpts;
use super::policy_file::{self, printable};
use super::registries;
use crate::credential::{KeyProblem, read_key};

/// The arguments of `interceptor check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor check policy.json
  interceptor check --json policies/*.json
  generate-policy | interceptor check --skip-keys -")]
pub struct CheckCommand {
    /// The policy documents; `-` is standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print one JSON object: {"errors": [...], "warnings": [...]}.
    #[arg(long)]
    json: bool,
    /// Do not check that keys given by `env` and `file` can be read.
    #[arg(long)]
    skip_keys: bool,
    /// The directory of the operator's own profiles.
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
}

/// The findings in one file.
struct Checked {
    file: String,
    lines: Vec<String>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Runs the command.
pub fn run(arguments: CheckCommand) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(arguments.profiles_dir.as_deref())?;
    let mut all = Vec::new();
    for file in &arguments.files {
        let text = match policy_file::read(file) {
            Ok(text) => Zeroizing::new(text),
            Err(error) => {
                all.push(Checked {
                    file: file.display().to_string(),
                    lines: vec![String::new()],
                    errors: vec![Problem::new("", unreadable(&error))],
                    warnings: Vec::new(),
                });
                continue;
            }
        };
        let mut report = interceptor_policy::check(&text, &catalogue);
        if let Some(policy) = report.policy.as_ref().filter(|_| !arguments.skip_keys) {
            report.errors.extend(policy.credentials().iter().filter_map(unreadable_key));
        }
        let problems = || report.errors.iter().chain(&report.warnings);
        // Nothing of a comment is shown, since it may hold a key.
        let plain = strict_json(&text).unwrap_or_else(|_| Zeroizing::new(String::new()));
        let excerpts = Excerpts::of(&plain, problems());
        let lines = problems().map(|problem| excerpts.of_problem(problem).unwrap_or_default());
        all.push(Checked {
            file: file.display().to_string(),
            lines: lines.collect(),
            errors: report.errors,
            warnings: report.warnings,
        });
    }
    let mut out = io::stdout().lock();
    let printed =
        if arguments.json { writeln!(out, "{}", as_json(&all)) } else { print(&mut out, &all) };
    let failed = all.iter().any(|checked| !checked.errors.is_empty());
    super::verdict(printed, u8::from(failed))
}

/// Why a file cannot be read, without its name, which precedes the message.
fn unreadable(error: &anyhow::Error) -> String {
    match error.root_cause().downcast_ref::<io::Error>() {
        Some(cause) => format!("cannot read the file: {cause}"),
        None => "the file is not UTF-8".to_owned(),
    }
}

/// A problem with the source of a key, as far as this process can tell.
fn unreadable_key(credential: &Credential) -> Option<Problem> {
    let message = match &credential.key {
        KeySource::Literal(_) => return None,
        KeySource::Env(name) => match env::var_os(name).map(|value| value.is_empty()) {
            None => format!(
                "the variable `{name}` is not set; set it where the interceptor runs (--skip-keys \
                 leaves this check out)"
            ),
            Some(true) => format!("the variable `{name}` is empty"),
            Some(false) => return None,
        },
        KeySource::File(path) => {
            let path_text = path.display();
            match read_key(path) {
                Ok(_) => return None,
                Err(KeyProblem::Unreadable(error)) if error.kind() == ErrorKind::NotFound => {
                    format!(
                        "the file {path_text} does not exist (--skip-keys leaves this check out)"
                    )
                }
                Err(problem) => format!("the file {path_text} {problem}"),
            }
        }
    };
    Some(Problem::new(credential.key_pointer.clone(), message))
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
        all.iter()
            .flat_map(|checked| select(checked).iter().map(|problem| entry(checked, problem)))
            .collect()
    };
    json!({ "errors": list(|checked| &checked.errors), "warnings": list(|checked| &checked.warnings) })
}

fn print(out: &mut impl Write, all: &[Checked]) -> io::Result<()> {
    for checked in all {
        let kinds =
            std::iter::repeat_n("error", checked.errors.len()).chain(std::iter::repeat("warning"));
        let problems =
            checked.errors.iter().chain(&checked.warnings).zip(kinds).zip(&checked.lines);
        for ((problem, kind), line) in problems {
            let place = problem.line.map_or_else(String::new, |line| format!(":{line}"));
            writeln!(
                out,
                "{}{place}: {kind}: {}",
                printable(&checked.file),
                printable(&problem.message)
            )?;
            if !problem.pointer.is_empty() {
                writeln!(out, "    at {}", printable(&problem.pointer))?;
            }
            if !line.is_empty() {
                writeln!(out, "    | {}", printable(line))?;
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
