//! Types of requests and responses. None can hold a real key: a policy arrives as text and is
//! returned without keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::fleet::Adopt;
use crate::logging::Format;

/// The fields of a creation request that are not part of the policy document.
pub(crate) const BESIDES: &[&str] = &["cgroup", "pid", "netns", "private_network", "id"];

/// The part of a creation request that is not the policy document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewSandbox {
    /// The cgroup: a directory in a cgroup v2 mount, or a path relative to the mount, as in
    /// /proc/PID/cgroup.
    pub(crate) cgroup: String,
    /// A process of the cgroup in the sandbox's network namespace. Default: the cgroup's first
    /// process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// The path of the sandbox's network namespace, e.g. /run/netns/NAME. Overrides the process's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<String>,
    /// Whether the network namespace belongs to this sandbox alone, as with a container engine's
    /// `--network none`, so that its loopback traffic is allowed. Otherwise loopback is refused
    /// like the host's, whatever devices the namespace has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) private_network: bool,
    /// The sandbox's id: 1 to 64 letters, digits, `-` and `_`. Default: random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
}

/// A new sandbox under enforcement, whose self-test has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CreatedSandbox {
    /// Its id.
    pub(crate) id: String,
    /// The directory of its cgroup.
    pub(crate) cgroup: String,
    /// The sandbox's CA certificate (PEM), which its programs must trust.
    pub(crate) ca_pem: String,
    /// Variables for its programs: credential placeholders, paths of trust files, and the sandbox's
    /// id.
    pub(crate) env: BTreeMap<String, String>,
    /// The files that `env` names. They are on the host: bind-mount their directory read-only at
    /// the same path into a container.
    pub(crate) files: Vec<TrustFile>,
    /// The policy's warnings, as from `interceptor check`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<Warning>,
}

/// A file that variables name, on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct TrustFile {
    /// Its path, as in the variables.
    pub(crate) path: String,
    /// Its content.
    pub(crate) content: TrustContent,
}

/// The content of a trust file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TrustContent {
    /// The host's roots and `ca_pem`, PEM.
    Bundle,
    /// `ca_pem` alone.
    Authority,
    /// A JKS key store with the bundle's certificates.
    Java,
}

/// A warning about a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Warning {
    /// The JSON pointer to it.
    pub(crate) pointer: String,
    /// The warning.
    pub(crate) detail: String,
}

/// A sandbox in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SandboxSummary {
    /// Its id.
    pub(crate) id: String,
    /// The directory of its cgroup.
    pub(crate) cgroup: String,
    /// The user who runs its command; for a `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Its command line, without keys; for a `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) command: Option<String>,
    /// What its policy is called; for a `run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy_name: Option<String>,
    /// When it was put under enforcement (RFC 3339).
    pub(crate) created: String,
    /// When its policy was last replaced.
    pub(crate) policy_changed: String,
    /// The policy's file, if it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy_file: Option<String>,
    /// The label `image` of its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// Requests and connections allowed so far.
    pub(crate) allowed: u64,
    /// Requests and connections denied so far.
    pub(crate) denied: u64,
}

/// The list of sandboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SandboxList {
    /// Every sandbox, by id.
    pub(crate) sandboxes: Vec<SandboxSummary>,
}

/// A sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SandboxDetails {
    /// The fields shown in lists.
    #[serde(flatten)]
    pub(crate) summary: SandboxSummary,
    /// The sandbox's CA certificate (PEM).
    pub(crate) ca_pem: String,
    /// Variables for its programs.
    pub(crate) env: BTreeMap<String, String>,
    /// The files that `env` names.
    pub(crate) files: Vec<TrustFile>,
    /// Its policy document, with keys replaced by null.
    pub(crate) policy: Value,
    /// The limits in force, including defaults.
    pub(crate) limits: BTreeMap<String, Value>,
    /// What `interceptor check` would warn of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<Warning>,
}

/// The daemon's health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`, or `degraded` if there are problems.
    pub(crate) status: String,
    /// What does not work any more until the daemon is started again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<String>,
    /// The version of the daemon.
    pub(crate) version: String,
    /// The number of sandboxes.
    pub(crate) sandboxes: u64,
}

/// Where the page is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct PageAddress {
    /// Its address, for a browser that has been let in.
    pub(crate) address: String,
    /// How many addresses with a token were given that nobody has used yet.
    pub(crate) unused: u64,
}

/// An address of the page that lets one browser in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct PageInvitation {
    /// The address, with a token that can be used once.
    pub(crate) url: String,
    /// For how long.
    pub(crate) seconds: u64,
}

/// The configuration of the daemon (`serve --config FILE`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DaemonConfig {
    /// As `--control`.
    pub(crate) control: Option<PathBuf>,
    /// As `--policy`.
    pub(crate) policy: Option<PathBuf>,
    /// As `--audit`.
    pub(crate) audit: Option<PathBuf>,
    /// As `--audit-chain`.
    pub(crate) audit_chain: Option<PathBuf>,
    /// As `--upstream-ca`.
    #[serde(default)]
    pub(crate) upstream_ca: Vec<PathBuf>,
    /// As `--resolve`.
    #[serde(default)]
    pub(crate) resolve: Vec<String>,
    /// As `--upstream-proxy`.
    pub(crate) upstream_proxy: Option<String>,
    /// As `--successor`.
    #[serde(default)]
    pub(crate) successor: Vec<PathBuf>,
    /// As `--readable`.
    #[serde(default)]
    pub(crate) readable: Vec<PathBuf>,
    /// As `--drain`.
    pub(crate) drain: Option<u64>,
    /// As `--adopt`.
    pub(crate) adopt: Option<Adopt>,
    /// As `--base-urls`.
    #[serde(default)]
    pub(crate) base_urls: bool,
    /// As `--log-format`.
    pub(crate) log_format: Option<Format>,
    /// As `--trust-dir`.
    pub(crate) trust_dir: Option<PathBuf>,
    /// As `--max-sandboxes`.
    pub(crate) max_sandboxes: Option<u32>,
    /// As `--group`.
    pub(crate) group: Option<String>,
    /// As `--programs-as`.
    pub(crate) programs_as: Option<String>,
    /// Which members may use which policies. Default: every member brings policies.
    pub(crate) access: Option<Vec<AccessRule>>,
    /// As `--page`.
    pub(crate) page: Option<SocketAddr>,
    /// Who else is asked what the policies ask.
    pub(crate) approvals: Option<ApprovalsConfig>,
    /// Sandboxes to start before the daemon reports that it is ready.
    #[serde(default)]
    pub(crate) sandboxes: Vec<ConfiguredSandbox>,
}

/// What the members of a group may do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessRule {
    /// The group.
    pub(crate) group: String,
    /// The operator's policies that they may use, by name.
    #[serde(default)]
    pub(crate) policies: Vec<String>,
    /// Whether they may bring policies of their own.
    #[serde(default)]
    pub(crate) own_policies: OwnPolicies,
}

/// Whether members may bring policies of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OwnPolicies {
    /// `false`.
    #[default]
    No,
    /// `true`: those that reach public addresses only.
    Public,
    /// `"any-address"`: also with other addresses, `--resolve` and `--upstream-ca`.
    AnyAddress,
}

impl Serialize for OwnPolicies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            OwnPolicies::No => serializer.serialize_bool(false),
            OwnPolicies::Public => serializer.serialize_bool(true),
            OwnPolicies::AnyAddress => serializer.serialize_str("any-address"),
        }
    }
}

impl<'de> Deserialize<'de> for OwnPolicies {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(false) => Ok(OwnPolicies::No),
            Value::Bool(true) => Ok(OwnPolicies::Public),
            Value::String(text) if text == "any-address" => Ok(OwnPolicies::AnyAddress),
            _ => Err(serde::de::Error::custom("must be true, false or \"any-address\"")),
        }
    }
}

/// `approvals` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApprovalsConfig {
    /// Where questions are POSTed.
    pub(crate) webhook: WebhookConfig,
}

/// A webhook of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookConfig {
    /// Its URL.
    pub(crate) url: String,
    /// The secret that signs the questions.
    pub(crate) secret: SecretSource,
    /// How long it may take to answer (10).
    pub(crate) timeout_seconds: Option<u64>,
}

/// Where a secret of the configuration is.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "a string, {\"env\": NAME} or {\"file\": PATH}")]
pub(crate) enum SecretSource {
    /// Here.
    Literal(crate::ipc::Secret),
    /// In a variable of the daemon's environment.
    Env(SecretVariable),
    /// In a file; its trailing newline is dropped.
    File(SecretFile),
}

/// The variable of a secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretVariable {
    /// Its name.
    pub(crate) env: String,
}

/// The file of a secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretFile {
    /// Its path.
    pub(crate) file: PathBuf,
}

/// A sandbox of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfiguredSandbox {
    /// As in a request.
    pub(crate) id: Option<String>,
    /// As in a request.
    pub(crate) cgroup: PathBuf,
    /// As in a request.
    pub(crate) pid: Option<i32>,
    /// As in a request.
    pub(crate) netns: Option<PathBuf>,
    /// As in a request.
    #[serde(default)]
    pub(crate) private_network: bool,
    /// Its policy file, reread on SIGHUP. Default: the default policy.
    pub(crate) policy: Option<PathBuf>,
}
