//! Numbers that tell sandboxes and network sets apart in the maps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers for sandboxes and network sets: never 0 and never reused, even after a restart beside
/// pinned maps.
#[derive(Debug)]
pub(super) struct Numbers(AtomicU64);

impl Numbers {
    /// Starts above every number of earlier processes.
    pub(super) fn new() -> Self {
        // A process takes fewer than one number per nanosecond, so the next process starts above.
        let now =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        Self(AtomicU64::new(now.max(1)))
    }

    /// The next number.
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
