//! `cargo xtask bench`: the benchmarks.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::{cargo, status};

/// Benchmarks that need the lab.
const OF_THE_LAB: [&str; 1] = ["neighbours"];

/// `bench NAME…` runs one of the lab's benchmarks; else `cargo bench` of the product with these arguments.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let name = arguments.first().filter(|name| OF_THE_LAB.contains(&name.as_str()));
    let mut command = match name {
        Some(name) => cargo(["bench", "-p", "interceptor-tests", "--bench", name]),
        None => cargo(["bench", "-p", "interceptor"]),
    };
    command.args(arguments.iter().skip(usize::from(name.is_some())));
    status(command)
}
