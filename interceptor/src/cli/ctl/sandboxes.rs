//! `interceptor ctl sandboxes`, and the policy of one.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::print;
use super::to::DaemonClient;
use crate::cli::daemon::client::ApiRequest;
use crate::cli::daemon::events;
use crate::cli::whom::{self, Whom};
use crate::cli::{given, ps};

/// The arguments of `interceptor ctl sandboxes`.
#[derive(Debug, clap::Args)]
pub(super) struct SandboxesCommand {
    /// What to do [default: list].
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do with sandboxes.
#[derive(Debug, Subcommand)]
enum Command {
    /// Lists them.
    List,
    /// Shows a sandbox.
    Show {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Enforces a policy on a cgroup.
    Create(Create),
    /// Stops enforcing a sandbox. End its processes first: any left over are no longer intercepted.
    Delete {
        /// The sandbox.
        #[arg(value_name = "ID")]
        id: String,
    },
}

/// The arguments of `interceptor ctl sandboxes create`.
#[derive(Debug, clap::Args)]
struct Create {
    /// The cgroup: a directory in a cgroup v2 mount, or a path relative to the mount.
    #[arg(long, value_name = "PATH")]
    cgroup: String,
    /// The policy: a file, a name as for `run`, or `-` for standard input [default: the daemon's
    /// own].
    #[arg(long, value_name = "FILE|NAME")]
    policy: Option<PathBuf>,
    /// A process of the cgroup in the sandbox's network namespace.
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// The sandbox's network namespace, e.g. /run/netns/NAME.
    #[arg(long, value_name = "PATH")]
    netns: Option<String>,
    /// The network namespace belongs to this sandbox alone (docker run --network none), so its
    /// loopback traffic is allowed.
    #[arg(long)]
    private_network: bool,
    /// The sandbox's id [default: random].
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// Runs the command.
pub(super) fn run(
    control: Option<PathBuf>,
    json: bool,
    arguments: SandboxesCommand,
) -> anyhow::Result<()> {
    let of = |id: &str| -> anyhow::Result<DaemonClient> {
        Ok(DaemonClient { whom: Whom::has(control.clone(), id)?, json })
    };
    match arguments.command.unwrap_or(Command::List) {
        Command::List => {
            let list = list(control.clone(), json)?;
            DaemonClient { whom: Whom::daemon(control), json }.print(&list, print::sandboxes)
        }
        Command::Show { id } => {
            let to = of(&id)?;
            to.print(&to.whom.explain(&id, to.get(&path(&id)))?, print::sandbox)
        }
        Command::Create(arguments) => {
            let to = DaemonClient { whom: Whom::daemon(control), json };
            let body = body(&arguments)?;
            let body = Some(("application/json", body.as_bytes().to_vec()));
            let question =
                ApiRequest { method: Method::POST, path: "/v1/sandboxes".to_owned(), body };
            to.print(&to.value(question)?, print::created)
        }
        Command::Delete { id } => {
            let to = of(&id)?;
            if to.whom.run.is_some() {
                bail!("{id} is one of your runs: end its command instead");
            }
            to.ask(ApiRequest { method: Method::DELETE, path: path(&id), body: None })?;
            to.print(&serde_json::json!({ "deleted": id }), |out, value| {
                writeln!(out, "{}: removed", print::text(&value["deleted"]))
            })
        }
    }
}

/// The daemon's sandboxes, and the user's own runs where no socket is named.
fn list(control: Option<PathBuf>, json: bool) -> anyhow::Result<Value> {
    let runs = match control {
        Some(_) => Vec::new(),
        None => ps::ask(whom::own_runs()?),
    };
    let answer = DaemonClient { whom: Whom::daemon(control), json }.get("/v1/sandboxes");
    let mut list = match answer {
        Ok(list) => list,
        // Most users have no daemon, or may not use it.
        Err(_) if !runs.is_empty() => serde_json::json!({ "sandboxes": [] }),
        Err(error) => return Err(error),
    };
    if let Some(sandboxes) = list["sandboxes"].as_array_mut() {
        sandboxes.extend(runs);
        sandboxes.sort_by(|one, other| one["id"].as_str().cmp(&other["id"].as_str()));
    }
    Ok(list)
}

/// Prints the policy of a sandbox.
pub(super) fn policy(to: &DaemonClient, id: &str) -> anyhow::Result<()> {
    let value = to.get(&path(id))?;
    to.print(&value["policy"], print::json)
}

/// The path of a sandbox.
pub(super) fn path(id: &str) -> String {
    format!("/v1/sandboxes/{}", events::encoded(id))
}

fn body(arguments: &Create) -> anyhow::Result<Zeroizing<String>> {
    let mut fields = Map::new();
    fields.insert("cgroup".to_owned(), Value::from(arguments.cgroup.as_str()));
    fields.extend(arguments.pid.map(|pid| ("pid".to_owned(), Value::from(pid))));
    fields.extend(arguments.netns.as_deref().map(|path| ("netns".to_owned(), Value::from(path))));
    fields.extend(
        arguments.private_network.then(|| ("private_network".to_owned(), Value::from(true))),
    );
    fields.extend(arguments.id.as_deref().map(|id| ("id".to_owned(), Value::from(id))));
    match &arguments.policy {
        None => Ok(Zeroizing::new(Value::Object(fields).to_string())),
        Some(file) => {
            let document = given::read_strict(file)?;
            beside(&fields, &document, file)
        }
    }
}

/// Inserts fields before the document's own. Its text stays unchanged, so that the positions in the
/// daemon's errors match.
fn beside(
    fields: &Map<String, Value>,
    document: &str,
    file: &Path,
) -> anyhow::Result<Zeroizing<String>> {
    let Some(members) = document.trim_ascii_start().strip_prefix('{') else {
        bail!("the policy {} is not a JSON object", file.display());
    };
    let fields = Value::Object(fields.clone()).to_string();
    let fields = fields.strip_suffix('}').unwrap_or(&fields);
    let comma = if members.trim_ascii_start().starts_with('}') { "" } else { "," };
    // Allocated up front: a growing string leaves copies of keys behind.
    let mut body = Zeroizing::new(String::with_capacity(fields.len() + document.len() + 1));
    body.push_str(fields);
    body.push_str(comma);
    body.push_str(members);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_place_stand_beside_the_document_as_it_is() {
        let create = |policy: &Path| Create {
            cgroup: "/x\"y".into(),
            policy: Some(policy.to_owned()),
            pid: Some(7),
            netns: None,
            private_network: false,
            id: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        for (document, expected) in [
            ("{}", r#"{"cgroup":"/x\"y","pid":7}"#),
            (
                " { \"network\": {}, \"network\": 1 }\n",
                "{\"cgroup\":\"/x\\\"y\",\"pid\":7, \"network\": {}, \"network\": 1 }\n",
            ),
        ] {
            std::fs::write(&file, document).unwrap();
            assert_eq!(*body(&create(&file)).unwrap(), expected);
        }
        std::fs::write(&file, "[]").unwrap();
        assert!(body(&create(&file)).unwrap_err().to_string().contains("not a JSON object"));
    }
}
