//! `interceptor install podman`: puts the hook where Podman reads hooks from.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::said::said;
use super::{place, proof, written};
use crate::oci::podman::{self as engine, FILE, LOGS, POLICIES};

/// Removes the hook.
///
/// # Errors
/// If Podman does not say where it reads hooks from, or a file cannot be removed.
pub(super) fn uninstall(output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let hooks = engine::hooks(&engine::directories()?);
    for hook in &hooks {
        fs::remove_file(&hook.file)
            .with_context(|| format!("cannot remove {}", hook.file.display()))?;
        writeln!(output, "removed {}", hook.file.display())?;
    }
    if hooks.is_empty() {
        writeln!(output, "no interceptor hook is installed")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs the hook unless it is there, and proves that it is called.
///
/// # Errors
/// If Podman does not say where it reads hooks from, or a file cannot be written.
pub(super) fn install(output: &mut impl Write, dry_run: bool) -> anyhow::Result<ExitCode> {
    let read = engine::directories()?;
    let hooks = engine::hooks(&read);
    let broken = hooks.iter().find_map(|hook| Some((hook, hook.fault.as_deref()?)));
    let present = hooks.iter().find(|hook| hook.fault.is_none());
    match (present, broken) {
        (Some(hook), _) => writeln!(output, "{} is already installed", hook.file.display())?,
        (None, broken) => {
            if let Some((hook, fault)) = broken {
                writeln!(output, "{} has no effect: {fault}", hook.file.display())?;
            }
            let directory = read.last().context("podman has no hooks directory")?;
            write(output, directory, dry_run)?;
        }
    }
    if dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    output.flush()?;
    said(output, proof::of_podman())
}

/// Writes the hook file and creates the directories it names.
fn write(output: &mut impl Write, directory: &Path, dry_run: bool) -> anyhow::Result<()> {
    let executable = std::env::current_exe().context("cannot find the path of this program")?;
    place::check(&executable, "root's hook")?;
    let file = directory.join(FILE);
    let content = format!("{:#}\n", engine::hook_file(&executable));
    let verb = if dry_run { "would write" } else { "writing" };
    writeln!(output, "{verb} {}:\n{content}", file.display())?;
    if dry_run {
        return Ok(());
    }
    written::make(directory, 0o755)?;
    for private in [POLICIES, LOGS] {
        written::make(Path::new(private), 0o700)?;
    }
    written::replace(&file, &content)
}
