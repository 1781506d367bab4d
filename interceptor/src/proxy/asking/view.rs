//! Questions and leases as they are shown.

use jiff::Timestamp;
use serde_json::Value;

use interceptor_policy::Proposal;

/// A question that waits for its answer.
#[derive(Clone, Debug)]
pub(crate) struct QuestionView {
    /// Its id.
    pub(crate) id: String,
    /// The sandbox that asks.
    pub(crate) sandbox: String,
    /// When it was asked.
    pub(crate) asked_at: Timestamp,
    /// When it is answered by time.
    pub(crate) expires_at: Timestamp,
    /// The host.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// The method.
    pub(crate) method: String,
    /// The path, without its query.
    pub(crate) path: String,
    /// Why it was refused.
    pub(crate) reason: &'static str,
    /// The same in words.
    pub(crate) message: String,
    /// How many requests wait on it.
    pub(crate) waiting: usize,
    /// What can be approved, smallest first.
    pub(crate) proposals: Vec<Proposal>,
}

/// What happened to a question.
#[derive(Clone, Debug)]
pub(crate) struct ApprovalEvent {
    /// `asked`, `changed`, `approved`, `refused`, `expired` or `withdrawn`.
    pub(crate) name: &'static str,
    /// The question.
    pub(crate) question: QuestionView,
}

/// A lease.
#[derive(Clone, Debug)]
pub(crate) struct LeaseView {
    /// Its id.
    pub(crate) id: String,
    /// What it changes of the policy.
    pub(crate) patch: Value,
    /// When it was given.
    pub(crate) created: Timestamp,
    /// When it ends.
    pub(crate) until: Option<Timestamp>,
    /// The requests that it may still permit.
    pub(crate) uses: Option<u64>,
    /// Who gave it.
    pub(crate) by: String,
}
