//! `interceptor explain`: says what a policy decides for one request, by which filter and rule.

use std::process::ExitCode;

/// The arguments of `interceptor explain`.
#[derive(Debug, clap::Args)]
pub struct Explain {}

/// Runs the command.
pub fn run(_arguments: Explain) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor explain` is not built yet")
}
