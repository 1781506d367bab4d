//! Counts changes of keys in this process, so that an open answer learns of one by one load.
//!
//! A change is counted before any request can carry the new key. So whoever has read a byte that an
//! origin wrote after it got that key, and then looks here, sees that something changed.

use std::sync::atomic::{AtomicU64, Ordering};

static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Counts one.
pub(super) fn count() {
    CHANGES.fetch_add(1, Ordering::AcqRel);
}

/// How many there were.
pub(super) fn counted() -> u64 {
    CHANGES.load(Ordering::Acquire)
}
