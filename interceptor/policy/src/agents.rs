//! Command-line agents: what each needs of the network, of credentials and of its surroundings.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// A command-line agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its name, as in `interceptor run --agent NAME`.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// The package and version that what follows was read from and tried with.
    pub package: String,
    /// The commands that start it.
    pub commands: Vec<String>,
    /// Hosts that it needs besides those of its credentials.
    pub hosts: Vec<AgentHost>,
    /// What it asks for, is refused, and works without.
    pub refused: Vec<AgentRefusal>,
    /// The services that it can use; it needs one of them.
    pub credentials: Vec<AgentCredential>,
    /// Variables that it gets inside, unless they are set already.
    pub variables: BTreeMap<String, AgentVariable>,
    /// Files and directories in the home where it keeps settings and state.
    pub files: Vec<String>,
    /// Whether it needs `--nesting` for its own sandbox, and what turns that off.
    pub nesting: String,
    /// Where each field comes from.
    pub sources: BTreeMap<String, String>,
}

/// A host that an agent calls.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentHost {
    /// The network rule.
    pub host: String,
    /// What calls it, and the source for that.
    pub source: String,
}

/// A host that an agent requests but does not need.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRefusal {
    /// The host; `registries` for that of a package registry.
    pub host: String,
    /// Prefixes of the path.
    pub paths: Vec<String>,
    /// Why it asks, what would stop it, and the source for that.
    pub source: String,
}

/// A variable that an agent gets.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentVariable {
    /// Its value.
    pub value: String,
    /// What it does, and the source for that.
    pub source: String,
}

/// A credential as an agent uses it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentCredential {
    /// The service of the catalogue.
    pub service: String,
    /// Hosts other than the service's own.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Variables other than the service's own; the key is in the first that is set.
    #[serde(default)]
    pub env: Vec<String>,
    /// The requests that it makes.
    pub endpoints: Vec<AgentEndpoint>,
}

/// An endpoint rule.
#[derive(Clone, Debug, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEndpoint {
    /// HTTP methods.
    pub methods: Vec<String>,
    /// Prefixes or globs of the path.
    pub paths: Vec<String>,
    /// What sends such requests, and the source for that.
    pub source: String,
}

#[derive(Deserialize)]
struct AgentFile {
    #[serde(rename = "description")]
    _description: String,
    agents: Vec<Agent>,
}

static AGENTS: LazyLock<Vec<Agent>> = LazyLock::new(|| {
    // The file is embedded in this crate, and a test reads it.
    #[expect(clippy::expect_used, reason = "embedded data, read by a test")]
    let file: AgentFile = serde_json::from_str(include_str!("../data/agents.json"))
        .expect("the embedded list of agents is valid");
    file.agents
});

/// The agents that are known, by name.
pub fn agents() -> &'static [Agent] {
    &AGENTS
}
