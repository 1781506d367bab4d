//! `cargo xtask run`: the demonstration; with arguments, the interceptor itself.

use std::io::IsTerminal;
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
        let what = ["--profile", "demo", "-p", "interceptor", "-p", "interceptor-tests", "--bins"];
        let demo = built("demo", "demo")?;
        build("the demonstration, without optimisation", "two minutes", demo.exists(), &what)?;
        return become_command(root_command(&demo)?);
    }
    let interceptor = built("release", "interceptor")?;
    let what = ["--release", "-p", "interceptor"];
    build("the interceptor, optimised", "five minutes", interceptor.exists(), &what)?;
    // Only commands that make or join a sandbox need root; `check` and `explain` do not.
    let privileged = matches!(arguments[0].as_str(), "run" | "attach" | "serve" | "doctor");
    let mut command = if privileged && !as_root()?.is_empty() {
        root_command(&interceptor)?
    } else {
        Command::new(&interceptor)
    };
    command.args(arguments);
    become_command(command)
}

/// Builds, and says so because the first time takes minutes.
fn build(what: &str, minutes: &str, again: bool, arguments: &[&str]) -> Result<()> {
    if !again {
        eprintln!("xtask: building {what}: the first time takes about {minutes} on two cores");
    }
    // On a terminal cargo shows its progress; in a log its lines would bury the output.
    let quiet = if std::io::stderr().is_terminal() { &[][..] } else { &["--quiet"] };
    succeed(cargo([&["build"], quiet, arguments].concat()))
}
