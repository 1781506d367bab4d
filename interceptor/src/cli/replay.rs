//! `interceptor replay`: says what a new policy would change for the requests of an audit file.

use std::process::ExitCode;

/// The arguments of `interceptor replay`.
#[derive(Debug, clap::Args)]
pub struct Replay {}

/// Runs the command.
pub fn run(_arguments: Replay) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor replay` is not built yet")
}
