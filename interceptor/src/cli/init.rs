//! `interceptor init`: the first process of a sandbox; started by `run`, not by people.

use std::process::ExitCode;

/// The arguments of `interceptor init`.
#[derive(Debug, clap::Args)]
pub struct Init {}

/// Runs the command.
pub fn run(_arguments: Init) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor init` is not built yet")
}
