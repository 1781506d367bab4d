//! `interceptor check`: lints policies: every error and warning with its JSON path; exit 1 on an error.

use std::process::ExitCode;

/// The arguments of `interceptor check`.
#[derive(Debug, clap::Args)]
pub struct Check {}

/// Runs the command.
pub fn run(_arguments: Check) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor check` is not built yet")
}
