//! `interceptor check`: lints policies: every error and warning with its JSON path; exit 1 on an
//! error.
//!
//! It also tries the sources of keys, so that an unset variable or a missing file is an error here,
//! not when the sandbox starts. No key is kept or printed. It is how one looks at a policy, so it
//! runs no program before the policy's content is trusted; only the operator's need no trust.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use interceptor_policy::{Document, KeySource, Policy, Problem, Report};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::key_problems::{self, is_missing};
use super::person::Person;
use super::written::Written;
use super::{
    authors, discovery, findings, given, outbound, policy_file, programs, registries, road, trust,
    who,
};
use crate::credential::{
    CREDENTIALS_DIRECTORY, KeyError, KeyProblem, Keyring, Means, SourceProblem, Sources,
};

/// The arguments of `interceptor check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor check                       (the policy that `run` would find)
  interceptor check policy.json
  interceptor check --json policies/*.json
  generate-policy | interceptor check --skip-keys -")]
pub struct CheckCommand {
    /// The policies: files, names as for `run`, or `-` for standard input [default:
    /// interceptor.json or interceptor.jsonc here or above].
    #[arg(value_name = "FILE|NAME")]
    files: Vec<PathBuf>,
    /// Print one JSON object: {"errors": [...], "warnings": [...]}.
    #[arg(long)]
    json: bool,
    /// Read no keys, neither from variables nor from files; run no programs and ask no services
    /// for them.
    #[arg(long)]
    skip_keys: bool,
    /// For services that give keys: as for `run`.
    #[arg(long, value_name = "NAME[:PORT]:ADDR[:PORT]")]
    resolve: Vec<String>,
    /// For services that give keys: as for `run`.
    #[arg(long, value_name = "FILE")]
    upstream_ca: Vec<PathBuf>,
    /// The operator's own profiles [default: /etc/interceptor/profiles.d].
    #[arg(long, value_name = "DIR")]
    profiles_dir: Option<PathBuf>,
}

/// The findings in one file.
struct Checked {
    file: String,
    text: Zeroizing<String>,
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// How its origins are reached, if by a proxy.
    way_out: Option<String>,
}

/// Runs the command.
pub fn run(arguments: CheckCommand) -> anyhow::Result<ExitCode> {
    let catalogue = registries::catalogue(arguments.profiles_dir.as_deref())?;
    let person = Person::invoking()?;
    let mut all = Vec::new();
    let is_found = arguments.files.is_empty();
    let files = match is_found {
        true => vec![found(&person)?],
        false => arguments.files,
    };
    let road = (&arguments.resolve[..], &arguments.upstream_ca[..]);
    for file in &files {
        let given = file.display().to_string();
        let (name, text, path) = match given::read_or_file(&person, file) {
            // Standard input is called as it was given.
            Ok(Written { file: None, text, .. }) => (given, text, None),
            Ok(Written { name, text, file, .. }) => (name, text, file),
            Err(error) => {
                let errors = vec![Problem::new("", unreadable(&error))];
                let text = Zeroizing::default();
                let warnings = Vec::new();
                all.push(Checked { file: given, text, errors, warnings, way_out: None });
                continue;
            }
        };
        let Report { policy, mut errors, mut warnings } =
            interceptor_policy::check(&text, &catalogue);
        let way_out = policy.as_ref().and_then(|policy| road::way_out(policy, &person));
        if let Some(policy) = policy.filter(|_| !arguments.skip_keys) {
            let lines = Document::parse(&text).map(|parsed| parsed.document).unwrap_or_default();
            let at = |problem: Problem| Problem { line: lines.line(&problem.pointer), ..problem };
            let file = path.as_deref();
            let sources = sources_of(&person, file.filter(|_| !is_found), &text, road)?;
            errors.extend(unreadable_keys(&policy, &person, file, sources).into_iter().map(at));
            warnings.extend(policy.secret_sources().filter_map(exposed_key).map(at));
        }
        all.push(Checked { file: name, text, errors, warnings, way_out });
    }
    let mut out = io::stdout().lock();
    let printed =
        if arguments.json { writeln!(out, "{}", as_json(&all)) } else { print(&mut out, &all) };
    let failed = all.iter().any(|checked| !checked.errors.is_empty());
    super::verdict(printed, u8::from(failed))
}

/// The policy that `run` would find.
fn found(person: &Person) -> anyhow::Result<PathBuf> {
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    match discovery::nearest(person, &directory)? {
        Some(path) => Ok(path),
        None => {
            bail!("there is no interceptor.json or interceptor.jsonc here or above; name a file")
        }
    }
}

/// Why a file cannot be read, without its name, which precedes the message.
fn unreadable(error: &anyhow::Error) -> String {
    match error.root_cause().downcast_ref::<io::Error>() {
        Some(cause) => format!("cannot read the file: {cause}"),
        None => error.root_cause().to_string(),
    }
}

/// The problems that `run` would find with the keys, as far as this process can tell.
fn unreadable_keys(
    policy: &Policy,
    person: &Person,
    file: Option<&Path>,
    sources: Sources,
) -> Vec<Problem> {
    let variable = |name: &str| match name {
        CREDENTIALS_DIRECTORY => std::env::var_os(name),
        name => person.given(name),
    };
    let means = Means { environment: &variable, seed: None, sources, runs_new: true };
    let Err(errors) = Keyring::load_with(policy, None, &means) else { return Vec::new() };
    let mut problems = key_problems::problems(policy, &errors);
    for (problem, error) in problems.iter_mut().zip(&errors) {
        if is_untrusted(error) {
            problem.message.push_str(&trusts(person, file));
        }
        if is_missing(error) || is_untrusted(error) {
            problem.message.push_str(" (--skip-keys leaves this check out)");
        }
    }
    problems
}

/// Whether a program was not run, or a service not asked, because the policy's content is not
/// trusted.
fn is_untrusted(error: &KeyError) -> bool {
    let KeyProblem::Source(problem) = &error.problem else { return false };
    let (SourceProblem::Refused(why) | SourceProblem::Unasked(why)) = problem else { return false };
    *why == authors::UNTRUSTED
}

/// What to do so that programs are run, and services asked.
fn trusts(person: &Person, file: Option<&Path>) -> String {
    match file {
        Some(file) => format!("; type: {}", trust::typed(person, file)),
        None => "; save it in a file, and trust that: interceptor trust FILE".to_owned(),
    }
}

/// What the living sources of a policy are read with: nothing, unless its content is trusted or it
/// is the operator's file.
fn sources_of(
    person: &Person,
    file: Option<&Path>,
    text: &str,
    road: (&[String], &[PathBuf]),
) -> anyhow::Result<Sources> {
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    let runner = who::choose(None, person, &directory)?.identity;
    let sources = Sources {
        runs: Ok(programs::of_person(person, &runner, &directory)),
        asks: outbound::of_person(road, person, (&runner, &directory))?,
    };
    // What cannot be told is not trusted.
    if trust::is_trusted(person, text).unwrap_or(false) {
        return Ok(sources);
    }
    Ok(match file {
        Some(file) => sources.accepting(file, authors::UNTRUSTED),
        None => Sources::none(authors::UNTRUSTED),
    })
}

/// A key file that every user of the machine can read.
fn exposed_key((key, pointer): (&KeySource, &str)) -> Option<Problem> {
    let KeySource::File(path) = key else { return None };
    let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.is_file())?;
    let name = path.display();
    (metadata.mode() & 0o007 != 0).then(|| {
        Problem::new(
            pointer,
            format!("every user of this machine can read or write {name}; run: chmod 600 {name}"),
        )
    })
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
    let (errors, warnings) = (list(|checked| &checked.errors), list(|checked| &checked.warnings));
    let mut found = json!({ "errors": errors, "warnings": warnings });
    let ways: Vec<&String> = all.iter().filter_map(|checked| checked.way_out.as_ref()).collect();
    if !ways.is_empty() {
        found["way_out"] = json!(ways);
    }
    found
}

fn print(out: &mut impl Write, all: &[Checked]) -> io::Result<()> {
    all.iter().try_for_each(|checked| {
        let Checked { file, text, errors, warnings, way_out } = checked;
        findings::print(out, file, text, errors, warnings)?;
        match way_out {
            Some(way_out) => writeln!(
                out,
                "{}: origins are reached {}",
                policy_file::printable(file),
                policy_file::printable(way_out)
            ),
            None => Ok(()),
        }
    })
}
