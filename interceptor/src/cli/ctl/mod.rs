//! `interceptor ctl`: controls a running `interceptor serve`, or one of the user's own runs, over
//! its control socket.
//!
//! A thin client that prints the responses as tables, or unchanged with `--json`. Keys
//! reach the daemon in a policy document, from a file or standard input, never as an argument. No
//! response contains a key.

mod always;
mod approvals;
mod leases;
mod page;
mod print;
mod sandboxes;
mod to;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use http::Method;

use super::audit::{RecordFilter, Tail};
use super::daemon::client::ApiRequest;
use super::daemon::conclude_any;
use super::given;
use super::whom::{self, Whom};
pub(super) use always::for_good;
pub(super) use approvals::{decide, duration};
pub(super) use to::DaemonClient;

/// The arguments of `interceptor ctl`.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  interceptor ctl audit my-run            (a run of yours, see interceptor ps)
  interceptor ctl policy put my-run policy.json
  sudo interceptor ctl sandboxes
  sudo interceptor ctl sandboxes create --policy p.json \\
    --cgroup /sys/fs/cgroup/agents.slice
  sudo interceptor ctl policy put web p.json --close
  sudo interceptor ctl audit web --decision deny
  sudo interceptor ctl approve ID --for 1h
  sudo interceptor ctl page --open
  sudo interceptor ctl lease web --allow pypi.example --for 15m
  vault-tool render p.json | sudo interceptor ctl policy put web -

Exit status: 0 done, 1 the daemon refused, 2 it cannot be reached or the arguments are invalid."
)]
pub struct Ctl {
    /// The control socket [default: that of your run with the given ID, else
    /// /run/interceptor/control.sock].
    #[arg(long, value_name = "PATH", global = true)]
    control: Option<PathBuf>,
    /// Print the daemon's response as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Lists, shows, creates and deletes sandboxes.
    Sandboxes(sandboxes::SandboxesCommand),
    /// Shows or replaces the policy of a sandbox.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Shows the audit records of a sandbox that the daemon keeps, and follows.
    Audit {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
        /// Which records.
        #[command(flatten)]
        filter: RecordFilter,
    },
    /// Lists what sandboxes ask a person (the policy's `ask`).
    Approvals {
        /// Follow the questions as they come and go.
        #[arg(long)]
        watch: bool,
    },
    /// Approves a question: its requests go on.
    Approve(approvals::Approve),
    /// Refuses a question: its requests get 403.
    Refuse {
        /// The question.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Lists what is permitted in addition to the policies, for a time or a number of requests.
    Leases {
        /// Only those of this sandbox.
        #[arg(value_name = "SANDBOX")]
        sandbox: Option<String>,
    },
    /// Permits a host for a time or a number of requests, or revokes that.
    Lease(leases::Lease),
    /// Prints the address of the page (`--page`), which lets one browser in.
    Page(page::PageCommand),
    /// Lists the daemon's network profiles.
    Profiles,
    /// Lists the daemon's service catalogue.
    Services,
    /// Shows whether the daemon is up.
    Health,
    /// Prints the metrics in Prometheus text format.
    Metrics,
    /// Prints the description of the control API (OpenAPI).
    Openapi,
}

/// What to do with a policy.
#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Prints the policy without its keys.
    Get {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replaces the policy for all later requests. An invalid policy changes nothing.
    Put {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
        /// The policy: a file, a name as for `run`, or `-` for standard input.
        #[arg(value_name = "FILE|NAME")]
        file: PathBuf,
        /// Close connections that the new policy does not permit.
        #[arg(long)]
        close: bool,
    },
}

/// Runs the command.
pub fn run(arguments: Ctl) -> anyhow::Result<ExitCode> {
    let Ctl { control, json, command } = arguments;
    let of = |id: &str| -> anyhow::Result<DaemonClient> {
        Ok(DaemonClient { whom: Whom::has(control.clone(), id)?, json })
    };
    conclude_any(match command {
        Command::Sandboxes(arguments) => sandboxes::run(control, json, arguments),
        Command::Policy(PolicyCommand::Get { id }) => {
            of(&id).and_then(|to| to.whom.explain(&id, sandboxes::policy(&to, &id)))
        }
        Command::Policy(PolicyCommand::Put { id, file, close }) => {
            of(&id).and_then(|to| to.whom.explain(&id, put(&to, &id, &file, close)))
        }
        Command::Audit { id, filter } => {
            return super::audit::tail(Tail::of_daemon(id, control, filter, json));
        }
        Command::Approvals { watch } => {
            all_of(&control, json).and_then(|all| approvals::list(&all, watch))
        }
        Command::Approve(arguments) => {
            all_of(&control, json).and_then(|all| approvals::approve(&all, &arguments))
        }
        Command::Refuse { id } => {
            all_of(&control, json).and_then(|all| approvals::refuse(&all, &id))
        }
        Command::Leases { sandbox: Some(id) } => of(&id).and_then(|to| {
            to.whom.explain(&id, leases::list(std::slice::from_ref(&to), Some(&id)))
        }),
        Command::Leases { sandbox: None } => {
            all_of(&control, json).and_then(|all| leases::list(&all, None))
        }
        Command::Page(arguments) => match &arguments.sandbox {
            Some(id) => of(id).and_then(|to| to.whom.explain(id, page::one(&to, arguments.open))),
            None => all_of(&control, json).and_then(|all| page::any(&all, arguments.open)),
        },
        Command::Lease(arguments) => {
            let id = arguments.sandbox.clone();
            of(&id).and_then(|to| to.whom.explain(&id, leases::give(&to, &arguments)))
        }
        command => of_daemon(&DaemonClient { whom: Whom::daemon(control), json }, &command),
    })
}

/// The named socket; else those of the user's runs, and last the daemon's.
fn all_of(control: &Option<PathBuf>, json: bool) -> anyhow::Result<Vec<DaemonClient>> {
    let mut all: Vec<DaemonClient> = Vec::new();
    if control.is_none() {
        let runs = whom::own_runs()?.into_iter().map(Whom::of_run);
        all.extend(runs.map(|whom| DaemonClient { whom, json }));
    }
    all.push(DaemonClient { whom: Whom::daemon(control.clone()), json });
    Ok(all)
}

/// Commands for the daemon alone.
fn of_daemon(to: &DaemonClient, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Profiles => {
            to.get("/v1/network-profiles").and_then(|value| to.print(&value, print::profiles))
        }
        Command::Services => {
            to.get("/v1/services").and_then(|value| to.print(&value, print::services))
        }
        Command::Health => to.get("/healthz").and_then(|value| to.print(&value, print::health)),
        Command::Metrics => {
            to.ask(ApiRequest::get("/metrics")).and_then(|answer| Ok(print::raw(&answer.body)?))
        }
        // All other commands name a sandbox.
        _ => to.get("/openapi.json").and_then(|value| to.print(&value, print::json)),
    }
}

fn put(to: &DaemonClient, id: &str, file: &std::path::Path, close: bool) -> anyhow::Result<()> {
    let text = given::read_strict(file)?;
    let close = if close { "?close=true" } else { "" };
    let path = format!("{}/policy{close}", sandboxes::path(id));
    let body = Some(("application/json", text.as_bytes().to_vec()));
    let value = to.value(ApiRequest { method: Method::PUT, path, body })?;
    to.print(&value, |out, value| {
        writeln!(out, "{}: policy replaced", print::text(&value["id"]))?;
        print::warnings(out, value)
    })
}
