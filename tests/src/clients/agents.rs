//! Command-line agents from their registries, unmodified, in a directory for `PATH`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::prepared::{prepared, run};
use super::{NODE, PYTHON, source, text, version};

/// The directory with the agents of `tests/clients/agents/package.json`.
pub fn from_npm() -> PathBuf {
    let inputs = [&*text("agents/package.json"), &version(NODE, &["--version"])];
    let directory = prepared("agents", &inputs, |directory| {
        fs::copy(source("agents/package.json"), directory.join("package.json"))
            .expect("own directory");
        let mut npm = Command::new("npm");
        // Their scripts only put the programs for this machine in place, as is done below.
        npm.args(["install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]);
        npm.args(["--loglevel", "error"]).current_dir(directory);
        run(npm, "npm (package npm), and a registry that it is set up for");
        let bin = directory.join("bin");
        fs::create_dir(&bin).expect("own directory");
        for (name, program) in programs() {
            symlink(Path::new("../node_modules").join(program), bin.join(name))
                .expect("own directory");
        }
    });
    let bin = directory.join("bin");
    for (name, _) in programs() {
        assert!(bin.join(name).exists(), "npm installed no {name} for this machine");
    }
    bin
}

/// The commands, and where their packages have them.
fn programs() -> [(&'static str, String); 5] {
    let machine = if cfg!(target_arch = "aarch64") { "linux-arm64" } else { "linux-x64" };
    [
        ("claude", format!("@anthropic-ai/claude-code-{machine}/claude")),
        ("codex", ".bin/codex".to_owned()),
        ("copilot", format!("@github/copilot-{machine}/copilot")),
        ("gemini", ".bin/gemini".to_owned()),
        ("opencode", format!("opencode-{machine}/bin/opencode")),
    ]
}

/// The directory with `aider`, some hundred megabytes of wheels.
pub fn aider() -> PathBuf {
    let inputs = [&*text("agents/requirements.txt"), &version(PYTHON, &["--version"])];
    let directory = prepared("aider", &inputs, |directory| {
        let mut pip = Command::new(PYTHON);
        pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
        pip.args(["--root-user-action", "ignore", "--target"]).arg(directory.join("packages"));
        pip.arg("--requirement").arg(source("agents/requirements.txt"));
        run(
            pip,
            "Debian's python3 with pip (package python3-pip), and a package index that pip is set \
             up for",
        );
        fs::create_dir(directory.join("bin")).expect("own directory");
        let start = format!(
            "#!/bin/sh\nPYTHONPATH=$(dirname \"$(readlink -f \"$0\")\")/../packages exec {PYTHON} \
             -m aider \"$@\"\n"
        );
        let program = directory.join("bin/aider");
        fs::write(&program, start).expect("own directory");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("own directory");
    });
    directory.join("bin")
}
