//! `interceptor profiles`: lists the network profiles, or shows one.

use std::process::ExitCode;

/// The arguments of `interceptor profiles`.
#[derive(Debug, clap::Args)]
pub struct Profiles {}

/// Runs the command.
pub fn run(_arguments: Profiles) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`interceptor profiles` is not built yet")
}
