//! Types of requests and responses about approvals and leases.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A question that waits for its answer. What a sandbox chose of it (host, method, path) is text
/// and nothing else.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Approval {
    /// Its id.
    pub(crate) id: String,
    /// The sandbox.
    pub(crate) sandbox: String,
    /// When it was asked (RFC 3339).
    pub(crate) asked_at: String,
    /// When the requests are refused if nobody answers.
    pub(crate) expires_at: String,
    /// The host.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// The method.
    pub(crate) method: String,
    /// The path, without its query.
    pub(crate) path: String,
    /// Why it was refused: `host_denied`, `endpoint_denied`.
    #[serde(rename = "type")]
    pub(crate) reason: String,
    /// The same in words.
    pub(crate) message: String,
    /// How many requests wait on it.
    pub(crate) waiting: u64,
    /// The edits of the policy (RFC 6902) that would permit it, smallest first.
    pub(crate) patches: Vec<ProposedPatch>,
}

/// An edit of a policy.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ProposedPatch {
    /// Its operations (RFC 6902).
    pub(crate) patch: Vec<Value>,
    /// Whether it permits similar paths too.
    pub(crate) wider: bool,
}

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ApprovalDecision {
    /// Permits.
    Allow,
    /// Refuses.
    Deny,
}

/// An answer to a question.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApprovalAnswer {
    /// The decision.
    pub(crate) decision: ApprovalDecision,
    /// One of the question's patches. Default: the first, which is the smallest.
    #[serde(default)]
    pub(crate) patch: Option<Vec<Value>>,
    /// How long it permits.
    #[serde(default)]
    pub(crate) seconds: Option<u64>,
    /// How many requests it permits.
    #[serde(default)]
    pub(crate) uses: Option<u64>,
}

/// A decided question.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalDecided {
    /// Its id.
    pub(crate) id: String,
    /// The decision.
    pub(crate) decision: ApprovalDecision,
    /// The lease that it gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<Lease>,
}

/// An answer that is also written into the policy's file.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApprovalForGood {
    /// One of the question's patches.
    pub(crate) patch: Vec<Value>,
    /// How long the lease permits it, too.
    #[serde(default)]
    pub(crate) seconds: Option<u64>,
    /// How many requests the lease permits, too.
    #[serde(default)]
    pub(crate) uses: Option<u64>,
}

/// A question that is decided, with the edit in the policy's file.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalWritten {
    /// Its id.
    pub(crate) id: String,
    /// The lease that it gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<Lease>,
    /// The policy's file.
    pub(crate) policy_file: String,
}

/// What is permitted beside the policy.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Lease {
    /// Its id, which is in the record of each request that only it permitted.
    pub(crate) id: String,
    /// What it changes of the policy (RFC 6902).
    pub(crate) patch: Vec<Value>,
    /// When it was given.
    pub(crate) created: String,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    /// The requests that it may still permit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uses: Option<u64>,
    /// Who gave it: `uid:N`, `page` or `webhook`.
    pub(crate) by: String,
}

/// A new lease. It needs `seconds`, `uses`, or both.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLease {
    /// What it changes of the policy (RFC 6902).
    pub(crate) patch: Vec<Value>,
    /// How long it permits.
    #[serde(default)]
    pub(crate) seconds: Option<u64>,
    /// How many requests it permits.
    #[serde(default)]
    pub(crate) uses: Option<u64>,
}
