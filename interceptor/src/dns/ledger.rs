//! What is recorded of look-ups. A sandbox chooses names, and as fast as it can; the disk and the
//! reader of the records are others'. Beyond a pace far above what programs need, look-ups are only
//! counted, and the count is recorded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::budget::Budget;
use crate::audit::{Audit, Record};

/// Records of look-ups at once, and then each second: as many as the kernel's programs report.
const AT_ONCE: u32 = 1024;
const PER_SECOND: u32 = 1000;
/// How long counts are gathered before one is recorded.
const GATHERED: Duration = Duration::from_secs(1);

/// Where a sandbox's look-ups are recorded.
pub(super) struct Ledger {
    sandbox: Arc<str>,
    audit: Audit,
    pace: Budget,
    /// Look-ups that were not recorded, and of which no record tells yet.
    unrecorded: AtomicU64,
    counted: Notify,
}

impl Ledger {
    pub(super) fn new(sandbox: Arc<str>, audit: Audit) -> Ledger {
        Ledger {
            sandbox,
            audit,
            pace: Budget::new(AT_ONCE, PER_SECOND),
            unrecorded: AtomicU64::new(0),
            counted: Notify::new(),
        }
    }

    /// Whether one more look-up may be recorded; if not, it is counted.
    pub(super) fn has_room(&self) -> bool {
        let room = self.pace.spend();
        if !room {
            self.count();
        }
        room
    }

    /// Counts a look-up that is not recorded.
    pub(super) fn count(&self) {
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
        self.counted.notify_one();
    }

    /// Records a look-up.
    pub(super) fn write(&self, record: Record) {
        self.audit.emit(record);
    }

    /// Records the counts as they gather. Never returns.
    pub(super) async fn tell(&self) {
        loop {
            self.counted.notified().await;
            tokio::time::sleep(GATHERED).await;
            self.flush();
        }
    }

    /// Records what was counted up to now.
    pub(super) fn flush(&self) {
        let unrecorded = self.unrecorded.swap(0, Ordering::Relaxed);
        if unrecorded > 0 {
            let mut record = Record::lifecycle(&self.sandbox, "dns_records_dropped");
            record.dropped = Some(unrecorded);
            self.audit.emit(record);
        }
    }
}
