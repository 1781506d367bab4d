//! `interceptor run`: runs a command in a sandbox whose egress is intercepted.

use std::process::ExitCode;

/// The arguments of `interceptor run`.
#[derive(Debug, clap::Args)]
pub struct Run {}

/// Runs the command.
pub fn run(_arguments: Run) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor run` is not built yet")
}
