//! A limited number of concurrent slots: a sandbox's connections, or its requests in progress.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A resizable number of slots.
#[derive(Clone, Debug)]
pub(crate) struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    most: Mutex<usize>,
    /// Slots to destroy when they are released, because the quota shrank below what was taken.
    owed: AtomicUsize,
}

/// A taken slot, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    quota: Quota,
}

impl Quota {
    pub(crate) fn new(most: u64) -> Quota {
        let most = places(most);
        Quota(Arc::new(Inner {
            free: Arc::new(Semaphore::new(most)),
            most: Mutex::new(most),
            owed: AtomicUsize::new(0),
        }))
    }

    /// Waits for a slot.
    pub(crate) async fn take(&self) -> Permit {
        // Nobody closes the semaphore, so this always yields a permit.
        Permit { permit: self.0.free.clone().acquire_owned().await.ok(), quota: self.clone() }
    }

    /// Takes a slot if one is free.
    pub(crate) fn try_take(&self) -> Option<Permit> {
        let permit = self.0.free.clone().try_acquire_owned().ok()?;
        Some(Permit { permit: Some(permit), quota: self.clone() })
    }

    /// Resizes the quota. Slots already taken stay valid.
    pub(crate) fn set(&self, most: u64) {
        let most = places(most);
        // Nothing here panics; if it did, the numbers would stay consistent.
        let mut before = self.0.most.lock().unwrap_or_else(PoisonError::into_inner);
        if most >= *before {
            let more = most - *before;
            let forgiven = self.settle(more);
            self.0.free.add_permits(more - forgiven);
        } else {
            let fewer = *before - most;
            self.0.owed.fetch_add(fewer - self.0.free.forget_permits(fewer), Ordering::AcqRel);
        }
        *before = most;
    }

    /// Settles at most this many owed slots and returns how many.
    fn settle(&self, most: usize) -> usize {
        let less = |owed: usize| (owed > 0).then(|| owed - owed.min(most));
        let before = self.0.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        before.map_or(0, |owed| owed.min(most))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.permit.is_some()
            && self.quota.settle(1) > 0
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

fn places(most: u64) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_changes_holds_for_those_who_come_next() {
        let quota = Quota::new(2);
        let (one, two) = (quota.try_take().unwrap(), quota.try_take().unwrap());
        assert!(quota.try_take().is_none());
        quota.set(1);
        drop(one);
        assert!(quota.try_take().is_none(), "the only slot is still taken");
        quota.set(2);
        let three = quota.try_take().unwrap();
        drop((two, three));
        quota.set(0);
        assert!(quota.try_take().is_none());
        quota.set(1);
        let one = quota.try_take().unwrap();
        assert!(quota.try_take().is_none());
        drop(one);
    }
}
