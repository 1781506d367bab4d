//! `interceptor services`: lists the service catalogue, or shows one service.

use std::process::ExitCode;

/// The arguments of `interceptor services`.
#[derive(Debug, clap::Args)]
pub struct Services {}

/// Runs the command.
pub fn run(_arguments: Services) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor services` is not built yet")
}
