//! Answers to questions, and leases that are given without one.

use std::sync::Arc;

use interceptor_policy::{OverlayError, Patch};
use jiff::{SignedDuration, Timestamp};

use super::super::rules::Rules;
use super::desk::{Desk, Table, record};
use super::lease::{LARGEST_PATCH, Lease, MOST_LEASES};
use super::question::Verdict;
use super::scope::{LeaseScope, ScopeError};
use super::view::{ApprovalEvent, LeaseView};
use crate::audit::RequestId;

/// The longest lease: a year.
const LONGEST: u64 = 366 * 24 * 60 * 60;

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// For so many seconds.
    pub(crate) seconds: Option<u64>,
    /// For so many requests.
    pub(crate) uses: Option<u64>,
}

/// An answer to a question.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Permits by one of the question's patches, the smallest where none is given. Without terms:
    /// for as many requests as wait.
    Allow { patch: Option<Patch>, terms: Terms },
    /// Refuses.
    Deny,
}

/// Why a lease cannot be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// It would never end.
    #[error(
        "a lease needs an end: `seconds`, `uses` or both, each greater than zero and seconds \
             at most {LONGEST}"
    )]
    Endless,
    /// The patch is too large to be kept.
    #[error("the patch is larger than {LARGEST_PATCH} bytes")]
    TooLarge,
    /// The sandbox has too many.
    #[error("the sandbox already has {MOST_LEASES} leases; revoke one")]
    TooMany,
    /// Another process is taking the sandbox over.
    #[error("another daemon is taking the sandbox over")]
    Ending,
    /// The patch does not fit the policy.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The scope does not permit it.
    #[error(transparent)]
    Scope(#[from] ScopeError),
}

/// Why a question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecideError {
    /// There is none of this id.
    #[error("there is no such question")]
    Unknown,
    /// It is decided already, or its time is over.
    #[error("the question is decided already")]
    Decided,
    /// The policy was replaced; who still waits asks anew.
    #[error("the policy has changed since the question was asked")]
    Changed,
    /// Another process is taking the sandbox over.
    #[error("another daemon is taking the sandbox over")]
    Ending,
    /// The patch is none of the question's.
    #[error(
        "the patch is none of the question's `patches`; a lease can permit more: POST \
             /v1/sandboxes/{{id}}/leases"
    )]
    OtherPatch,
    /// The lease cannot be given.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// A lease of this scope over these rules, which is not in force yet.
fn made(
    scope: LeaseScope,
    rules: &Arc<Rules>,
    patch: Patch,
    terms: Terms,
    by: &str,
) -> Result<Arc<Lease>, LeaseError> {
    // Before the patch is looked at: what does not fit tells of the policy.
    if scope == LeaseScope::Nothing {
        return Err(ScopeError::Settled.into());
    }
    let Terms { seconds, uses } = terms;
    if terms == Terms::default()
        || seconds.is_some_and(|seconds| seconds == 0 || seconds > LONGEST)
        || uses == Some(0)
    {
        return Err(LeaseError::Endless);
    }
    if patch.to_value().to_string().len() > LARGEST_PATCH {
        return Err(LeaseError::TooLarge);
    }
    let laid = rules.policy.overlay(&patch)?;
    scope.judge(&laid)?;
    let laid = rules.overlaid(laid);
    let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
    let until = seconds.map(|seconds| {
        let end = Timestamp::now().checked_add(SignedDuration::from_secs(seconds));
        end.unwrap_or(Timestamp::MAX)
    });
    let id = RequestId::new().to_string().into();
    let lease = Lease::new(id, patch, until, uses, by.into());
    lease.set(laid.generation, Some(laid));
    Ok(Arc::new(lease))
}

impl Desk {
    /// Gives a lease. Compiles a policy.
    ///
    /// # Errors
    /// If it has no end, or the patch does not fit the policy.
    pub(crate) fn give(
        &self,
        rules: &Arc<Rules>,
        patch: Patch,
        terms: Terms,
        by: &str,
    ) -> Result<LeaseView, LeaseError> {
        let lease = made(self.lease_scope(), rules, patch, terms, by)?;
        self.table().add(&lease, Timestamp::now())?;
        self.changed.notify_waiters();
        Ok(lease.view())
    }

    /// Answers a question. Compiles a policy.
    ///
    /// # Errors
    /// If there is no such question, or the answer does not fit it.
    pub(crate) fn decide(
        &self,
        rules: &Arc<Rules>,
        id: &str,
        answer: &Answer,
        by: &str,
    ) -> Result<Option<LeaseView>, DecideError> {
        let (id, proposals, generation) = {
            let table = self.table();
            let found = table.questions.iter().find(|one| one.id.to_string() == id);
            let Some(question) = found else {
                let is_decided = table.decided.iter().any(|one| one.to_string() == id);
                return Err(if is_decided { DecideError::Decided } else { DecideError::Unknown });
            };
            (question.id, question.proposals.clone(), question.generation)
        };
        let Answer::Allow { patch, terms } = answer else {
            let (question, view) = self.close(id).ok_or(DecideError::Decided)?;
            self.audit.emit(record(&self.sandbox, id, "refused", &view).by(by));
            for (_, waiter) in question.waiters {
                // Fails for a request that has gone.
                let _ = waiter.send(Verdict::Refused);
            }
            self.feed.tell(ApprovalEvent { name: "refused", question: view });
            return Ok(None);
        };
        if generation != rules.generation {
            return Err(DecideError::Changed);
        }
        let mut known = proposals.into_iter().map(|proposal| proposal.patch);
        let chosen = match patch {
            None => known.next(),
            Some(patch) => known.find(|known| known == patch),
        };
        let chosen = chosen.ok_or(DecideError::OtherPatch)?;
        // As many uses as wait are known only below: counted there.
        let default = *terms == Terms::default();
        let terms = if default { Terms { seconds: None, uses: Some(u64::MAX) } } else { *terms };
        let lease = made(self.lease_scope(), rules, chosen, terms, by)?;
        self.grant(id, &lease, default, by)
    }

    /// Approves a question with a lease that is not in force yet.
    fn grant(
        &self,
        id: RequestId,
        lease: &Arc<Lease>,
        default: bool,
        by: &str,
    ) -> Result<Option<LeaseView>, DecideError> {
        let now = Timestamp::now();
        let mut table = self.table();
        let found = table.questions.iter().find(|one| one.id == id);
        let waiting = found.ok_or(DecideError::Decided)?.waiters.len();
        if default {
            lease.limit(waiting as u64);
        }
        // The uses of those who wait are taken before anybody else can.
        let shares: Vec<_> = (0..waiting)
            .map(|_| (lease.counts_uses() && lease.take(now)).then(|| lease.clone()))
            .collect();
        let shown = lease.view();
        // Until it is certain that it holds, the question stays.
        if !lease.is_over(now) {
            table.add(lease, now)?;
        }
        let question = table.close(id).ok_or(DecideError::Decided)?;
        drop(table);
        let view = question.view(&self.sandbox);
        self.audit.emit(record(&self.sandbox, id, "approved", &view).by(by).lease(&lease.id));
        for ((_, waiter), share) in question.waiters.into_iter().zip(shares) {
            // Fails for a request that has gone.
            let _ = waiter.send(Verdict::Approved(share));
        }
        self.feed.tell(ApprovalEvent { name: "approved", question: view });
        self.changed.notify_waiters();
        Ok(Some(shown))
    }
}

impl Table {
    /// Puts a lease in force.
    fn add(&mut self, lease: &Arc<Lease>, now: Timestamp) -> Result<(), LeaseError> {
        self.leases.retain(|lease| !lease.is_over(now));
        // Another process would not know of it.
        if self.is_handed {
            return Err(LeaseError::Ending);
        }
        if self.leases.len() >= MOST_LEASES {
            return Err(LeaseError::TooMany);
        }
        self.leases.push(lease.clone());
        Ok(())
    }
}
