//! What requests and answers hold. None of these types can hold a real key: a policy arrives as text and leaves as a document without
//! keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::fleet::Adopt;
use crate::logging::Format;

/// The fields of a request for a sandbox that stand beside those of the policy document.
pub(crate) const BESIDES: &[&str] = &["cgroup", "pid", "netns", "private_network", "id"];

/// The fields of a request for a sandbox that are not the policy document's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct NewSandbox {
    /// The cgroup: a directory of a mounted cgroup v2, or a path below its mount as /proc/PID/cgroup shows it.
    pub(crate) cgroup: String,
    /// A process whose network namespace is the sandbox's; it must be in the cgroup. Without it, the cgroup's first process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    /// The path of the sandbox's network namespace, e.g. /run/netns/NAME; it counts where it differs from the process's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns: Option<String>,
    /// Whether that namespace was made for this sandbox alone, as by a container engine (`--network
    /// none`): its loopback is then the sandbox's own. Without it, loopback is refused like any
    /// host's, whatever devices the namespace has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) private_network: bool,
    /// What to call the sandbox: 1 to 64 letters, digits, `-` and `_`. Without it, a random id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
}

/// A sandbox that was put under enforcement: the self-test from inside has passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct CreatedSandbox {
    /// Its id.
    pub(crate) id: String,
    /// The directory of its cgroup.
    pub(crate) cgroup: String,
    /// The public certificate of its own authority, PEM: what its programs must trust.
    pub(crate) ca_pem: String,
    /// Variables for its programs: placeholders of credentials, the names of the files to trust, and the sandbox's id.
    pub(crate) env: BTreeMap<String, String>,
    /// The files that `env` names. They are on the host: a container with files of its own gets their directory by a bind mount, at the
    /// same path and read-only.
    pub(crate) files: Vec<TrustFile>,
    /// What `interceptor check` would warn of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<Warning>,
}

/// A file that variables name, on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct TrustFile {
    /// Where the variables say that it is.
    pub(crate) path: String,
    /// What it holds.
    pub(crate) content: TrustContent,
}

/// What a file that variables name holds.
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

/// A doubtful place of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Warning {
    /// The JSON pointer to it.
    pub(crate) pointer: String,
    /// What is doubtful.
    pub(crate) detail: String,
}

/// A sandbox in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SandboxSummary {
    /// Its id.
    pub(crate) id: String,
    /// The directory of its cgroup.
    pub(crate) cgroup: String,
    /// When it was put under enforcement (RFC 3339).
    pub(crate) created: String,
    /// When its policy was last replaced.
    pub(crate) policy_changed: String,
    /// The file that its policy came from, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy_file: Option<String>,
    /// The label `image` of its policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// Requests and connections so far that were allowed.
    pub(crate) allowed: u64,
    /// Requests and connections so far that were denied.
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
    /// What lists show too.
    #[serde(flatten)]
    pub(crate) summary: SandboxSummary,
    /// The public certificate of its own authority, PEM.
    pub(crate) ca_pem: String,
    /// Variables for its programs.
    pub(crate) env: BTreeMap<String, String>,
    /// The files that `env` names.
    pub(crate) files: Vec<TrustFile>,
    /// Its policy document; a key that stood in it is null.
    pub(crate) policy: Value,
    /// The ceilings that hold, defaults included.
    pub(crate) limits: BTreeMap<String, Value>,
    /// What `interceptor check` would warn of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<Warning>,
}

/// That the daemon lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    pub(crate) status: String,
    /// The version of the daemon.
    pub(crate) version: String,
    /// How many sandboxes there are.
    pub(crate) sandboxes: u64,
}

/// The configuration of the daemon (`serve --config FILE`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
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
    /// Sandboxes to put under enforcement before the daemon says that it is ready.
    #[serde(default)]
    pub(crate) sandboxes: Vec<ConfiguredSandbox>,
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
    /// The file of its policy, which is read again on SIGHUP; without it, the default policy.
    pub(crate) policy: Option<PathBuf>,
}
