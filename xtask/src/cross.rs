//! `cargo xtask cross`: checks that the product compiles for aarch64, on a machine of another
//! architecture.
//!
//! It checks the standard library from the sources of the eBPF object's compiler, and compiles C
//! dependencies with a cross compiler. Nothing is linked.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::ebpf::find_rustc;

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Debian's cross compiler, which `.ci/run` installs.
const COMPILER: &str = "aarch64-linux-gnu-gcc";

/// Runs the command.
pub(crate) fn run() -> Result<()> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?;
    let (rustc, ..) = find_rustc().context(
        "no rustc with its library sources:\n    apt-get install rustc-web rust-web-src     \
         (Debian: rustc 1.96)\n    or: rustup toolchain install nightly --component rust-src",
    )?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(root)
        // `cargo xtask` sets these for the toolchain that built xtask, which is a different one.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env("RUSTC", rustc)
        // build-std is unstable; this lets a release compiler take it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CC_aarch64_unknown_linux_gnu", COMPILER)
        // The result is not run, so it need not be fast.
        .env("CFLAGS_aarch64_unknown_linux_gnu", "-O0")
        .args([
            "check",
            "--quiet",
            "-Z",
            "build-std=std,panic_abort",
            "--target",
            TARGET,
            "--locked",
        ])
        .args(["--package", "interceptor", "--lib", "--bins", "--target-dir"])
        .arg(root.join("target/cross"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the check for {TARGET} failed: {status}");
    Ok(())
}
