//! A lease: a patch laid over the policy, until a time or for so many requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use interceptor_policy::Patch;
use jiff::Timestamp;

use super::super::rules::Rules;
use super::scope::LeaseScope;
use super::view::LeaseView;
use crate::upstream::pool::Generation;

/// The most leases of a sandbox.
pub(super) const MOST_LEASES: usize = 64;
/// The largest patch of a lease, in bytes of JSON.
pub(super) const LARGEST_PATCH: usize = 16 * 1024;

/// Rules with the patch, of one generation. None where the patch does not fit them.
type Laid = (Generation, Option<Arc<Rules>>);

/// A lease.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Its id.
    pub(crate) id: Arc<str>,
    /// What it changes of the policy.
    pub(super) patch: Patch,
    /// When it ends.
    pub(super) until: Option<Timestamp>,
    /// The requests that it may still permit.
    pub(super) uses: Option<AtomicU64>,
    /// When it was given.
    pub(super) created: Timestamp,
    /// By whom.
    pub(super) by: Arc<str>,
    /// Somebody revoked it.
    revoked: AtomicBool,
    /// What it is laid over: the rules in force, and, while they are replaced, the next ones.
    laid: Mutex<Vec<Laid>>,
}

impl Lease {
    pub(super) fn new(
        id: Arc<str>,
        patch: Patch,
        until: Option<Timestamp>,
        uses: Option<u64>,
        by: Arc<str>,
    ) -> Lease {
        Lease {
            id,
            patch,
            until,
            uses: uses.map(AtomicU64::new),
            created: Timestamp::now(),
            by,
            revoked: AtomicBool::new(false),
            laid: Mutex::default(),
        }
    }

    /// Lays it over these rules, if the scope permits that and unless it was. Keeps those that it
    /// is laid over now, which are in force until then.
    pub(super) fn lay(&self, base: &Arc<Rules>, scope: LeaseScope) {
        if self.laid().iter().any(|(generation, _)| *generation == base.generation) {
            return;
        }
        let laid = base.policy.overlay(&self.patch).ok();
        let laid = laid.filter(|policy| scope.judge(policy).is_ok());
        self.set(base.generation, laid.map(|policy| base.overlaid(policy)));
    }

    pub(super) fn set(&self, generation: Generation, laid: Option<Rules>) {
        let mut known = self.laid();
        let keep = known.len().saturating_sub(1);
        known.drain(..keep);
        known.push((generation, laid.map(Arc::new)));
    }

    /// Forgets the rules that are no longer in force, and the keys they hold.
    pub(super) fn settle(&self, base: &Arc<Rules>) {
        self.laid().retain(|(generation, _)| *generation == base.generation);
    }

    /// The rules with the patch, if it fits them.
    pub(super) fn rules(&self, base: &Arc<Rules>) -> Option<Arc<Rules>> {
        let laid = self.laid();
        let found = laid.iter().find(|(generation, _)| *generation == base.generation);
        found.and_then(|(_, rules)| rules.clone())
    }

    fn laid(&self) -> MutexGuard<'_, Vec<Laid>> {
        self.laid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules with the patch, for a request whose use was counted when it was approved.
    pub(crate) fn granted(&self, base: &Arc<Rules>, now: Timestamp) -> Option<Arc<Rules>> {
        let stands =
            !self.revoked.load(Ordering::Acquire) && self.until.is_none_or(|end| now < end);
        stands.then(|| self.rules(base)).flatten()
    }

    /// Limits it to so many uses, before it is in force.
    pub(super) fn limit(&self, uses: u64) {
        if let Some(left) = &self.uses {
            left.store(uses, Ordering::Release);
        }
    }

    pub(super) fn counts_uses(&self) -> bool {
        self.uses.is_some()
    }

    /// Whether its time has passed or nothing is left of it.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.revoked.load(Ordering::Acquire)
            || self.until.is_some_and(|end| now >= end)
            || self.uses.as_ref().is_some_and(|left| left.load(Ordering::Acquire) == 0)
    }

    /// Takes one of its uses; `false` if it is over.
    pub(super) fn take(&self, now: Timestamp) -> bool {
        if self.revoked.load(Ordering::Acquire) || self.until.is_some_and(|end| now >= end) {
            return false;
        }
        let less = |left: u64| left.checked_sub(1);
        self.uses
            .as_ref()
            .is_none_or(|left| left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok())
    }

    /// It permits nothing more.
    pub(super) fn end(&self) {
        self.revoked.store(true, Ordering::Release);
    }

    pub(super) fn view(&self) -> LeaseView {
        LeaseView {
            id: self.id.to_string(),
            patch: self.patch.to_value(),
            created: self.created,
            until: self.until,
            uses: self.uses.as_ref().map(|left| left.load(Ordering::Acquire)),
            by: self.by.to_string(),
        }
    }
}
