//! `cargo xtask fuzz [--seconds N] [TARGET…]`: builds the fuzz targets of `interceptor/fuzz` and
//! runs each for N seconds (default 30), starting from its seeds and the corpus of earlier runs.
//!
//! libFuzzer and the coverage instrumentation work with stable Rust: the flags are those that
//! cargo-fuzz passes for `--sanitizer none`. A failing input is saved in
//! `interceptor/fuzz/artifacts/TARGET`, beside the log; to rerun it, pass its file to the printed
//! binary.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const TARGETS: [&str; 14] = [
    "document",
    "path",
    "pattern",
    "host",
    "decide",
    "redact",
    "http1",
    "dns",
    "first",
    "clienthello",
    "websocket",
    "decoding",
    "record",
    "oci",
];

/// The time limit for one input, in seconds.
const INPUT_TIMEOUT: u32 = 10;
/// The memory limit of a target, in MiB.
const MEMORY: u32 = 2048;

/// SanitizerCoverage (<https://clang.llvm.org/docs/SanitizerCoverage.html>): edges, comparisons and
/// counters.
const COVERAGE: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cforce-frame-pointers=yes",
];

/// Runs the command.
///
/// # Errors
/// If a target does not build or finds a failing input.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (seconds, targets) = parse(arguments)?;
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../interceptor/fuzz");
    let fuzz = fuzz.canonicalize().context("interceptor/fuzz is missing")?;
    let host = host_target()?;
    build(&fuzz, &host)?;
    let mut failed = Vec::new();
    for target in &targets {
        if !fuzz_one(&fuzz, &host, target, seconds)? {
            failed.push(target.as_str());
        }
    }
    ensure!(
        failed.is_empty(),
        "{} failed; the inputs are in {}",
        failed.join(", "),
        fuzz.join("artifacts").display()
    );
    Ok(())
}

fn parse(arguments: &[String]) -> Result<(u32, Vec<String>)> {
    let mut seconds = 30;
    let mut targets = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--seconds" => {
                let value = rest.next().context("--seconds takes a number")?;
                seconds = value
                    .parse()
                    .with_context(|| format!("--seconds takes a number, not {value:?}"))?;
            }
            target if TARGETS.contains(&target) => targets.push(target.to_owned()),
            other => bail!("no fuzz target {other:?}: there are {}", TARGETS.join(", ")),
        }
    }
    if targets.is_empty() {
        targets = TARGETS.map(str::to_owned).into();
    }
    Ok((seconds, targets))
}

/// This machine's target triple. Naming it keeps the instrumentation out of build scripts.
fn host_target() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(rustc).arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

fn build(fuzz: &Path, host: &str) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let status = Command::new(cargo)
        .args(["build", "--release", "--locked", "--target", host, "--manifest-path"])
        .arg(fuzz.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(fuzz.join("target"))
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the fuzz targets do not build");
    Ok(())
}

/// Runs one target. Returns whether it found nothing.
fn fuzz_one(fuzz: &Path, host: &str, target: &str, seconds: u32) -> Result<bool> {
    let directory = |kind: &str| -> Result<PathBuf> {
        let path = fuzz.join(kind).join(target);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    };
    let (corpus, seeds, artifacts) =
        (directory("corpus")?, directory("seeds")?, directory("artifacts")?);
    let binary = fuzz.join("target").join(host).join("release").join(target);
    println!("fuzz: {target} for {seconds} s");
    let log = artifacts.join("log");
    let output = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
    let status = Command::new(&binary)
        .arg(corpus)
        .arg(seeds)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_TIMEOUT}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg("-print_final_stats=1")
        .stderr(output)
        .status()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    let log = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
    let text = String::from_utf8_lossy(&log);
    let told = |line: &&str| line.starts_with("stat::") || !status.success();
    let lines: Vec<&str> = text.lines().filter(told).collect();
    for line in &lines[lines.len().saturating_sub(40)..] {
        println!("    {line}");
    }
    if !status.success() {
        println!("    again: {} {}", binary.display(), artifacts.display());
    }
    Ok(status.success())
}
