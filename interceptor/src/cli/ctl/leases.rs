//! `interceptor ctl leases` and `lease`: what is permitted in addition to a policy.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::approvals::duration;
use super::print;
use super::sandboxes;
use super::to::DaemonClient;
use crate::cli::daemon::client::ApiRequest;
use crate::cli::daemon::events::encoded;
use crate::cli::table;

/// The arguments of `interceptor ctl lease`.
#[derive(Debug, clap::Args)]
pub(super) struct Lease {
    /// The sandbox.
    #[arg(value_name = "SANDBOX")]
    pub(super) sandbox: String,
    /// A network rule to allow, as in `network.allow`; repeatable.
    #[arg(long, value_name = "RULE", required_unless_present = "revoke")]
    allow: Vec<String>,
    /// For this long, e.g. 30s, 15m, 1h or 2d.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    time: Option<Duration>,
    /// For this many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    uses: Option<u64>,
    /// Revoke this lease instead.
    #[arg(long, value_name = "LEASE", conflicts_with_all = ["allow", "time", "uses"])]
    revoke: Option<String>,
}

/// `ctl leases`: the leases of one sandbox, or of all.
pub(super) fn list(all: &[DaemonClient], sandbox: Option<&str>) -> anyhow::Result<()> {
    let mut leases = Vec::new();
    let mut failed = None;
    let mut answered = false;
    let sandboxes = match sandbox {
        Some(id) => all.iter().map(|_| Ok(vec![id.to_owned()])).collect(),
        None => DaemonClient::get_of_all(all, "/v1/sandboxes").into_iter().map(ids).collect(),
    };
    let sandboxes: Vec<anyhow::Result<Vec<String>>> = sandboxes;
    for (to, ids) in all.iter().zip(sandboxes) {
        match ids.and_then(|ids| of(to, ids)) {
            Ok(mut found) => {
                answered = true;
                leases.append(&mut found);
            }
            Err(error) => failed = Some(error),
        }
    }
    match (failed, all.last()) {
        (Some(error), _) if !answered => Err(error),
        (_, Some(to)) => to.print(&leases.into(), show),
        (_, None) => Ok(()),
    }
}

/// The ids in a list of sandboxes.
fn ids(list: anyhow::Result<Value>) -> anyhow::Result<Vec<String>> {
    let list = list?;
    let all = list["sandboxes"].as_array().into_iter().flatten();
    Ok(all.filter_map(|one| one["id"].as_str()).map(str::to_owned).collect())
}

/// The leases of these sandboxes.
fn of(to: &DaemonClient, ids: Vec<String>) -> anyhow::Result<Vec<Value>> {
    let mut leases = Vec::new();
    for id in ids {
        let of = to.get(&format!("{}/leases", sandboxes::path(&id)))?;
        leases.extend(of.as_array().into_iter().flatten().cloned().map(|mut lease| {
            lease["sandbox"] = id.as_str().into();
            lease
        }));
    }
    Ok(leases)
}

fn show(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let leases = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if leases.is_empty() {
        return writeln!(out, "no leases");
    }
    let rows: Vec<Vec<String>> = leases
        .iter()
        .map(|lease| {
            let added = lease["patch"].as_array().into_iter().flatten();
            let added: Vec<String> = added.map(|one| one["value"].to_string()).collect();
            let text = |field: &str| print::text(&lease[field]);
            let mut row =
                vec![text("id"), text("sandbox"), text("until"), text("uses"), text("by")];
            row.push(added.join(" "));
            row
        })
        .collect();
    table::print(out, &["ID", "SANDBOX", "UNTIL", "USES", "BY", "ADDS"], &rows, &[3])
}

/// `ctl lease`.
pub(super) fn give(to: &DaemonClient, arguments: &Lease) -> anyhow::Result<()> {
    let Lease { sandbox, allow, time, uses, revoke } = arguments;
    let leases = format!("{}/leases", sandboxes::path(sandbox));
    if let Some(lease) = revoke {
        let path = format!("{leases}/{}", encoded(lease));
        to.ask(ApiRequest { method: Method::DELETE, path, body: None })?;
        return to.print(&json!({ "revoked": lease }), |out, value| {
            writeln!(out, "{}: revoked", print::text(&value["revoked"]))
        });
    }
    if time.is_none() && uses.is_none() {
        bail!("a lease needs an end: --for TIME, --uses N, or both");
    }
    let shown = to.get(&sandboxes::path(sandbox))?;
    let policy = &shown["policy"];
    let mut patch = Vec::new();
    for (pointer, empty) in [("/network", json!({})), ("/network/allow", json!([]))] {
        if policy.pointer(pointer).is_none() {
            patch.push(json!({ "op": "add", "path": pointer, "value": empty }));
        }
    }
    patch.extend(
        allow.iter().map(|rule| json!({ "op": "add", "path": "/network/allow/-", "value": rule })),
    );
    let mut body = json!({ "patch": patch });
    if let Some(time) = time {
        body["seconds"] = time.as_secs().into();
    }
    if let Some(uses) = uses {
        body["uses"] = (*uses).into();
    }
    let body = Some(("application/json", body.to_string().into_bytes()));
    let lease = to.value(ApiRequest { method: Method::POST, path: leases, body })?;
    to.print(&lease, |out, lease| {
        let text = |field: &str| print::text(&lease[field]);
        write!(out, "{}: in force", text("id"))?;
        if !lease["until"].is_null() {
            write!(out, " until {}", text("until"))?;
        }
        if !lease["uses"].is_null() {
            write!(
                out,
                ", {} left",
                crate::words::count(lease["uses"].as_u64().unwrap_or(0), "use")
            )?;
        }
        writeln!(out)
    })
}
