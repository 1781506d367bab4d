//! `interceptor install containerd`: gives it a runtime handler that a RuntimeClass can name.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};

use super::said::said;
use super::scratch::Scratch;
use super::{place, proof, written};
use crate::oci::podman::{LOGS, POLICIES};
use crate::oci::toml::{self, CONTAINERD, CONTAINERD_CONFIG, HANDLER};

/// Removes the handler. The link stays: containers may run by it.
///
/// # Errors
/// If the configuration cannot be read or written.
pub(super) fn uninstall(output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let path = Path::new(CONTAINERD_CONFIG);
    let present = written::present(path)?;
    let text = toml::without_handler(&present);
    if text == present {
        writeln!(output, "no interceptor handler is installed")?;
        return Ok(ExitCode::SUCCESS);
    }
    written::replace(path, &text)?;
    writeln!(output, "removed the handler from {CONTAINERD_CONFIG}; restart containerd")?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the handler, and proves that its program enforces.
///
/// # Errors
/// If there is no containerd, or the configuration cannot be read or written.
pub(super) fn install(output: &mut impl Write, dry_run: bool) -> anyhow::Result<ExitCode> {
    if !written::is_on_path(CONTAINERD) {
        bail!("containerd is not installed: there is no {CONTAINERD} on the PATH");
    }
    let path = Path::new(CONTAINERD_CONFIG);
    let present = written::present(path)?;
    let link = link(dry_run)?;
    let text = toml::with_handler(&present, &link)?;
    if text == present {
        writeln!(output, "{CONTAINERD_CONFIG} has the handler {HANDLER} already")?;
    } else {
        let verb = if dry_run { "would write" } else { "writing" };
        writeln!(output, "{verb} {CONTAINERD_CONFIG}:\n{text}")?;
    }
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    for (directory, mode) in [("/etc/containerd", 0o755), (POLICIES, 0o700), (LOGS, 0o700)] {
        written::make(Path::new(directory), mode)?;
    }
    if text != present {
        accepted(&text, &link)?;
        written::replace(path, &text)?;
        writeln!(
            output,
            "restart containerd, so that it reads this (sudo systemctl restart containerd); \
             containers run on"
        )?;
    }
    output.flush()?;
    said(output, proof::of_containerd(&link))
}

/// Whether containerd itself understands a configuration as meant.
fn accepted(text: &str, link: &Path) -> anyhow::Result<()> {
    let trial = format!("{CONTAINERD_CONFIG}.interceptor-{}", std::process::id());
    let trial = Scratch(PathBuf::from(trial));
    fs::write(&trial.0, text).with_context(|| format!("cannot write {}", trial.0.display()))?;
    let dump = Command::new(CONTAINERD)
        .arg("--config")
        .arg(&trial.0)
        .args(["config", "dump"])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {CONTAINERD}"))?;
    let shown = String::from_utf8_lossy(&dump.stdout);
    if !dump.status.success() || !toml::has_handler(&shown.replace('\'', "\""), link) {
        bail!(
            "containerd would not understand {CONTAINERD_CONFIG} with the handler, so nothing was \
             written: {}",
            String::from_utf8_lossy(&dump.stderr).trim()
        );
    }
    Ok(())
}

/// The program without arguments that containerd takes: a link to this one, beside it.
pub(super) fn link(dry_run: bool) -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().context("cannot find the path of this program")?;
    if !dry_run {
        place::check(&executable, "root's runtime")?;
    }
    let link = executable.with_file_name(super::super::oci_runtime::NAME);
    let fail = || format!("cannot make the link {}", link.display());
    match fs::canonicalize(&link) {
        Ok(found) if found == executable => {}
        Ok(_) => bail!("{} is another program than this one", link.display()),
        Err(_) if dry_run => {}
        Err(_) => symlink(&executable, &link).with_context(fail)?,
    }
    Ok(link)
}
