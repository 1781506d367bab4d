//! `cargo xtask bench instructions [--requests] [--accept]`: counts the instructions of the hot
//! paths with valgrind, and compares them with `interceptor/instructions/figures.txt` or, those of
//! whole requests, with `requests.txt` there.
//!
//! Counts are the same on every run of a build, those of requests within a thousandth: a
//! `getrandom` loaded before libc's fixes hash seeds, one thread is counted, and no timer is waited
//! for. Libraries choose code by CPU features; the figures are for AVX2, the most that valgrind
//! supports.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{built, cargo, succeed, workspace};

/// A larger change, in percent, fails.
const TOLERANCE: f64 = 2.0;

/// Hash seeds are the same in every run.
const FIXED: &str = "#include <string.h>
#include <sys/types.h>
ssize_t getrandom(void *buffer, size_t length, unsigned flags) {
    (void)flags;
    memset(buffer, 7, length);
    return length;
}
";

/// Counts, then compares the figures or, with `--accept`, writes them. With `--requests`, counts
/// whole requests.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (mut accept, mut requests) = (false, false);
    for argument in arguments {
        match argument.as_str() {
            "--accept" => accept = true,
            "--requests" => requests = true,
            other => bail!("bench instructions takes --requests and --accept, not {other}"),
        }
    }
    let (program, file) = if requests {
        (build_requests()?, "interceptor/instructions/requests.txt")
    } else {
        let pieces = ["--release", "-p", "instructions", "--no-default-features"];
        succeed(cargo([&["build", "--quiet"][..], &pieces].concat()))?;
        (built("release", "instructions")?, "interceptor/instructions/figures.txt")
    };
    let seeds = fixed_seeds(&program)?;
    let names = Command::new(&program).output().context("listing the pieces")?;
    let mut counted = BTreeMap::new();
    for name in String::from_utf8_lossy(&names.stdout).lines() {
        if name.starts_with("request_") == requests {
            counted.insert(name.to_owned(), count(&program, &seeds, name)?);
        }
    }
    let figures = workspace().join(file);
    if accept {
        let text = counted.iter().fold(String::new(), |mut text, (name, count)| {
            let _ = writeln!(text, "{name} {count}");
            text
        });
        return fs::write(&figures, text).with_context(|| format!("writing {file}"));
    }
    let known = fs::read_to_string(&figures).with_context(|| format!("reading {file}"))?;
    let (table, moved) = compared(&known, &counted);
    print!("{table}");
    if moved {
        bail!("figures of {file} moved by more than {TOLERANCE} %: --accept accepts them");
    }
    Ok(())
}

/// Builds the program with the whole interceptor. A release of that takes long; its dependencies
/// are optimised for the tests too, so only its own crate is built here.
fn build_requests() -> Result<std::path::PathBuf> {
    let optimised =
        ["opt-level=1", "codegen-units=4", "debug-assertions=false", "overflow-checks=false"];
    let optimised = optimised.map(|one| format!("--config=profile.dev.package.interceptor.{one}"));
    let mut build = cargo(["build", "--quiet", "-p", "instructions"]);
    build.args(optimised);
    succeed(build)?;
    built("debug", "instructions")
}

/// A table of all pieces, and whether one of them moved by more than the tolerance, is new or gone.
fn compared(known: &str, counted: &BTreeMap<String, u64>) -> (String, bool) {
    let known: BTreeMap<&str, u64> = known
        .lines()
        .filter_map(|line| {
            line.split_once(' ').and_then(|(name, count)| Some((name, count.parse().ok()?)))
        })
        .collect();
    let (mut table, mut moved) = (String::new(), false);
    for (name, count) in counted {
        let line = match known.get(name.as_str()) {
            Some(before) => {
                let percent = (*count as f64 / *before as f64 - 1.0) * 100.0;
                let far = percent.abs() > TOLERANCE;
                moved |= far;
                let mark = if far { "  MOVED" } else { "" };
                format!("{name:28} {before:>12} → {count:>12} {percent:+.2} %{mark}")
            }
            None => {
                moved = true;
                format!("{name:28} {:>12} → {count:>12} NEW", "")
            }
        };
        let _ = writeln!(table, "{line}");
    }
    for (name, before) in known.iter().filter(|(name, _)| !counted.contains_key(**name)) {
        moved = true;
        let _ = writeln!(table, "{name:28} {before:>12} → GONE");
    }
    (table, moved)
}

/// Builds the library that fixes the seeds, beside the program.
fn fixed_seeds(program: &Path) -> Result<std::path::PathBuf> {
    let source = program.with_extension("getrandom.c");
    let library = program.with_extension("getrandom.so");
    fs::write(&source, FIXED).context("writing the fixed getrandom")?;
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
    succeed(compiler)?;
    Ok(library)
}

/// The instructions of one piece.
fn count(program: &Path, seeds: &Path, name: &str) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=*measured*",
    ]);
    let output = valgrind.arg(program).arg(name).env("LD_PRELOAD", seeds).output();
    let output = output.context("starting valgrind")?;
    let told = String::from_utf8_lossy(&output.stderr);
    let count =
        told.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    match count {
        Some(count) if output.status.success() && count > 0 => Ok(count),
        _ => bail!("valgrind did not count {name}:\n{told}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_figure_is_named_with_its_change() {
        let counted = |count| BTreeMap::from([("redact".to_owned(), count)]);
        assert!(!compared("redact 1000\n", &counted(1019)).1);
        for count in [1021, 979] {
            let (table, moved) = compared("redact 1000\n", &counted(count));
            assert!(
                moved && table.contains("redact") && table.contains("2.10 %  MOVED"),
                "{table}"
            );
        }
        assert!(compared("", &counted(1)).1);
        assert!(compared("redact 1000\ngone 5\n", &counted(1000)).0.contains("gone"));
    }
}
