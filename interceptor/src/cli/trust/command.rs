//! The command: shows what a policy permits before it is trusted.
//!
//! What is shown, asked about and recorded is one text, read once. Where a running sandbox said
//! that a file changed, the sandbox may write another content before the command is typed, so the
//! notice names the content by its hash (`--sha256`).

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::known::{HASH_SHOWN, hash, permitted, quoted, record};
use crate::cli::permits::Extent;
use crate::cli::person::Person;
use crate::cli::policy_file::printable;
use crate::cli::written::Written;
use crate::cli::{discovery, findings, registries};
use crate::notice;

/// The longest answer that is read, in bytes.
const LONGEST: u64 = 64;

/// The arguments of `interceptor trust`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor trust
  interceptor trust project/interceptor.jsonc

A policy that `run` finds in the working directory, or above it, is used only while its content is \
                        one that you have trusted. So is one given with --policy that names \
                        programs for keys, unless it is in /etc/interceptor/policies and only root \
                        can write it. `check` runs no program before that either.

It shows what the policy permits, and asks at a terminal. Without one it does not ask.

Exit status: 0 trusted, 1 not trusted, 2 the file or the arguments cannot be used.")]
pub struct Trust {
    /// The policy [default: interceptor.json or interceptor.jsonc here or above].
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Trust it only if the SHA-256 of its content begins so, and do not ask.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    sha256: Option<String>,
    /// Do not ask at a terminal.
    #[arg(short, long)]
    yes: bool,
    /// Show all that the policy permits, however much it is.
    #[arg(long)]
    full: bool,
}

/// A prefix that is too long for another content with the same to be found.
fn prefix(text: &str) -> Result<String, String> {
    let is_hash = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash && (HASH_SHOWN..=64).contains(&text.len()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("write {HASH_SHOWN} to 64 hexadecimal digits"))
}

/// Runs the command.
pub fn run(arguments: Trust) -> anyhow::Result<ExitCode> {
    let Trust { file, sha256, yes, full } = arguments;
    let person = Person::invoking()?;
    let (path, written) = chosen(&person, file)?;
    let name = printable(&written.name);
    if sha256.as_ref().is_some_and(|prefix| !hash(&written.text).starts_with(prefix)) {
        notice::error(format_args!(
            "{name} has changed again: the SHA-256 of its content is another. Look at it, then \
             type: interceptor trust {}",
            quoted(&path)
        ));
        return Ok(ExitCode::FAILURE);
    }
    let catalogue = registries::catalogue(None)?;
    let report = interceptor_policy::check(&written.text, &catalogue);
    if !report.errors.is_empty() {
        findings::print(
            &mut io::stderr().lock(),
            &written.name,
            &written.text,
            &report.errors,
            &[],
        )?;
        return Ok(ExitCode::FAILURE);
    }
    let extent = if full { Extent::Whole } else { Extent::Short };
    let mut shown = format!("{name} permits\n");
    for line in permitted(&written, &report, &catalogue, extent) {
        shown.push_str(&format!("  {line}\n"));
    }
    let can_answer = io::stdin().is_terminal() && io::stderr().is_terminal();
    if yes || sha256.is_some() || !can_answer {
        io::stdout().lock().write_all(shown.as_bytes())?;
    } else if !is_wanted(&shown)? {
        notice::error("not trusted");
        return Ok(ExitCode::FAILURE);
    }
    record(&person, &path, &written.text)?;
    let mut out = io::stdout().lock();
    writeln!(out, "trusted: {name}")?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The policy: its absolute path, and what it holds.
fn chosen(person: &Person, file: Option<PathBuf>) -> anyhow::Result<(PathBuf, Written)> {
    if let Some(file) = file {
        // As `run` reads it: under sudo, one that only root can read too.
        let path = std::path::absolute(file)?;
        let written = Written::read(&path)?;
        return Ok((path, written));
    }
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    let Some(path) = discovery::nearest(person, &directory)? else {
        bail!("there is no interceptor.json or interceptor.jsonc here or above; name a file")
    };
    let written = discovery::read(person, &path)?;
    Ok((path, written))
}

/// Shows what is permitted and asks. An end of the input is no.
fn is_wanted(shown: &str) -> io::Result<bool> {
    let mut err = io::stderr().lock();
    write!(err, "{shown}Trust this policy? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(LONGEST).read_line(&mut answer)?;
    Ok(["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_others_could_be_found_for_is_refused() {
        let hash = hash("{}");
        assert_eq!(prefix(&hash), Ok(hash.clone()));
        assert_eq!(prefix(&hash[..HASH_SHOWN].to_uppercase()), Ok(hash[..HASH_SHOWN].to_owned()));
        for wrong in ["", &hash[..HASH_SHOWN - 1], &"g".repeat(64), &"a".repeat(65)] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
    }
}
