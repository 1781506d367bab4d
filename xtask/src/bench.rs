//! `cargo xtask bench`: the benchmarks.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::instructions;
use crate::peers;
use crate::prerequisites::{Need, bring};
use crate::process::{as_root, cargo, runner, status, succeed};

/// Benchmarks of parts of the product, and those that need the lab.
const OF_THE_PRODUCT: [&str; 3] = ["decide", "redact", "sandboxes"];
const OF_THE_LAB: [&str; 3] = ["fleet", "neighbours", "requests"];

/// `bench NAME…` runs one benchmark with the remaining arguments; `bench` runs all.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    if arguments == ["--prerequisites"] {
        return bring(Need::Benches).map(|()| ExitCode::SUCCESS);
    }
    if let Some((_, rest)) = arguments.split_first().filter(|(name, _)| *name == "instructions") {
        return instructions::run(rest).map(|()| ExitCode::SUCCESS);
    }
    // Check this before anything is built.
    let named = arguments.first().map(String::as_str);
    if named.is_none() || named == Some("requests") {
        bring(Need::Benches)?;
    }
    // The programs that the lab starts.
    succeed(cargo([
        "build",
        "--release",
        "-p",
        "interceptor",
        "-p",
        "interceptor-tests",
        "--bins",
    ]))?;
    let runner = runner(&as_root()?);
    let bench = |name: &str, arguments: &[String]| {
        let package = if OF_THE_LAB.contains(&name) { "interceptor-tests" } else { "interceptor" };
        let mut command = cargo(["bench", "--quiet", "-p", package, "--bench", name]);
        command.args(&runner).arg("--").args(arguments);
        if name == "requests" {
            command.args(peers::bring());
        }
        command
    };
    match arguments.split_first() {
        Some((name, rest))
            if OF_THE_PRODUCT.iter().chain(&OF_THE_LAB).any(|known| known == name) =>
        {
            status(bench(name, rest))
        }
        Some((name, _)) => {
            bail!(
                "there is no benchmark {name}; there are {}, {}",
                OF_THE_PRODUCT.join(", "),
                OF_THE_LAB.join(", ")
            )
        }
        None => {
            for name in OF_THE_PRODUCT.iter().chain(&OF_THE_LAB) {
                println!("=== {name}");
                succeed(bench(name, &[]))?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
