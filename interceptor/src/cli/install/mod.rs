//! `interceptor install`: configures a container engine to call the hook, shows what it writes, and
//! proves that it works.

mod proof;
mod scratch;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::oci::podman::{self, FILE, LOGS, POLICIES};

pub use proof::{Prove, prove};

/// The arguments of `interceptor install`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Install {
    /// The container engine.
    #[arg(value_enum)]
    engine: Engine,
    /// Show what would be written, without writing.
    #[arg(long)]
    dry_run: bool,
    /// Remove the hook; policies and records stay.
    #[arg(long, conflicts_with = "dry_run")]
    uninstall: bool,
}

/// A container engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Podman, as root.
    Podman,
}

const EXAMPLES: &str = "\
Examples:
  sudo interceptor install podman --dry-run
  sudo interceptor install podman
  sudo podman run --network none --annotation io.interceptor.policy=agent \\
    IMAGE COMMAND

It asks the engine where it reads hooks from, because an engine starts containers without a hook \
                        that it does not find. Then it starts a container that must be refused \
                        egress, and exits with 1 if that cannot be shown.";

/// Runs the command.
pub fn run(arguments: Install) -> anyhow::Result<ExitCode> {
    let Engine::Podman = arguments.engine;
    if !nix::unistd::geteuid().is_root() {
        bail!("the hook works for root's containers only: run as root, for instance with sudo");
    }
    let mut output = std::io::stdout().lock();
    let read = podman::directories()?;
    if arguments.uninstall {
        let hooks = podman::hooks(&read);
        for hook in &hooks {
            fs::remove_file(&hook.file)
                .with_context(|| format!("cannot remove {}", hook.file.display()))?;
            writeln!(output, "removed {}", hook.file.display())?;
        }
        if hooks.is_empty() {
            writeln!(output, "no interceptor hook is installed")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let hooks = podman::hooks(&read);
    let broken = hooks.iter().find_map(|hook| Some((hook, hook.fault.as_deref()?)));
    let present = hooks.iter().find(|hook| hook.fault.is_none());
    match (present, broken) {
        (Some(hook), _) => writeln!(output, "{} is already installed", hook.file.display())?,
        (None, broken) => {
            if let Some((hook, fault)) = broken {
                writeln!(output, "{} has no effect: {fault}", hook.file.display())?;
            }
            let directory = read.last().context("podman has no hooks directory")?;
            install(&mut output, directory, arguments.dry_run)?;
        }
    }
    if arguments.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    output.flush()?;
    match proof::of_podman() {
        Ok(shown) => {
            writeln!(output, "proved: a container under a policy was refused an egress: {shown}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "interceptor: NOT proved: a container that must be refused an egress was not: \
                 {error:#}"
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Writes the hook file and creates the directories it names.
fn install(output: &mut impl Write, directory: &Path, dry_run: bool) -> anyhow::Result<()> {
    let executable = std::env::current_exe().context("cannot find the path of this program")?;
    check_place(&executable)?;
    let file = directory.join(FILE);
    let content = format!("{:#}\n", podman::hook_file(&executable));
    let verb = if dry_run { "would write" } else { "writing" };
    writeln!(output, "{verb} {}:\n{content}", file.display())?;
    if dry_run {
        return Ok(());
    }
    make(directory, 0o755)?;
    for private in [POLICIES, LOGS] {
        make(Path::new(private), 0o700)?;
    }
    // Written atomically: an engine may start a container at any moment.
    let partial = directory.join(format!(".{FILE}.{}", std::process::id()));
    let written = fs::write(&partial, content)
        .and_then(|()| fs::set_permissions(&partial, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&partial, &file));
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// A user who can change or move the program could bypass the hook.
fn check_place(executable: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    for part in executable.ancestors() {
        let metadata =
            fs::metadata(part).with_context(|| format!("cannot examine {}", part.display()))?;
        let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
        if metadata.uid() != 0 || (metadata.mode() & 0o022 != 0 && !sticky) {
            bail!(
                "{} can be changed by others than root, and would be root's hook: install it \
                 first (install -m 755 {} /usr/local/bin/), and call that one",
                part.display(),
                executable.display()
            );
        }
    }
    Ok(())
}

fn make(directory: &Path, mode: u32) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.with_context(|| format!("cannot make {}", directory.display()))
}
