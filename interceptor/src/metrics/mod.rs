//! What this process counts, for Prometheus: `GET /metrics`.
//!
//! Every sandbox has its own `SandboxMetrics`: plain atomic numbers in one allocation, reached by a pointer that
//! connections and requests hold anyway, so that counting costs an addition and never a look-up. Only a scrape walks over
//! them and gives them names.
//!
//! The number of series is bounded whatever a sandbox does: labels are the ids of sandboxes that exist and members of
//! enumerations of this program. No host, path, method, server name or address is ever one. What a sandbox counted is
//! forgotten when it ends.

mod format;
mod histogram;
mod sandbox;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use crate::audit::Audit;
use crate::seam::MapFills;

pub(crate) use format::Format;
pub(crate) use sandbox::{Handshake, Mint, Opened, SandboxMetrics, Side};

/// What this process counts.
#[derive(Debug)]
pub struct Metrics {
    sandboxes: Mutex<Vec<Weak<SandboxMetrics>>>,
    maps: OnceLock<Arc<dyn MapFills>>,
    audit: Audit,
    started: Instant,
}

impl Metrics {
    pub(crate) fn new(audit: Audit) -> Metrics {
        Metrics { sandboxes: Mutex::default(), maps: OnceLock::new(), audit, started: Instant::now() }
    }

    /// Begins to count for a sandbox, until what is returned is dropped or [`SandboxMetrics::retire`] is called.
    pub(crate) fn sandbox(&self, id: &Arc<str>) -> Arc<SandboxMetrics> {
        let metrics = Arc::new(SandboxMetrics::new(id));
        let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        sandboxes.retain(|sandbox| sandbox.upgrade().is_some_and(|sandbox| !sandbox.is_retired()));
        sandboxes.push(Arc::downgrade(&metrics));
        metrics
    }

    /// Has the fill of the kernel's maps reported from now on. There is one program set in a process: the first stays.
    pub fn watch_maps(&self, maps: Arc<dyn MapFills>) {
        // The same set, told of again with every sandbox.
        let _ = self.maps.set(maps);
    }

    /// Everything that is counted, as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut sandboxes = BTreeMap::new();
        for sandbox in self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(sandbox) = sandbox.upgrade().filter(|sandbox| !sandbox.is_retired()) {
                // Of two with one id, the later one: it took the other's place.
                sandboxes.insert(sandbox.id().clone(), sandbox);
            }
        }
        text::encode(text::Snapshot {
            sandboxes: sandboxes.into_values().collect(),
            maps: self.maps.get().map(|maps| maps.read()).unwrap_or_default(),
            audit_dropped: self.audit.dropped(),
            audit_waiting: self.audit.waiting(),
            uptime: self.started.elapsed(),
        })
    }
}
