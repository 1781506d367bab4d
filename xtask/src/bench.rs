//! `cargo xtask bench`: the benchmarks.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, status};

/// Runs `cargo bench` of the product with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let mut command = cargo(["bench", "-p", "interceptor"]);
    command.args(arguments);
    status(command)
}
