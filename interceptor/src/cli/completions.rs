//! `interceptor completions`: prints shell completions.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

/// The arguments of `interceptor completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor completions bash > /etc/bash_completion.d/interceptor
  interceptor completions zsh \\
    > /usr/local/share/zsh/site-functions/_interceptor
  interceptor completions fish > ~/.config/fish/completions/interceptor.fish")]
pub struct Completions {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command; `all` is the whole command line.
pub fn run(arguments: Completions, all: Command) -> anyhow::Result<ExitCode> {
    io::stdout().lock().write_all(&text(arguments.shell, all))?;
    Ok(ExitCode::SUCCESS)
}

/// The completions of one shell.
pub(super) fn text(shell: Shell, mut all: Command) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut all, "interceptor", &mut text);
    text
}
