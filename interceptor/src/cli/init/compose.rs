//! Composes the text of a policy, with comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use interceptor_policy::{Agent, Catalogue};
use serde_json::{Value, json};

use super::look::{Remote, Surroundings};
use crate::cli::agents::{self, key_variables};
use crate::cli::aws_variables::key_in;

/// A credential of the policy.
#[derive(Default)]
struct Used {
    variable: String,
    is_set: bool,
    /// Hosts and variables other than the service's own.
    hosts: Vec<String>,
    env: Vec<String>,
    /// The rules, each with who needs it.
    endpoints: Vec<(String, Value)>,
}

/// The policy for these agents. `asked`: the user named the agent, so its credential is written
/// even if no key is set yet.
pub(super) fn policy(
    agents: &[&Agent],
    asked: bool,
    here: &Surroundings,
    catalogue: &Catalogue,
) -> String {
    let credentials = credentials(agents, asked, here, catalogue);
    let mut out = String::new();
    let titles: Vec<&str> = agents.iter().map(|agent| agent.title.as_str()).collect();
    out.push_str("// What `interceptor run` permits in this directory and below it.\n");
    if !titles.is_empty() {
        let _ = writeln!(out, "// Written by `interceptor init` for: {}.", titles.join(", "));
    }
    out.push_str("// After a change, run `interceptor check` to find mistakes, and `interceptor\n");
    out.push_str("// trust` so that `run` uses it again.\n{\n");
    network(&mut out, agents, &credentials, here, catalogue);
    if !credentials.is_empty() {
        out.push_str("  // Inside, the variables hold placeholders; the keys stay outside.\n");
        out.push_str("  \"credentials_v2\": {\n");
        for (service, used) in &credentials {
            let is_set = |name: &str| here.set.iter().any(|known| known == name);
            let key = key_in(catalogue.service(service), &used.variable, &is_set);
            credential(&mut out, service, used, &key);
        }
        out.push_str("  },\n");
    }
    out.push_str("}\n");
    out
}

/// The variables that the policy reads and that are not set.
pub(super) fn unset(
    agents: &[&Agent],
    asked: bool,
    here: &Surroundings,
    catalogue: &Catalogue,
) -> Vec<String> {
    let credentials = credentials(agents, asked, here, catalogue);
    credentials.into_values().filter(|used| !used.is_set).map(|used| used.variable).collect()
}

fn credentials(
    agents: &[&Agent],
    asked: bool,
    here: &Surroundings,
    catalogue: &Catalogue,
) -> BTreeMap<String, Used> {
    let mut all: BTreeMap<String, Used> = BTreeMap::new();
    for agent in agents {
        let of_agent = agent.credentials.iter().map(|used| {
            let variables = key_variables(used, catalogue);
            (used, here.first_set(variables), variables.first())
        });
        let none_set = of_agent.clone().all(|(_, set, _)| set.is_none());
        for (index, (used, set, first)) in of_agent.enumerate() {
            let wanted = asked && none_set && index == 0;
            let Some(variable) = set.or(first.filter(|_| wanted)) else { continue };
            let entry = all.entry(used.service.clone()).or_default();
            if entry.variable.is_empty() {
                entry.variable.clone_from(variable);
                entry.is_set = set.is_some();
            }
            add(&mut entry.hosts, &used.hosts);
            add(&mut entry.env, &used.env);
            for rule in &used.endpoints {
                let rule = agents::rule(rule);
                if entry.endpoints.iter().all(|(_, known)| *known != rule) {
                    entry.endpoints.push((agent.title.clone(), rule));
                }
            }
        }
    }
    if !asked {
        for (service, variable) in &here.keys {
            all.entry(service.clone()).or_insert_with(|| Used {
                variable: variable.clone(),
                is_set: true,
                ..Used::default()
            });
        }
    }
    if let Some(github) = all.get_mut("github") {
        let own = here.remotes.iter().filter(|remote| remote.host == "github.com");
        let rules: Vec<(String, Value)> = own.flat_map(repository).collect();
        // Where an agent narrows the hosts, the repository needs the service's own.
        if let Some(service) = catalogue.service("github").filter(|_| !rules.is_empty())
            && !github.hosts.is_empty()
        {
            add(&mut github.hosts, &service.host_texts);
        }
        github.endpoints.extend(rules);
    }
    all
}

fn add(known: &mut Vec<String>, more: &[String]) {
    for text in more {
        if !known.contains(text) {
            known.push(text.clone());
        }
    }
}

/// Rules for git and the API of one repository on GitHub.
fn repository(remote: &Remote) -> [(String, Value); 2] {
    let path = &remote.path;
    let whom = format!("the git remote {}", remote.name);
    let git = [
        format!("/{path}.git/"),
        format!("/{path}/info/refs"),
        format!("/{path}/git-upload-pack"),
        format!("/{path}/git-receive-pack"),
    ];
    [
        (whom.clone(), json!({ "methods": ["GET", "POST"], "paths": git })),
        (whom, json!({ "methods": [], "paths": [format!("/repos/{path}")] })),
    ]
}

fn network(
    out: &mut String,
    agents: &[&Agent],
    credentials: &BTreeMap<String, Used>,
    here: &Surroundings,
    catalogue: &Catalogue,
) {
    let mut listed: BTreeSet<String> = BTreeSet::new();
    let mut group = |out: &mut String, why: &str, rules: &[String]| {
        let new: Vec<&String> =
            rules.iter().filter(|rule| listed.insert((*rule).clone())).collect();
        if !new.is_empty() {
            let _ = writeln!(out, "      // {why}");
        }
        for rule in new {
            let _ = writeln!(out, "      {},", Value::from(rule.as_str()));
        }
    };
    out.push_str("  \"network\": {\n    \"allow\": [\n");
    for (name, used) in credentials {
        let service = catalogue.service(name);
        let own = match service {
            Some(service) if used.hosts.is_empty() => &service.host_texts,
            _ => &used.hosts,
        };
        group(out, service.map_or(name, |service| &service.title), own);
    }
    for agent in agents {
        let own: Vec<String> = agent.hosts.iter().map(|own| own.host.clone()).collect();
        group(out, &agent.title, &own);
    }
    for remote in &here.remotes {
        let why = format!("the git remote {}", plain(&remote.name));
        if remote.by_ssh {
            let host = remote.host.split(':').next().unwrap_or(&remote.host);
            let port = remote.host.split_once(':').map_or("22", |(_, port)| port);
            let _ = writeln!(out, "      // {why} is reached by SSH, whose keys stay outside:");
            let _ = writeln!(out, "      // \"tcp://{host}:{port}\",");
        } else {
            group(out, &why, std::slice::from_ref(&remote.host));
        }
    }
    out.push_str(
        "    ],\n    // Nothing else. For package registries and more, see: interceptor \
                  profiles\n    \"deny\": [\"*\"],\n  },\n",
    );
}

/// A remote's name without characters that could end a comment.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "._-/".contains(*c)).collect()
}

fn credential(out: &mut String, service: &str, used: &Used, key: &Value) {
    let _ = writeln!(out, "    {}: {{\n      \"key\": {key},", Value::from(service));
    for (field, values) in [("hosts", &used.hosts), ("env", &used.env)] {
        if !values.is_empty() {
            let _ = writeln!(out, "      \"{field}\": {},", json!(values));
        }
    }
    if used.endpoints.is_empty() {
        out.push_str("      // Any request; \"endpoints\" would narrow that.\n");
    } else {
        out.push_str("      \"endpoints\": [\n");
        let mut last = "";
        for (whom, rule) in &used.endpoints {
            if whom != last {
                let _ = writeln!(out, "        // {}", plain_title(whom));
            }
            let _ = writeln!(out, "        {rule},");
            last = whom;
        }
        out.push_str("      ],\n");
    }
    out.push_str("    },\n");
}

/// A title without characters that could end a comment.
fn plain_title(title: &str) -> String {
    title.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use interceptor_policy::{agents, check};

    use super::*;

    fn here(keys: &[(&str, &str)], remotes: &[Remote]) -> Surroundings {
        Surroundings {
            keys: keys.iter().map(|(name, set)| (name.to_string(), set.to_string())).collect(),
            set: keys.iter().map(|(_, variable)| variable.to_string()).collect(),
            remotes: remotes.to_vec(),
            ..Surroundings::default()
        }
    }

    #[test]
    fn every_agent_gets_a_policy_without_errors_and_warnings_of_its_own() {
        let catalogue = Catalogue::builtin();
        let remote = Remote {
            name: "origin".to_owned(),
            host: "github.com".to_owned(),
            path: "o/r".to_owned(),
            by_ssh: false,
        };
        let ssh = Remote { by_ssh: true, ..remote.clone() };
        for agent in agents() {
            for found in [
                here(&[], &[]),
                here(
                    &[("openai", "OPENAI_API_KEY"), ("github", "GH_TOKEN")],
                    std::slice::from_ref(&remote),
                ),
                here(&[("google", "GEMINI_API_KEY")], std::slice::from_ref(&ssh)),
            ] {
                let text = policy(&[agent], true, &found, &catalogue);
                let report = check(&text, &catalogue);
                assert!(report.errors.is_empty(), "{text}\n{:?}", report.errors);
                let policy = report.policy.unwrap();
                assert!(!policy.credentials().is_empty(), "{text}");
                let every: BTreeSet<&str> =
                    agent.credentials.iter().map(|used| used.service.as_str()).collect();
                let own = policy.credentials().iter().all(|used| every.contains(&*used.name));
                assert!(own, "{text}");
            }
        }
        let all: Vec<&Agent> = agents().iter().collect();
        let found = here(
            &[("openai", "OPENAI_API_KEY"), ("github", "GH_TOKEN"), ("groq", "GROQ_API_KEY")],
            &[remote],
        );
        let text = policy(&all, false, &found, &catalogue);
        let report = check(&text, &catalogue);
        assert!(report.errors.is_empty(), "{text}\n{:?}", report.errors);
        assert!(text.contains("\"/repos/o/r\"") && text.contains("// Any request"), "{text}");
        let nothing = policy(&[], false, &here(&[], &[]), &catalogue);
        assert!(check(&nothing, &catalogue).policy.is_some(), "{nothing}");
    }
}
