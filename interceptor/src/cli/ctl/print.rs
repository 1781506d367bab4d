//! Prints the daemon's responses for people.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::policy_file::{printable, printable_json};
use crate::cli::table;
use crate::words;

/// A string or number, safe for a terminal; `-` if absent.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Null => "-".to_owned(),
        other => printable(&other.to_string()),
    }
}

/// A value as indented JSON.
pub(super) fn json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{}", printable_json(&format!("{value:#}")))
}

/// Text unchanged: metrics.
pub(super) fn raw(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// The elements of a list: the value itself or one of its members.
fn list<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    let list = value.as_array().or_else(|| value[member].as_array());
    list.into_iter().flatten()
}

fn row(value: &Value, fields: &[&str]) -> Vec<String> {
    fields.iter().map(|field| text(&value[*field])).collect()
}

/// A list of sandboxes.
pub(super) fn sandboxes(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let fields = ["id", "allowed", "denied", "created", "policy_changed", "cgroup"];
    let rows: Vec<_> = list(value, "sandboxes").map(|one| row(one, &fields)).collect();
    if rows.is_empty() {
        return writeln!(out, "no sandboxes");
    }
    table::print(
        out,
        &["ID", "ALLOWED", "DENIED", "CREATED", "POLICY CHANGED", "CGROUP"],
        &rows,
        &[1, 2],
    )
}

/// A sandbox.
pub(super) fn sandbox(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    for field in
        ["id", "cgroup", "created", "policy_changed", "policy_file", "image", "allowed", "denied"]
    {
        if !value[field].is_null() {
            writeln!(out, "{:15} {}", field.replace('_', " "), text(&value[field]))?;
        }
    }
    environment(out, value)?;
    warnings(out, value)?;
    writeln!(out, "policy")?;
    json(out, &value["policy"])
}

/// A new sandbox.
pub(super) fn created(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    writeln!(out, "{}: enforcing on {}", text(&value["id"]), text(&value["cgroup"]))?;
    environment(out, value)?;
    warnings(out, value)?;
    writeln!(out, "for the sandbox's CA certificate (ca_pem), add --json")
}

/// The variables that the sandbox's programs need.
fn environment(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    for (name, value) in value["env"].as_object().into_iter().flatten() {
        writeln!(out, "  {}={}", printable(name), text(value))?;
    }
    Ok(())
}

/// The policy's warnings.
pub(super) fn warnings(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    for warning in list(&value["warnings"], "warnings") {
        writeln!(out, "warning: {}: {}", text(&warning["pointer"]), text(&warning["detail"]))?;
    }
    Ok(())
}

/// The network profiles.
pub(super) fn profiles(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let rows: Vec<_> =
        list(value, "profiles").map(|one| row(one, &["name", "description"])).collect();
    table::print(out, &["PROFILE", "DESCRIPTION"], &rows, &[])
}

/// The services.
pub(super) fn services(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let joined = |value: &Value| list(value, "").map(text).collect::<Vec<_>>().join(" ");
    let rows: Vec<_> = list(value, "services")
        .map(|one| vec![text(&one["name"]), joined(&one["env"]), joined(&one["hosts"])])
        .collect();
    table::print(out, &["SERVICE", "VARIABLES", "HOSTS"], &rows, &[])
}

/// The daemon's health.
pub(super) fn health(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    let (status, version) = (text(&value["status"]), text(&value["version"]));
    let sandboxes = words::count(value["sandboxes"].as_u64().unwrap_or(0), "sandbox");
    writeln!(out, "{status}: version {version}, {sandboxes}")?;
    let problems = value["problems"].as_array().into_iter().flatten();
    problems.into_iter().try_for_each(|problem| writeln!(out, "  {}", text(problem)))
}
