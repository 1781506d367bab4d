//! `interceptor generate`: writes shell completions and manual pages for packages.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Command;

use super::completions::{self, Shell};

/// The arguments of `interceptor generate`.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// The output directory; gets the subdirectories `completions` and `man`.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Runs the command; `all` is the whole command line.
pub fn run(arguments: Generate, all: &Command) -> anyhow::Result<ExitCode> {
    let below = |name: &str| -> anyhow::Result<PathBuf> {
        let directory = arguments.to.join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    };
    let directory = below("completions")?;
    for (shell, name) in [
        (Shell::Bash, "interceptor.bash"),
        (Shell::Zsh, "_interceptor"),
        (Shell::Fish, "interceptor.fish"),
    ] {
        let path = directory.join(name);
        fs::write(&path, completions::text(shell))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let directory = below("man")?;
    // One page per command, such as `interceptor-audit-tail.1`; hidden commands have none.
    clap_mangen::generate_to(all.clone(), &directory)
        .with_context(|| format!("cannot write manual pages into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
