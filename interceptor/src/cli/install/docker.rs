//! `interceptor install docker`: gives dockerd a runtime for each policy.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::said::said;
use super::{place, proof, written};
use crate::oci::docker::{self as engine, CONFIG, DAEMON, PROGRAM};
use crate::oci::podman::{LOGS, POLICIES};

/// Where the daemon writes its pid, unless its configuration says otherwise.
const PID: &str = "/var/run/docker.pid";
/// How long the daemon may take to read its configuration again.
const RELOADED_WITHIN: Duration = Duration::from_secs(30);
/// Its signal to do so (dockerd(8)).
const RELOAD: Signal = Signal::SIGHUP;

/// Removes the runtimes.
///
/// # Errors
/// If the configuration cannot be read or written.
pub(super) fn uninstall(output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let present = written::present(Path::new(CONFIG))?;
    if engine::configured(&present).is_empty() {
        writeln!(output, "no interceptor runtime is installed")?;
        return Ok(ExitCode::SUCCESS);
    }
    match engine::without_runtimes(&present)? {
        Some(text) => written::replace(Path::new(CONFIG), &text)?,
        None => fs::remove_file(CONFIG).with_context(|| format!("cannot remove {CONFIG}"))?,
    }
    writeln!(output, "removed the runtimes from {CONFIG}")?;
    // A daemon that does not run reads it when it starts.
    if let Ok(daemon) = daemon() {
        kill(daemon, RELOAD).context("cannot have dockerd read its configuration again")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the runtimes, and proves that one of them enforces.
///
/// # Errors
/// If there is no Docker, or the configuration cannot be read or written.
pub(super) fn install(output: &mut impl Write, dry_run: bool) -> anyhow::Result<ExitCode> {
    if !written::is_on_path(DAEMON) {
        bail!("Docker is not installed: there is no {DAEMON} on the PATH");
    }
    let executable = std::env::current_exe().context("cannot find the path of this program")?;
    if !dry_run {
        place::check(&executable, "root's runtime")?;
    }
    let present = written::present(Path::new(CONFIG))?;
    let policies = policies();
    let text = engine::with_runtimes(&present, &executable, &policies)?;
    if text == present {
        writeln!(output, "{CONFIG} has the runtimes already")?;
    } else {
        let verb = if dry_run { "would write" } else { "writing" };
        writeln!(output, "{verb} {CONFIG}:\n{text}")?;
    }
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    for (directory, mode) in [("/etc/docker", 0o755), (POLICIES, 0o700), (LOGS, 0o700)] {
        written::make(Path::new(directory), mode)?;
    }
    output.flush()?;
    let proof = prove(&present, &executable, &policies);
    // Without the runtime of the proof, however that went.
    written::replace(Path::new(CONFIG), &text)?;
    let reloaded = daemon().and_then(|daemon| Ok(kill(daemon, RELOAD)?));
    let outcome = said(output, proof.and_then(|shown| reloaded.map(|()| shown)))?;
    let names = engine::names(&policies).join(", ");
    writeln!(output, "docker run --runtime takes {names}: the first is for annotations")?;
    Ok(outcome)
}

/// Starts a container by a runtime of its own, with a policy of its own.
fn prove(present: &str, executable: &Path, policies: &[String]) -> anyhow::Result<String> {
    let policy = proof::Policy::new()?;
    let policies: Vec<String> = policies.iter().cloned().chain([policy.name.clone()]).collect();
    let text = engine::with_runtimes(present, executable, &policies)?;
    let daemon = daemon()?;
    written::replace(Path::new(CONFIG), &text)?;
    kill(daemon, RELOAD).context("cannot have dockerd read its configuration again")?;
    let name = format!("{}-{}", engine::NAME, policy.name);
    let deadline = Instant::now() + RELOADED_WITHIN;
    while !known()?.contains(&name) {
        if Instant::now() > deadline {
            bail!("dockerd has not taken {CONFIG} over: does it read another configuration?");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    proof::of_docker(&name)
}

/// The runtimes that the running daemon knows.
///
/// # Errors
/// If it does not answer.
pub(in crate::cli) fn known() -> anyhow::Result<Vec<String>> {
    let output = Command::new(PROGRAM)
        .args(["info", "--format", "{{json .Runtimes}}"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {PROGRAM}"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let runtimes: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&output.stdout).context("docker info is not understood")?;
    Ok(runtimes.into_iter().map(|(name, _)| name).collect())
}

/// The running daemon.
fn daemon() -> anyhow::Result<Pid> {
    let not = || format!("Docker does not run ({PID}): start it and repeat this");
    let pid: i32 = fs::read_to_string(PID).with_context(not)?.trim().parse().with_context(not)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).with_context(not)?;
    if name.trim() != DAEMON {
        bail!(not());
    }
    Ok(Pid::from_raw(pid))
}

/// The names of the policies for containers that can be part of a runtime's name.
fn policies() -> Vec<String> {
    let files = fs::read_dir(POLICIES).into_iter().flatten().flatten();
    let names = files.filter_map(|file| {
        let name = file.file_name().into_string().ok()?;
        name.strip_suffix(".json").map(str::to_owned)
    });
    let plain = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let mut names: Vec<String> = names.filter(plain).collect();
    names.sort();
    names
}
