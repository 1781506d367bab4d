//! `interceptor init`: the first process of a sandbox; started by `run` and `attach`, not by people.

use std::process::ExitCode;

use crate::privilege::attendant;
use crate::sandbox;

/// The arguments of `interceptor init`: none, for its orders come over standard input.
#[derive(Debug, clap::Args)]
pub struct Init {}

/// Runs the command.
pub fn run(_arguments: Init) -> anyhow::Result<ExitCode> {
    // Exit statuses are eight bits wide.
    Ok(ExitCode::from(sandbox::init::main(attendant::serve) as u8))
}
