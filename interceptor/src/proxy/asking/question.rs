//! Questions: what requests wait for.

use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::{Host, Policy, Proposal, Subject};
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lease::Lease;
use super::view::QuestionView;
use crate::audit::RequestId;
use crate::upstream::pool::Generation;

/// A request that asks.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// What it asks of the policy.
    pub(crate) subject: Subject,
    /// Why it was refused.
    pub(crate) reason: &'static str,
    /// The same in words.
    pub(crate) message: String,
    /// How long it may wait.
    pub(crate) timeout: Duration,
}

impl Asked {
    /// Identical questions have the same host, port, method and path template.
    pub(crate) fn key(&self) -> Key {
        let Subject { host, port, method, path, is_https, credential, .. } = &self.subject;
        Key {
            host: host.clone(),
            port: *port,
            is_https: *is_https,
            method: method.clone(),
            template: Policy::path_template(path),
            credential: credential.clone(),
            reason: self.reason,
        }
    }
}

/// What identical questions have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    host: Host,
    port: u16,
    is_https: bool,
    method: String,
    template: String,
    credential: Option<String>,
    reason: &'static str,
}

/// Why a request cannot ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AskError {
    /// As many requests wait as may.
    Full,
    /// No edit of the policy would permit it.
    Nothing,
}

/// What a waiting request is told.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Approved. With a lease, one of its uses is this request's.
    Approved(Option<Arc<Lease>>),
    /// Refused by a person.
    Refused,
    /// Nobody answered in time.
    Expired,
}

/// A question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) id: RequestId,
    pub(super) key: Key,
    pub(super) asked: Asked,
    pub(super) asked_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) deadline: Instant,
    pub(super) generation: Generation,
    pub(super) proposals: Vec<Proposal>,
    pub(super) waiters: Vec<(u64, oneshot::Sender<Verdict>)>,
}

impl Question {
    pub(super) fn view(&self, sandbox: &str) -> QuestionView {
        let Subject { host, port, method, path, .. } = &self.asked.subject;
        QuestionView {
            id: self.id.to_string(),
            sandbox: sandbox.to_owned(),
            asked_at: self.asked_at,
            expires_at: self.expires_at,
            host: host.to_string(),
            port: *port,
            method: method.clone(),
            path: path.clone(),
            reason: self.asked.reason,
            message: self.asked.message.clone(),
            waiting: self.waiters.len(),
            proposals: self.proposals.clone(),
        }
    }
}
