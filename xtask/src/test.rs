//! `cargo xtask test`: every test there is.

use std::process::ExitCode;

use anyhow::Result;

use crate::prerequisites::{Need, bring};
use crate::process::{as_root, cargo, runner, status, succeed};

/// Builds the programs for the integration tests, then runs `cargo test` with these arguments.
///
/// Cargo builds as the user. The tests run as root, through sudo if necessary, by cargo's `runner`
/// setting.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    if arguments == ["--prerequisites"] {
        return bring(Need::Everything).map(|()| ExitCode::SUCCESS);
    }
    // Check before anything is built. A selection of tests may not need all of it.
    match bring(Need::Tests) {
        Err(missing) if !arguments.is_empty() => {
            eprintln!("xtask: some tests would fail here: {missing:#}")
        }
        outcome => outcome?,
    }
    succeed(cargo(["build", "-p", "interceptor", "-p", "interceptor-tests", "--bins"]))?;
    let mut command = cargo(["test"]);
    command.args(runner(&as_root()?));
    // The eBPF crate is no default member, but the types it shares have tests of their own.
    if !arguments
        .iter()
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
    {
        command.arg("--workspace");
    }
    command.args(arguments);
    status(command)
}
