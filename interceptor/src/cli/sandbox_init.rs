//! `interceptor sandbox-init`: the first process of a sandbox; started by `run` and `attach`, not
//! by people.

use std::process::ExitCode;

use crate::privilege::attendant;
use crate::sandbox;

/// `interceptor sandbox-init` takes no arguments; its orders arrive on standard input.
#[derive(Debug, clap::Args)]
pub struct SandboxInit {}

/// Runs the command.
pub fn run(_arguments: SandboxInit) -> anyhow::Result<ExitCode> {
    // Exit statuses have eight bits.
    Ok(ExitCode::from(sandbox::init::main(attendant::serve) as u8))
}
