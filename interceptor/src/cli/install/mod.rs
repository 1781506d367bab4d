//! `interceptor install`: configures a container engine to call the hook, shows what it writes, and
//! proves that it works; or sets the host up for `run` without sudo.

pub(in crate::cli) mod daemon;
mod place;
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
    /// What to set up.
    #[arg(value_enum)]
    what: Installed,
    /// Show what would be written, without writing.
    #[arg(long)]
    dry_run: bool,
    /// Undo it; policies and records stay.
    #[arg(long, conflicts_with = "dry_run")]
    uninstall: bool,
}

/// What can be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Installed {
    /// The daemon, for `interceptor run` without sudo.
    Daemon,
    /// Podman, as root.
    Podman,
}

const EXAMPLES: &str = "\
Examples:
  sudo interceptor install daemon --dry-run
  sudo interceptor install daemon
  sudo interceptor install podman --dry-run
  sudo interceptor install podman
  sudo podman run --network none --annotation io.interceptor.policy=agent \\
    IMAGE COMMAND

For an engine, it asks where it reads hooks from, because an engine that finds no hook starts \
                        containers without it. Then it starts a container that must be refused \
                        egress, and exits with 1 if it is not.";

/// Runs the command.
pub fn run(arguments: Install) -> anyhow::Result<ExitCode> {
    let mut output = std::io::stdout().lock();
    let is_root = nix::unistd::geteuid().is_root();
    match arguments.what {
        Installed::Daemon if !is_root && !arguments.dry_run => {
            bail!("only root can set up the daemon: type sudo interceptor install daemon")
        }
        Installed::Daemon if arguments.uninstall => return daemon::uninstall(&mut output),
        Installed::Daemon => return daemon::install(&mut output, arguments.dry_run),
        Installed::Podman if !is_root => {
            bail!("the hook works for root's containers only: run as root, for instance with sudo")
        }
        Installed::Podman => {}
    }
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
            writeln!(output, "proved: a container under a policy was refused egress: {shown}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "interceptor: NOT proved: a container that must be refused egress was not: \
                 {error:#}"
            );
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Writes the hook file and creates the directories it names.
fn install(output: &mut impl Write, directory: &Path, dry_run: bool) -> anyhow::Result<()> {
    let executable = std::env::current_exe().context("cannot find the path of this program")?;
    place::check(&executable, "root's hook")?;
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

fn make(directory: &Path, mode: u32) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(mode).create(directory);
    made.with_context(|| format!("cannot create {}", directory.display()))
}
