//! A limited number of concurrent slots: a sandbox's connections, or its requests in progress.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A resizable number of slots.
#[derive(Clone, Debug)]
pub(crate) struct Quota(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    state: Mutex<Counters>,
}

#[derive(Debug)]
struct Counters {
    most: usize,
    /// Slots to destroy when they are released, because the quota shrank below what was taken.
    owed: usize,
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
        let state = Mutex::new(Counters { most, owed: 0 });
        Quota(Arc::new(Inner { free: Arc::new(Semaphore::new(most)), state }))
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
        let mut state = self.lock();
        if most >= state.most {
            let more = most - state.most;
            let forgiven = more.min(state.owed);
            state.owed -= forgiven;
            self.0.free.add_permits(more - forgiven);
        } else {
            let fewer = state.most - most;
            state.owed += fewer - self.0.free.forget_permits(fewer);
        }
        state.most = most;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counters> {
        // Nothing here panics; if it did, the numbers would stay consistent.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.quota.lock();
        if state.owed > 0
            && let Some(permit) = self.permit.take()
        {
            state.owed -= 1;
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
