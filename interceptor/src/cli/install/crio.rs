//! `interceptor install cri-o`: gives it a runtime handler that a RuntimeClass can name.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::said::said;
use super::{containerd, written};
use crate::oci::podman::{LOGS, POLICIES};
use crate::oci::toml::{self, CRIO, CRIO_CONFIG};

/// Removes the handler.
///
/// # Errors
/// If its file cannot be removed.
pub(super) fn uninstall(output: &mut impl Write) -> anyhow::Result<ExitCode> {
    if Path::new(CRIO_CONFIG).exists() {
        fs::remove_file(CRIO_CONFIG).with_context(|| format!("cannot remove {CRIO_CONFIG}"))?;
        writeln!(output, "removed {CRIO_CONFIG}; reload CRI-O")?;
    } else {
        writeln!(output, "no interceptor handler is installed")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the handler. CRI-O starts containers for Kubernetes alone, so nothing is proved here.
///
/// # Errors
/// If there is no CRI-O, or the file cannot be written.
pub(super) fn install(output: &mut impl Write, dry_run: bool) -> anyhow::Result<ExitCode> {
    if !written::is_on_path(CRIO) {
        bail!("CRI-O is not installed: there is no {CRIO} on the PATH");
    }
    let path = Path::new(CRIO_CONFIG);
    let text = toml::crio(&containerd::link(dry_run)?);
    let verb = if dry_run { "would write" } else { "writing" };
    writeln!(output, "{verb} {CRIO_CONFIG}:\n{text}")?;
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    for (directory, mode) in
        [(directory, 0o755), (Path::new(POLICIES), 0o700), (Path::new(LOGS), 0o700)]
    {
        written::make(directory, mode)?;
    }
    written::replace(path, &text)?;
    writeln!(output, "reload CRI-O, so that it reads this (sudo systemctl reload crio)")?;
    said(
        output,
        Err(anyhow::anyhow!("CRI-O starts containers for Kubernetes only: prove it there")),
    )
}
