//! `interceptor attach`: enforces a policy on a cgroup that exists.

use std::process::ExitCode;

/// The arguments of `interceptor attach`.
#[derive(Debug, clap::Args)]
pub struct Attach {}

/// Runs the command.
pub fn run(_arguments: Attach) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor attach` is not built yet")
}
