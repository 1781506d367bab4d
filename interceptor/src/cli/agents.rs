//! `interceptor agents`: lists the known command-line agents, or shows one. Also makes the policy
//! of an agent.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use interceptor_policy::{Agent, AgentCredential, AgentEndpoint, Catalogue, did_you_mean};
use serde_json::{Map, Value, json};

use super::person::Person;
use super::written::Written;

/// The arguments of `interceptor agents`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  interceptor agents
  interceptor agents codex
  interceptor init claude-code
  interceptor run --agent claude-code -- claude")]
pub struct Agents {
    /// The agent to show.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print a JSON array.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: Agents) -> anyhow::Result<ExitCode> {
    let catalogue = Catalogue::builtin();
    let shown: Vec<&Agent> = match &arguments.name {
        Some(name) => vec![known(name)?],
        None => interceptor_policy::agents().iter().collect(),
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        let list: Vec<Value> = shown.iter().map(|agent| as_json(agent, &catalogue)).collect();
        writeln!(out, "{:#}", Value::from(list))?;
    } else if arguments.name.is_some() {
        shown.into_iter().try_for_each(|agent| show(&mut out, agent, &catalogue))?;
    } else {
        let width = shown.iter().map(|agent| agent.name.len()).max().unwrap_or(0);
        for agent in shown {
            let services: Vec<&str> =
                agent.credentials.iter().map(|credential| credential.service.as_str()).collect();
            writeln!(out, "{:width$}  {}  ({})", agent.name, agent.title, services.join(", "))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The agent of this name.
///
/// # Errors
/// If there is none.
pub(super) fn known(name: &str) -> anyhow::Result<&'static Agent> {
    let agents = interceptor_policy::agents();
    let Some(agent) = agents.iter().find(|agent| agent.name == name) else {
        let names: Vec<&str> = agents.iter().map(|agent| agent.name.as_str()).collect();
        let hint = did_you_mean(name, names.iter().copied());
        bail!("unknown agent {name:?}{hint} (the agents are: {})", names.join(", "));
    };
    Ok(agent)
}

/// The variables that an agent gets, except those that the person has set.
pub(super) fn variables(agent: &Agent, person: &Person) -> Vec<OsString> {
    let unset = agent.variables.iter().filter(|(name, _)| person.given(name).is_none());
    unset.map(|(name, variable)| format!("{name}={}", variable.value).into()).collect()
}

/// The variables that may hold the key of a credential.
pub(super) fn key_variables<'a>(
    credential: &'a AgentCredential,
    catalogue: &'a Catalogue,
) -> &'a [String] {
    match catalogue.service(&credential.service) {
        Some(service) if credential.env.is_empty() => &service.env,
        _ => &credential.env,
    }
}

/// The hosts of a credential, as network rules.
pub(super) fn hosts<'a>(credential: &'a AgentCredential, catalogue: &'a Catalogue) -> &'a [String] {
    match catalogue.service(&credential.service) {
        Some(service) if credential.hosts.is_empty() => &service.host_texts,
        _ => &credential.hosts,
    }
}

/// An agent's credential in a policy, with its key in this variable.
pub(super) fn credential(credential: &AgentCredential, variable: &str) -> Value {
    let mut written = Map::new();
    written.insert("key".to_owned(), json!({ "env": variable }));
    for (field, values) in [("hosts", &credential.hosts), ("env", &credential.env)] {
        if !values.is_empty() {
            written.insert(field.to_owned(), json!(values));
        }
    }
    written.insert("endpoints".to_owned(), credential.endpoints.iter().map(rule).collect());
    Value::Object(written)
}

/// An agent's endpoint rule as a policy has it.
pub(super) fn rule(rule: &AgentEndpoint) -> Value {
    json!({ "methods": rule.methods, "paths": rule.paths })
}

/// The policy of an agent: its hosts, and each of its credentials that has a key. `keys` are the
/// services whose keys come from options.
///
/// # Errors
/// If no credential has a key.
pub(super) fn policy(
    agent: &Agent,
    person: &Person,
    catalogue: &Catalogue,
    keys: &[&str],
) -> anyhow::Result<Written> {
    let mut allow: Vec<&str> = agent.hosts.iter().map(|own| own.host.as_str()).collect();
    let mut credentials = Map::new();
    for used in &agent.credentials {
        let variables = key_variables(used, catalogue);
        let set = variables.iter().find(|name| person.given(name).is_some());
        let given = keys.contains(&used.service.as_str()).then(|| variables.first()).flatten();
        if let Some(variable) = set.or(given) {
            allow.extend(hosts(used, catalogue).iter().map(String::as_str));
            credentials.insert(used.service.clone(), credential(used, variable));
        }
    }
    if credentials.is_empty() {
        let variables: Vec<&str> = agent
            .credentials
            .iter()
            .flat_map(|used| key_variables(used, catalogue))
            .map(String::as_str)
            .collect();
        let service = agent.credentials.first().map_or("SERVICE", |used| used.service.as_str());
        bail!(
            "{} has no key: set {}, or add --key {service}=file:PATH",
            agent.title,
            variables.join(" or ")
        );
    }
    let document = json!({
        "network": { "allow": allow, "deny": ["*"] },
        "credentials_v2": credentials,
    });
    let name = format!("the policy of {}", agent.title);
    Ok(Written::without_file(&name, document.to_string()))
}

fn as_json(agent: &Agent, catalogue: &Catalogue) -> Value {
    let credential = |used: &AgentCredential| {
        json!({
            "service": used.service,
            "hosts": hosts(used, catalogue),
            "env": key_variables(used, catalogue),
            "endpoints": used.endpoints,
        })
    };
    json!({
        "name": agent.name,
        "title": agent.title,
        "package": agent.package,
        "commands": agent.commands,
        "hosts": agent.hosts,
        "refused": agent.refused,
        "credentials": agent.credentials.iter().map(credential).collect::<Vec<_>>(),
        "variables": agent.variables,
        "files": agent.files,
        "nesting": agent.nesting,
        "sources": agent.sources,
    })
}

fn show(out: &mut impl Write, agent: &Agent, catalogue: &Catalogue) -> io::Result<()> {
    writeln!(out, "{}: {} ({})", agent.name, agent.title, agent.commands.join(", "))?;
    writeln!(out, "  checked     {}", agent.package)?;
    for own in &agent.hosts {
        writeln!(out, "  host        {}: {}", own.host, own.source)?;
    }
    for other in &agent.refused {
        writeln!(out, "  refused     {} {}: {}", other.host, other.paths.join(" "), other.source)?;
    }
    for used in &agent.credentials {
        let variables = key_variables(used, catalogue).join(", ");
        writeln!(out, "  credential  {} ({variables})", used.service)?;
        for host in hosts(used, catalogue) {
            writeln!(out, "    host      {host}")?;
        }
        for rule in &used.endpoints {
            let (methods, paths) = (rule.methods.join("|"), rule.paths.join(" "));
            writeln!(out, "    permits   {methods} {paths}: {}", rule.source)?;
        }
    }
    for (name, variable) in &agent.variables {
        writeln!(out, "  variable    {name}={}: {}", variable.value, variable.source)?;
    }
    for file in &agent.files {
        writeln!(out, "  file        ~/{file}")?;
    }
    writeln!(out, "  nesting     {}", agent.nesting)?;
    for (field, source) in &agent.sources {
        writeln!(out, "  source      {field}: {source}")?;
    }
    Ok(())
}
