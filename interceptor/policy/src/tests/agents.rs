//! The data file of agents.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::super::{AgentEndpoint, Catalogue, agents, check};

#[test]
fn every_agent_makes_a_policy_without_errors_and_says_where_it_comes_from() {
    let names: Vec<&str> = agents().iter().map(|agent| agent.name.as_str()).collect();
    assert_eq!(names, ["claude-code", "codex", "gemini-cli", "opencode", "aider", "copilot-cli"]);
    let catalogue = Catalogue::builtin();
    for agent in agents() {
        let mut credentials = Map::new();
        let mut hosts: Vec<String> = agent.hosts.iter().map(|own| own.host.clone()).collect();
        for credential in &agent.credentials {
            let service = catalogue.service(&credential.service).unwrap();
            let own = &credential.hosts;
            hosts.extend(if own.is_empty() { &service.host_texts } else { own }.iter().cloned());
            assert!(!credential.endpoints.is_empty(), "{}", agent.name);
            let rule =
                |rule: &AgentEndpoint| json!({ "methods": rule.methods, "paths": rule.paths });
            let endpoints: Vec<Value> = credential.endpoints.iter().map(rule).collect();
            let mut written = json!({ "key": "k", "endpoints": endpoints });
            if !own.is_empty() {
                written["hosts"] = json!(own);
            }
            credentials.insert(credential.service.clone(), written);
        }
        let policy = json!({
            "network": { "allow": hosts, "deny": ["*"] },
            "credentials_v2": Value::Object(credentials),
        });
        let report = check(&policy.to_string(), &catalogue);
        assert!(report.errors.is_empty(), "{}: {:?}", agent.name, report.errors);
        assert!(!agent.title.is_empty() && !agent.commands.is_empty(), "{}", agent.name);
        assert!(!agent.files.is_empty() && !agent.nesting.is_empty(), "{}", agent.name);
        let sources: HashSet<&str> = agent.sources.keys().map(String::as_str).collect();
        assert_eq!(sources, HashSet::from(["credentials", "files", "nesting"]), "{}", agent.name);
        assert!(agent.sources.values().all(|source| source.starts_with("https://")));
        let endpoints = agent.credentials.iter().flat_map(|credential| &credential.endpoints);
        let said = endpoints.map(|rule| &rule.source);
        let said = said.chain(agent.hosts.iter().map(|own| &own.source));
        let said = said.chain(agent.refused.iter().map(|refused| &refused.source));
        let mut said = said.chain(agent.variables.values().map(|variable| &variable.source));
        assert!(said.all(|source| !source.is_empty()), "{}", agent.name);
        assert!(agent.package.contains(' '), "{}", agent.name);
    }
}
