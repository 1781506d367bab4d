//! Errors and warnings about a policy as `check` prints them: file and line, JSON pointer, and an
//! excerpt with everything that may be a key masked.

use std::io::{self, Write};

use interceptor_policy::{Problem, strict_json};
use zeroize::Zeroizing;

use super::excerpt::Excerpts;
use super::policy_file::printable;

/// A policy is not valid. The message is that of `check`.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Invalid {
    text: String,
}

/// The error about a policy with these errors.
pub(super) fn invalid(name: &str, text: &str, errors: &[Problem]) -> anyhow::Error {
    invalid_with(name, text, errors, None)
}

/// The same, with what to do about them.
pub(super) fn invalid_with(
    name: &str,
    text: &str,
    errors: &[Problem],
    remedy: Option<String>,
) -> anyhow::Error {
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = print(&mut out, name, text, errors, &[]);
    let mut text = String::from_utf8_lossy(&out).trim_end().to_owned();
    text.extend(remedy.map(|remedy| format!("\ninterceptor: {remedy}")));
    Invalid { text }.into()
}

/// Prints the errors and warnings about a text, and their number.
///
/// # Errors
/// If they cannot be written.
pub(super) fn print(
    out: &mut impl Write,
    name: &str,
    text: &str,
    errors: &[Problem],
    warnings: &[Problem],
) -> io::Result<()> {
    // Comments are never shown: they may hold keys.
    let plain = strict_json(text).unwrap_or_else(|_| Zeroizing::new(String::new()));
    let excerpts = Excerpts::of(&plain, errors.iter().chain(warnings));
    let kinds = std::iter::repeat_n("error", errors.len()).chain(std::iter::repeat("warning"));
    for (problem, kind) in errors.iter().chain(warnings).zip(kinds) {
        let place = problem.line.map_or_else(String::new, |line| format!(":{line}"));
        writeln!(out, "{}{place}: {kind}: {}", printable(name), printable(&problem.message))?;
        if !problem.pointer.is_empty() {
            writeln!(out, "    at {}", printable(&problem.pointer))?;
        }
        if let Some(line) = excerpts.of_problem(problem).filter(|line| !line.is_empty()) {
            writeln!(out, "    | {}", printable(&line))?;
        }
    }
    writeln!(
        out,
        "{}: {}, {}",
        printable(name),
        count(errors.len(), "error"),
        count(warnings.len(), "warning")
    )
}

fn count(number: usize, noun: &str) -> String {
    match number {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}
