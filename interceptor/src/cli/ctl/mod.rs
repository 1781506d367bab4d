//! `interceptor ctl`: controls a running `interceptor serve` over its control socket.
//!
//! A thin client that prints the daemon's responses as tables, or unchanged with `--json`. Keys
//! reach the daemon in a policy document, from a file or standard input, never as an argument. No
//! response contains a key.

mod print;
mod sandboxes;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::audit::{RecordFilter, Tail};
use super::daemon::client::{self, ApiError, ApiRequest, ApiResponse};
use super::daemon::{SOCKET, block_on, conclude_any};
use super::policy_file;

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
    /// Print the daemon's response as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What to ask.
    #[command(subcommand)]
    command: Command,
}

/// What to ask.
#[derive(Debug, Subcommand)]
enum Command {
    /// Lists, shows, creates and deletes sandboxes.
    Sandboxes(sandboxes::SandboxesCommand),
    /// Shows or replaces the policy of a sandbox.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Follows the audit records of a sandbox.
    Audit {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
        /// Which records.
        #[command(flatten)]
        filter: RecordFilter,
    },
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
        /// The policy document; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Close connections that the new policy does not permit.
        #[arg(long)]
        close: bool,
    },
}

/// Runs the command.
pub fn run(arguments: Ctl) -> anyhow::Result<ExitCode> {
    let Ctl { control, json, command } = arguments;
    let to = DaemonClient { control, json };
    conclude_any(match command {
        Command::Sandboxes(arguments) => sandboxes::run(&to, arguments),
        Command::Policy(PolicyCommand::Get { id }) => sandboxes::policy(&to, &id),
        Command::Policy(PolicyCommand::Put { id, file, close }) => put(&to, &id, &file, close),
        Command::Audit { id, filter } => {
            return super::audit::tail(Tail::of_daemon(id, to.control, filter, json));
        }
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
        Command::Openapi => to.get("/openapi.json").and_then(|value| to.print(&value, print::json)),
    })
}

fn put(to: &DaemonClient, id: &str, file: &std::path::Path, close: bool) -> anyhow::Result<()> {
    let text = policy_file::read_strict(file)?;
    let close = if close { "?close=true" } else { "" };
    let path = format!("{}/policy{close}", sandboxes::path(id));
    let body = Some(("application/json", text.as_bytes().to_vec()));
    let value = to.value(ApiRequest { method: Method::PUT, path, body })?;
    to.print(&value, |out, value| {
        writeln!(out, "{}: policy replaced", print::text(&value["id"]))?;
        print::warnings(out, value)
    })
}

/// The daemon, and how to print its responses.
struct DaemonClient {
    control: PathBuf,
    json: bool,
}

impl DaemonClient {
    /// Sends a request; an error status is an error.
    fn ask(&self, question: ApiRequest) -> anyhow::Result<ApiResponse> {
        Ok(block_on(client::ask(&self.control, question))?)
    }

    /// Sends a request and parses the JSON response.
    fn value(&self, question: ApiRequest) -> anyhow::Result<Value> {
        let answer = self.ask(question)?;
        Ok(serde_json::from_slice(&answer.body).map_err(|error| ApiError::Malformed {
            path: self.control.clone(),
            what: format!("its answer is not JSON: {error}"),
        })?)
    }

    /// GETs a path.
    fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.value(ApiRequest::get(path))
    }

    /// Prints a value, as JSON or with `human`.
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
