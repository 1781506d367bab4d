//! `cargo xtask agents`: the tests that drive real command-line agents, with the one whose wheels
//! are too heavy for every run.

use std::process::ExitCode;

use anyhow::Result;

use crate::prerequisites::{Need, bring};
use crate::process::{as_root, cargo, runner, status, succeed};

/// Installs the agents below `target/clients` and runs the tests.
pub(crate) fn run() -> Result<ExitCode> {
    bring(Need::Tests)?;
    succeed(cargo(["build", "-p", "interceptor", "-p", "interceptor-tests", "--bins"]))?;
    let mut command = cargo(["test"]);
    command.args(runner(&as_root()?));
    command.args(["-p", "interceptor-tests", "--test", "agents", "--test", "agents_python"]);
    status(command)
}
