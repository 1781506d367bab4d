//! `interceptor ctl`: speaks with a running `interceptor serve` over its control socket.
//!
//! A thin client: it asks, and prints what the daemon says as tables or, with `--json`, as it came. Keys go to the daemon in a policy
//! document, from a file or standard input, never in an argument; no answer holds one.

mod client;
pub(in crate::cli) mod events;
mod print;
mod problem;
mod sandboxes;

use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::Value;
use zeroize::Zeroizing;

pub(in crate::cli) use self::client::Failure;
use self::client::{Answer, Question};
use super::audit::{Filter, Tail};
use super::policy_file;
use crate::notice;

/// Where the daemon's control socket is unless it is told otherwise.
pub(in crate::cli) const SOCKET: &str = "/run/interceptor/control.sock";

/// The arguments of `interceptor ctl`.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  sudo interceptor ctl sandboxes
  sudo interceptor ctl sandboxes create --policy p.json \\
    --cgroup /sys/fs/cgroup/agents.slice
  sudo interceptor ctl policy put web p.json --close
  sudo interceptor ctl audit web --decision deny
  vault-tool render p.json | sudo interceptor ctl policy put web -

Exit status: 0 done, 1 the daemon refused, 2 it cannot be reached or the arguments are invalid."
)]
pub struct Ctl {
    /// The daemon's control socket.
    #[arg(long, value_name = "PATH", default_value = SOCKET, global = true)]
    control: PathBuf,
    /// Print what the daemon says as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What to ask.
    #[command(subcommand)]
    command: Command,
}

/// What to ask.
#[derive(Debug, Subcommand)]
enum Command {
    /// Lists, shows, makes and removes sandboxes.
    Sandboxes(sandboxes::Sandboxes),
    /// Shows or replaces the policy of a sandbox.
    #[command(subcommand)]
    Policy(Policy),
    /// Follows the audit records of a sandbox.
    Audit {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
        /// Which records.
        #[command(flatten)]
        filter: Filter,
    },
    /// Lists the network profiles that the daemon knows.
    Profiles,
    /// Lists the services that the daemon knows.
    Services,
    /// Says whether the daemon lives.
    Health,
    /// Prints the metrics, in Prometheus' text format.
    Metrics,
    /// Prints the description of the control API (OpenAPI).
    Openapi,
}

/// What to do with a policy.
#[derive(Debug, Subcommand)]
enum Policy {
    /// Prints it, without its keys.
    Get {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Replaces it: each later request is judged by the new one. A policy that is not valid changes nothing.
    Put {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
        /// The policy document; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Close connections that the new policy would not permit.
        #[arg(long)]
        close: bool,
    },
}

/// Runs the command.
pub fn run(arguments: Ctl) -> anyhow::Result<ExitCode> {
    let Ctl { control, json, command } = arguments;
    let to = Daemon { control, json };
    conclude_any(match command {
        Command::Sandboxes(arguments) => sandboxes::run(&to, arguments),
        Command::Policy(Policy::Get { id }) => sandboxes::policy(&to, &id),
        Command::Policy(Policy::Put { id, file, close }) => put(&to, &id, &file, close),
        Command::Audit { id, filter } => {
            return super::audit::tail(Tail::of_daemon(id, to.control, filter, json));
        }
        Command::Profiles => {
            to.get("/v1/network-profiles").and_then(|value| to.print(&value, print::profiles))
        }
        Command::Services => to.get("/v1/services").and_then(|value| to.print(&value, print::services)),
        Command::Health => to.get("/healthz").and_then(|value| to.print(&value, print::health)),
        Command::Metrics => {
            to.ask(Question::get("/metrics")).and_then(|answer| Ok(print::raw(&answer.body)?))
        }
        Command::Openapi => to.get("/openapi.json").and_then(|value| to.print(&value, print::json)),
    })
}

fn put(to: &Daemon, id: &str, file: &std::path::Path, close: bool) -> anyhow::Result<()> {
    let text = Zeroizing::new(policy_file::read(file)?);
    let close = if close { "?close=true" } else { "" };
    let path = format!("{}/policy{close}", sandboxes::path(id));
    let body = Some(("application/json", text.as_bytes().to_vec()));
    let value = to.value(Question { method: Method::PUT, path, body })?;
    to.print(&value, |out, value| {
        writeln!(out, "{}: policy replaced", print::text(&value["id"]))?;
        print::warnings(out, value)
    })
}

/// The daemon, and how its answers are printed.
struct Daemon {
    control: PathBuf,
    json: bool,
}

impl Daemon {
    /// An answer that is no refusal.
    fn ask(&self, question: Question) -> anyhow::Result<Answer> {
        Ok(block_on(client::ask(&self.control, question))?)
    }

    /// An answer that is JSON.
    fn value(&self, question: Question) -> anyhow::Result<Value> {
        let answer = self.ask(question)?;
        Ok(serde_json::from_slice(&answer.body).map_err(|error| Failure::Strange {
            path: self.control.clone(),
            what: format!("its answer is not JSON: {error}"),
        })?)
    }

    /// What is at a path.
    fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.value(Question::get(path))
    }

    /// Prints a value as it came, or for people.
    fn print(
        &self,
        value: &Value,
        human: impl FnOnce(&mut dyn Write, &Value) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        if self.json { print::json(&mut out, value) } else { human(&mut out, value) }?;
        Ok(out.flush()?)
    }
}

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// The exit status of what was asked: a refusal is told here, what else went wrong is the caller's to tell.
pub(in crate::cli) fn conclude(outcome: Result<(), Failure>) -> anyhow::Result<ExitCode> {
    match outcome {
        // As an error of its own, a reader that has left is known for what it is.
        Err(Failure::Output(error)) => Err(error.into()),
        outcome => conclude_any(outcome.map_err(anyhow::Error::from)),
    }
}

fn conclude_any(outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    let error = match outcome {
        Ok(()) => return Ok(ExitCode::SUCCESS),
        Err(error) => error,
    };
    match error.downcast::<Failure>() {
        Ok(refused @ Failure::Refused(_)) => {
            notice::error(refused);
            Ok(ExitCode::FAILURE)
        }
        Ok(other) => Err(other.into()),
        Err(error) => Err(error),
    }
}
