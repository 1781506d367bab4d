//! `interceptor audit`: reads the records that `--audit` wrote, from files or from the daemon.
//!
//! What a record says of a request came from the sandbox, and ends here in a terminal: every text is shown with what could
//! steer a terminal, reorder text or hide written as an escape, whoever wrote the file.

mod filter;
mod follow;
mod lines;
mod pattern;
mod record;
mod show;
mod stats;
mod tail;
mod verify;

use std::process::ExitCode;

pub(super) use self::filter::Filter;
pub(super) use self::tail::{Tail, run as tail};

/// The arguments of `interceptor audit`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Audit {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What to do with records.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Shows the last records, one line each, and follows.
    Tail(Tail),
    /// Counts who was denied what, and how often.
    Stats(stats::Stats),
    /// Checks the hash chain of audit files, and names the first record that does not fit.
    Verify(verify::Verify),
}

/// Runs the command.
pub fn run(arguments: Audit) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Tail(arguments) => tail::run(arguments),
        Command::Stats(arguments) => stats::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
    }
}
