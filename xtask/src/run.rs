//! `cargo xtask run`: the demonstration; with arguments, the interceptor itself.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::{as_root, become_command, built, cargo, root_command, succeed};

/// Builds and runs.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let arguments = match arguments {
        [dashes, rest @ ..] if dashes == "--" => rest,
        all => all,
    };
    if arguments.is_empty() {
        let what = ["-p", "interceptor", "-p", "interceptor-tests", "--bins"];
        succeed(cargo(["build", "--quiet", "--release"].iter().chain(&what)))?;
        return become_command(root_command(&built("release", "demo")?)?);
    }
    succeed(cargo(["build", "--quiet", "--release", "-p", "interceptor"]))?;
    let interceptor = built("release", "interceptor")?;
    // Only what makes or joins a sandbox needs root: `check` and `explain` are anybody's.
    let privileged = matches!(arguments[0].as_str(), "run" | "attach" | "serve" | "doctor");
    let mut command = if privileged && !as_root()?.is_empty() {
        root_command(&interceptor)?
    } else {
        Command::new(&interceptor)
    };
    command.args(arguments);
    become_command(command)
}
