//! The commands, one file each. This file parses the arguments and runs one of them.

mod additions;
pub mod agents;
mod at_home;
pub mod attach;
pub mod audit;
mod audit_file;
mod authors;
mod aws_variables;
mod bounds;
mod candidates;
pub mod check;
mod common;
pub mod completions;
pub mod ctl;
mod daemon;
mod discovery;
pub mod doctor;
mod excerpt;
mod existing;
pub mod explain;
mod findings;
pub mod generate;
mod given;
mod history;
pub mod init;
pub mod install;
mod key_problems;
pub mod kubeconfig;
pub mod learn;
mod live;
mod meanwhile;
pub mod members;
mod notify;
pub mod oci_hook;
mod oci_refusal;
pub mod oci_runtime;
mod oci_shared;
mod oci_supervisor;
mod outbound;
mod perform;
mod permits;
mod person;
mod plan;
pub mod policy_file;
pub mod profiles;
mod programs;
pub mod ps;
pub mod registries;
pub mod replay;
mod road;
pub mod run;
pub mod sandbox_init;
pub mod schema;
pub mod serve;
mod serve_config;
mod serve_webhook;
pub mod services;
mod setup;
mod shown_policy;
mod stable;
mod sudo;
mod summary;
mod table;
mod told;
pub mod top;
pub mod trust;
mod watch;
mod which;
mod who;
mod whom;
pub mod why;
mod written;

use std::process::ExitCode;

use crate::notice;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory as _, Parser, Subcommand};

pub use common::{Common, Net};
use common::{colours, reader_is_gone, verdict};

/// Egress interceptor for sandboxed code: real APIs without real keys.
#[derive(Debug, Parser)]
#[command(name = "interceptor", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lints policies: every error and warning with its JSON path; exit 1 on an error.
    Check(check::CheckCommand),
    /// Shows what a policy decides for one request, by which filter and rule.
    Explain(explain::Explain),
    /// Shows what a new policy would change for the requests in an audit file.
    Replay(replay::Replay),
    /// Writes a policy for the agents, keys and git remotes found here.
    Init(init::Init),
    /// Trusts the content of a policy that `run` finds by itself.
    Trust(trust::Trust),
    /// Lists the known command-line agents, or shows one.
    Agents(agents::Agents),
    /// Explains the last refusal of your last `run`.
    Why(why::Why),
    /// Writes the smallest policy that permits what a run was permitted.
    Learn(learn::Learn),
    /// Lists the network profiles, or shows one.
    Profiles(profiles::Profiles),
    /// Lists the service catalogue, or shows one service.
    Services(services::Services),
    /// Prints the JSON Schema of the policy document, for editors.
    Schema(schema::Schema),
    /// Writes a kubeconfig for a client in a sandbox, with its authority and a placeholder.
    Kubeconfig(kubeconfig::Kubeconfig),
    /// Runs a command in a sandbox whose egress is intercepted.
    Run(run::Run),
    /// Lists your runs.
    Ps(ps::Ps),
    /// Shows live in a terminal what sandboxes do and ask, and answers them.
    Top(top::Top),
    /// Enforces a policy on an existing cgroup.
    Attach(attach::Attach),
    /// Enforces policies on containers before they start; an OCI hook, called by container engines.
    OciHook(oci_hook::OciHook),
    /// Wraps runc or crun, so that containers start under enforcement or not at all.
    OciRuntime(oci_runtime::OciRuntime),
    /// Runs the daemon: many sandboxes, with a control API on a unix socket.
    Serve(serve::Serve),
    /// The first process of a sandbox; started by `run`, not by people.
    #[command(hide = true)]
    SandboxInit(sandbox_init::SandboxInit),
    /// Accepts members' connections; started by `serve`, not by people.
    #[command(hide = true)]
    MemberDoor(members::door::MemberDoor),
    /// Makes one member's sandbox; started by `serve`, not by people.
    #[command(hide = true)]
    MemberRun(members::supervisor::MemberRun),
    /// Configures a container engine to call the hook, and proves it with a container.
    Install(install::Install),
    /// Tries to get out of a container; started by `install`, not by people.
    #[command(hide = true)]
    Prove(install::Prove),
    /// Checks what this host can do, with a remedy for each failure.
    Doctor(doctor::Doctor),
    /// Reads audit records: follows, counts or verifies them.
    Audit(audit::AuditCommand),
    /// Controls one of your runs, or the sandboxes of a running `interceptor serve`.
    Ctl(ctl::Ctl),
    /// Prints shell completions.
    Completions(completions::Completions),
    /// Writes completions and manual pages into a directory; for packagers, by `cargo xtask dist`.
    #[command(hide = true)]
    Generate(generate::Generate),
}

/// The exit status of `run` if the interceptor itself fails, as for env(1).
const OWN_FAILURE: u8 = 125;

/// Parses the arguments, runs the command, and maps its outcome to an exit status: an error of the
/// interceptor itself is 125 for `run`, otherwise 2, like clap's usage errors.
pub fn main() -> ExitCode {
    // Part of every start of a sandbox, so it does without a parser for all the commands.
    if std::env::args_os().skip(1).eq([sandbox_init::NAME]) {
        return sandbox_init::start();
    }
    if std::env::args_os().skip(1).eq([members::supervisor::NAME]) {
        return members::supervisor::start();
    }
    completions::answer(Cli::command);
    let parsed = match oci_runtime::by_name() {
        Some(arguments) => Cli::try_parse_from(arguments),
        None => Cli::try_parse(),
    };
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(error),
    };
    let failure = if matches!(cli.command, Command::Run(_) | Command::SandboxInit(_)) {
        OWN_FAILURE
    } else {
        2
    };
    let enforces = matches!(
        cli.command,
        Command::Run(_)
            | Command::SandboxInit(_)
            | Command::Attach(_)
            | Command::Serve(_)
            | Command::OciHook(_)
            | Command::OciRuntime(_)
            | Command::MemberDoor(_)
            | Command::MemberRun(_)
    );
    dispatch(cli.command).unwrap_or_else(|error| {
        if !enforces && error.downcast_ref().is_some_and(reader_is_gone) {
            return ExitCode::SUCCESS;
        }
        match error.downcast_ref::<findings::Invalid>() {
            Some(invalid) => notice::report(invalid),
            None => notice::error(format_args!("{error:#}")),
        }
        ExitCode::from(failure)
    })
}

/// Runs a command.
fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(arguments) => check::run(arguments),
        Command::Explain(arguments) => explain::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
        Command::Init(arguments) => init::run(arguments),
        Command::Trust(arguments) => trust::run(arguments),
        Command::Agents(arguments) => agents::run(arguments),
        Command::Why(arguments) => why::run(arguments),
        Command::Learn(arguments) => learn::run(arguments),
        Command::Profiles(arguments) => profiles::run(arguments),
        Command::Services(arguments) => services::run(arguments),
        Command::Schema(arguments) => schema::run(arguments),
        Command::Kubeconfig(arguments) => kubeconfig::run(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Ps(arguments) => ps::run(arguments),
        Command::Top(arguments) => top::run(arguments),
        Command::Attach(arguments) => attach::run(arguments),
        Command::OciHook(arguments) => oci_hook::run(arguments),
        Command::OciRuntime(arguments) => oci_runtime::run(arguments),
        Command::Serve(arguments) => serve::run(arguments),
        Command::SandboxInit(arguments) => sandbox_init::run(arguments),
        Command::MemberDoor(arguments) => members::door::run(arguments),
        Command::MemberRun(arguments) => members::supervisor::run(arguments),
        Command::Install(arguments) => install::run(arguments),
        Command::Prove(arguments) => install::prove(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Audit(arguments) => audit::run(arguments),
        Command::Ctl(arguments) => ctl::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Generate(arguments) => generate::run(arguments, &Cli::command()),
    }
}

/// Prints what clap says instead of running a command: an error, or help.
fn usage(error: clap::Error) -> ExitCode {
    // `run` passes on the command's status, so its own usage errors use 125.
    let is_run = std::env::args_os().nth(1).is_some_and(|command| command == "run");
    let failure = if is_run { OWN_FAILURE } else { 2 };
    let error = with_hint(error);
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(failure) } else { ExitCode::SUCCESS }
}

/// Adds a suggestion for a mistyped command: clap makes none for words that are short, or whose
/// letters are in another order.
fn with_hint(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    if error.get(ContextKind::SuggestedSubcommand).is_some() {
        return error;
    }
    // Below a command, its own commands are meant.
    let all = Cli::command();
    let words = std::env::args_os().skip(1).take_while(|word| *word != *typed.as_str());
    let within = words.fold(&all, |within, word| within.find_subcommand(&word).unwrap_or(within));
    let names = within.get_subcommands().filter(|command| !command.is_hide_set());
    let nearest = interceptor_policy::nearest_word(typed, names.map(clap::Command::get_name));
    if let Some(nearest) = nearest.map(str::to_owned) {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![nearest]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command with its path, `interceptor audit tail` …
    fn commands() -> Vec<(String, clap::Command)> {
        fn collect(path: &str, command: &clap::Command, into: &mut Vec<(String, clap::Command)>) {
            let path = format!("{path}{}", command.get_name());
            command
                .get_subcommands()
                .for_each(|command| collect(&format!("{path} "), command, into));
            into.push((path, command.clone()));
        }
        let mut root = Cli::command();
        root.build();
        let mut all = Vec::new();
        collect("", &root, &mut all);
        all
    }

    #[test]
    fn help_leaves_wrapping_to_the_terminal() {
        for (path, command) in commands() {
            let texts = [command.get_after_help(), command.get_long_about(), command.get_about()];
            for text in texts.into_iter().flatten().map(ToString::to_string) {
                let lines: Vec<&str> = text.lines().collect();
                for pair in lines.windows(2) {
                    let prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
                    assert!(
                        !(prose(pair[0]) && prose(pair[1])),
                        "{path}: a paragraph is cut: {pair:?}"
                    );
                }
                // Examples are not wrapped, so that they can be copied: they fit as they are.
                for line in lines.iter().filter(|line| line.starts_with(' ')) {
                    assert!(
                        line.chars().count() <= 80,
                        "{path}: {line:?} is longer than a terminal is wide"
                    );
                }
            }
        }
    }

    #[test]
    fn help_fits_the_terminal_at_every_width() {
        for width in [80, 100, 200] {
            for (path, command) in commands() {
                // A wide terminal gets lines of a hundred columns.
                let help =
                    command.clone().term_width(width.min(100)).render_long_help().to_string();
                let lines: Vec<&str> = help.lines().collect();
                for (number, line) in lines.iter().enumerate() {
                    assert!(line.chars().count() <= width.min(100), "{path} at {width}: {line:?}");
                    // What is wrapped twice leaves the rest of a line alone on the next.
                    let (before, after) =
                        (number.checked_sub(1).map(|at| lines[at]), lines.get(number + 1));
                    let stub = line.split_whitespace().count() == 1 && line.chars().count() < 12;
                    let ends = line.ends_with(['.', ':', ')', ']', '>']) || line.starts_with("  ");
                    let alone = before.is_some_and(|before| before.len() > width / 2)
                        && after.is_some_and(|after| !after.is_empty());
                    assert!(!(stub && alone && !ends), "{path} at {width}: {line:?} stands alone");
                }
            }
        }
    }

    #[test]
    fn every_command_and_option_is_explained() {
        for (path, command) in commands() {
            if path.contains("help") {
                continue;
            }
            assert!(command.get_about().is_some(), "{path} has no description");
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 5, "{path}: {} has no help", argument.get_id());
            }
        }
    }
}
