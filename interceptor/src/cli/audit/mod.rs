//! `interceptor audit`: reads the records that `--audit` wrote, from files or from the daemon.
//!
//! Records quote the sandbox and are shown in a terminal, so control characters, invisible
//! characters and those that reorder text are always escaped.

mod filter;
mod follow;
mod last;
mod lines;
mod pattern;
mod record;
mod show;
mod stats;
mod tail;
mod verify;

use std::process::ExitCode;

pub(super) use self::filter::RecordFilter;
pub(super) use self::tail::{Tail, run as tail};

/// The arguments of `interceptor audit`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct AuditCommand {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What to do with records.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Shows the last records, one per line, and follows.
    Tail(Tail),
    /// Shows the records of your last `run`.
    Last(last::Last),
    /// Counts requests by decision, sandbox, host and path.
    Stats(stats::Stats),
    /// Verifies the hash chain of audit files and names the first record that breaks it.
    Verify(verify::Verify),
}

/// Runs the command.
pub fn run(arguments: AuditCommand) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Tail(arguments) => tail::run(arguments),
        Command::Last(arguments) => last::run(&arguments),
        Command::Stats(arguments) => stats::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
    }
}
