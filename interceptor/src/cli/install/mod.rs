//! `interceptor install`: configures a container engine to call the hook or the runtime, shows what
//! it writes, and proves that it works; or sets the host up for `run` without sudo.

mod containerd;
mod crio;
pub(in crate::cli) mod daemon;
mod docker;
mod place;
mod podman;
mod proof;
mod said;
mod scratch;
mod written;

use std::process::ExitCode;

use anyhow::bail;

pub(super) use docker::known as known_to_docker;
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
    /// Podman, as root, by the hook.
    Podman,
    /// Docker, by runtimes, one for each policy.
    Docker,
    /// containerd, by a runtime handler, for Kubernetes.
    Containerd,
    /// CRI-O, by a runtime handler, for Kubernetes.
    CriO,
}

const EXAMPLES: &str = "\
Examples:
  sudo interceptor install daemon --dry-run
  sudo interceptor install daemon
  sudo interceptor install podman --dry-run
  sudo interceptor install podman
  sudo podman run --network none --annotation io.interceptor.policy=agent \\
    IMAGE COMMAND
  sudo interceptor install docker
  sudo docker run --network none --runtime interceptor-agent IMAGE COMMAND

For an engine, it shows what it writes, because an engine that finds no hook starts containers \
                        without it. Then it starts a container that must be refused egress, and \
                        exits with 1 if it is not.";

/// Runs the command.
pub fn run(arguments: Install) -> anyhow::Result<ExitCode> {
    let mut output = std::io::stdout().lock();
    let is_root = nix::unistd::geteuid().is_root();
    let Install { what, dry_run, uninstall } = arguments;
    match what {
        Installed::Daemon if !is_root && !dry_run => {
            bail!("only root can set up the daemon: type sudo interceptor install daemon")
        }
        Installed::Daemon if uninstall => daemon::uninstall(&mut output),
        Installed::Daemon => daemon::install(&mut output, dry_run),
        _ if !is_root => {
            bail!("it works for root's containers only: run as root, for instance with sudo")
        }
        Installed::Podman if uninstall => podman::uninstall(&mut output),
        Installed::Podman => podman::install(&mut output, dry_run),
        Installed::Docker if uninstall => docker::uninstall(&mut output),
        Installed::Docker => docker::install(&mut output, dry_run),
        Installed::Containerd if uninstall => containerd::uninstall(&mut output),
        Installed::Containerd => containerd::install(&mut output, dry_run),
        Installed::CriO if uninstall => crio::uninstall(&mut output),
        Installed::CriO => crio::install(&mut output, dry_run),
    }
}
