//! Gives memory back to the system after a burst. What many connections need for a moment lies
//! between what they keep, where the allocator does not give it back by itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A burst is over when no connection has come to rest for this long.
const QUIET: Duration = Duration::from_secs(1);
/// Fewer connections are not worth it.
const BURST: usize = 64;
/// How long after one time the next may come: the allocator stands still meanwhile, for every
/// sandbox, and each of them can bring a burst about.
const APART: Duration = Duration::from_secs(30);

/// What has come to rest in this process.
#[derive(Debug, Default)]
pub(crate) struct Tidy {
    /// Connections that have come to rest or ended.
    rested: AtomicUsize,
    /// Whether a task waits for the end of the burst.
    waits: AtomicBool,
    /// What gives memory back, if anything does.
    give_back: OnceLock<fn()>,
}

impl Tidy {
    /// Sets what gives memory back.
    pub(super) fn with(&self, give_back: fn()) {
        let _ = self.give_back.set(give_back);
    }

    /// A connection needs less memory now than a moment ago. Call it in a tokio runtime.
    pub(crate) fn rested(self: &Arc<Self>) {
        let Some(give_back) = self.give_back.get().copied() else { return };
        if self.rested.fetch_add(1, Ordering::SeqCst) + 1 >= BURST
            && !self.waits.swap(true, Ordering::SeqCst)
        {
            let tidy = self.clone();
            tokio::spawn(async move { tidy.give_back(give_back).await });
        }
    }

    /// Gives memory back after each burst, until there is none.
    async fn give_back(&self, give_back: fn()) {
        loop {
            self.quiet().await;
            // It walks through all that is free, which takes longer than a worker should.
            let _ = tokio::task::spawn_blocking(give_back).await;
            tokio::time::sleep(APART).await;
            self.waits.store(false, Ordering::SeqCst);
            let is_another = self.rested.load(Ordering::SeqCst) >= BURST;
            if !is_another || self.waits.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Waits for the end of the burst.
    async fn quiet(&self) {
        loop {
            let before = self.rested.load(Ordering::SeqCst);
            tokio::time::sleep(QUIET).await;
            if self.rested.load(Ordering::SeqCst) == before {
                break;
            }
        }
        self.rested.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_given_back_once_after_each_burst() {
        static GIVEN: AtomicUsize = AtomicUsize::new(0);
        let given = || GIVEN.load(Ordering::SeqCst);
        let tidy = Arc::new(Tidy::default());
        let rest = async |connections| {
            for _ in 0..connections {
                tidy.rested();
                tokio::time::sleep(QUIET / 10).await;
            }
        };
        rest(BURST).await;
        tokio::time::sleep(QUIET * 3).await;
        assert_eq!(given(), 0, "nothing gives it back");
        tidy.with(|| {
            GIVEN.fetch_add(1, Ordering::SeqCst);
        });
        rest(BURST - 1).await;
        tokio::time::sleep(QUIET * 3).await;
        assert_eq!(given(), 0, "it is not worth it");
        rest(BURST * 2).await;
        assert_eq!(given(), 0, "it goes on");
        while given() == 0 {
            tokio::time::sleep(QUIET).await;
        }
        let first = tokio::time::Instant::now();
        rest(BURST).await;
        while given() == 1 {
            tokio::time::sleep(QUIET / 10).await;
        }
        assert!(first.elapsed() >= APART - QUIET, "{:?}", first.elapsed());
        tokio::time::sleep(APART * 2).await;
        assert_eq!(given(), 2);
        rest(BURST).await;
        tokio::time::sleep(QUIET * 3).await;
        assert_eq!(given(), 3, "long after the last");
    }
}
