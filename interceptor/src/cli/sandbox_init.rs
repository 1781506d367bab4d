//! `interceptor sandbox-init`: the first process of a sandbox; started by `run` and `attach`, not
//! by people.

use std::process::ExitCode;

use crate::privilege::attendant;
use crate::sandbox;

/// `interceptor sandbox-init` takes no arguments; its orders arrive on standard input.
#[derive(Debug, clap::Args)]
pub struct SandboxInit {}

/// What the command is called.
pub(super) const NAME: &str = "sandbox-init";

/// Runs the command.
pub fn run(_arguments: SandboxInit) -> anyhow::Result<ExitCode> {
    Ok(start())
}

/// Runs the command, which has no arguments.
pub(super) fn start() -> ExitCode {
    // Exit statuses have eight bits.
    ExitCode::from(sandbox::init::main(attendant::serve) as u8)
}
