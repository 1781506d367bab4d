//! Records lookups at a limited rate. A sandbox can look up names very fast, at the expense of the
//! disk and the reader. Beyond a rate far above what programs need, lookups are only counted, and
//! the count is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::budget::TokenBucket;
use crate::audit::{Audit, Record};

/// Burst and rate per second of recorded lookups, equal to the kernel programs' reports.
const AT_ONCE: u32 = 1024;
const PER_SECOND: u32 = 1000;
/// How long to count before recording the count.
const GATHERED: Duration = Duration::from_secs(1);

/// The record of a sandbox's lookups.
pub(super) struct Ledger {
    sandbox: Arc<str>,
    audit: Audit,
    pace: TokenBucket,
    /// Unrecorded lookups not yet reported.
    unrecorded: AtomicU64,
    counted: Notify,
}

impl Ledger {
    pub(super) fn new(sandbox: Arc<str>, audit: Audit) -> Ledger {
        Ledger {
            sandbox,
            audit,
            pace: TokenBucket::new(AT_ONCE, PER_SECOND),
            unrecorded: AtomicU64::new(0),
            counted: Notify::new(),
        }
    }

    /// Whether a lookup may be recorded; otherwise it is counted.
    pub(super) fn has_room(&self) -> bool {
        let room = self.pace.spend();
        if !room {
            self.count();
        }
        room
    }

    /// Counts an unrecorded lookup.
    pub(super) fn count(&self) {
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
        self.counted.notify_one();
    }

    /// Records a lookup.
    pub(super) fn write(&self, record: Record) {
        self.audit.emit(record);
    }

    /// Records the counts periodically. Never returns.
    pub(super) async fn tell(&self) {
        loop {
            self.counted.notified().await;
            tokio::time::sleep(GATHERED).await;
            self.flush();
        }
    }

    /// Records the current count.
    pub(super) fn flush(&self) {
        let unrecorded = self.unrecorded.swap(0, Ordering::Relaxed);
        if unrecorded > 0 {
            let mut record = Record::lifecycle(&self.sandbox, "dns_records_dropped");
            record.dropped = Some(unrecorded);
            self.audit.emit(record);
        }
    }
}
