//! `interceptor doctor`: says what this host can and cannot do, each with its remedy.

use std::process::ExitCode;

/// The arguments of `interceptor doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {}

/// Runs the command.
pub fn run(_arguments: Doctor) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor doctor` is not built yet")
}
