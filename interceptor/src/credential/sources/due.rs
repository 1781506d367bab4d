//! Tells the thread that fetches keys that one of them is due at another time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Counts changes.
static CHANGES: Mutex<u64> = Mutex::new(0);
static CHANGED: Condvar = Condvar::new();

/// How many changes there have been.
pub(super) fn changes() -> u64 {
    *CHANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that there is another.
pub(super) fn changed() {
    *CHANGES.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    CHANGED.notify_all();
}

/// Waits until there have been others than these, at most so long.
pub(super) fn wait(seen: u64, most: Duration) {
    let changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    // Either way, the thread looks again.
    drop(CHANGED.wait_timeout_while(changes, most, |changes| *changes == seen));
}
