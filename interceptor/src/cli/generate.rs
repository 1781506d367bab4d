//! `interceptor generate`: the files that a package of it carries and that follow from its arguments: completions and manual pages.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::completions;

/// The arguments of `interceptor generate`.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// The directory to write into: `completions` and `man` are made below it.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Runs the command.
pub fn run(arguments: Generate) -> anyhow::Result<ExitCode> {
    let below = |name: &str| -> anyhow::Result<PathBuf> {
        let directory = arguments.to.join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    };
    let directory = below("completions")?;
    for (shell, name) in
        [(Shell::Bash, "interceptor.bash"), (Shell::Zsh, "_interceptor"), (Shell::Fish, "interceptor.fish")]
    {
        let path = directory.join(name);
        fs::write(&path, completions::text(shell))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let directory = below("man")?;
    // One page a command, named `interceptor-audit-tail.1` and so on; the commands that are not for people have none.
    clap_mangen::generate_to(super::Cli::command(), &directory)
        .with_context(|| format!("cannot write manual pages into {}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
