//! Metrics of this process for Prometheus: `GET /metrics`.
//!
//! Every sandbox has its own `SandboxMetrics`: atomic counters in one allocation, reached by a
//! pointer that connections and requests hold anyway, so counting costs an addition and no lookup.
//! Only a scrape iterates over them and names them.
//!
//! The number of series is bounded: labels are the ids of existing sandboxes, the names of their
//! credentials whose keys live, and values of our own enums; never a host, path, method, server
//! name or address. A sandbox's counters disappear when it ends.

mod format;
mod histogram;
mod keys;
mod sandbox;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use crate::audit::Audit;
use crate::seam::MapFills;

pub(crate) use format::ExpositionFormat;
pub(crate) use keys::KeyLife;
pub(crate) use sandbox::{Handshake, Mint, Opened, SandboxMetrics, Side};

/// So many sandboxes may always be known.
const FEWEST_KNOWN: usize = 64;

/// The metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    sandboxes: Mutex<Known>,
    maps: OnceLock<Arc<dyn MapFills>>,
    keys: fn() -> Vec<KeyLife>,
    audit: Audit,
    started: Instant,
}

/// The sandboxes, and some that are gone.
#[derive(Debug, Default)]
struct Known {
    all: Vec<Weak<SandboxMetrics>>,
    /// How many there may be before those that are gone are looked for: to look at each new one
    /// would cost as much as there are.
    most: usize,
}

impl Metrics {
    /// With what tells about keys that live.
    pub(crate) fn new(audit: Audit, keys: fn() -> Vec<KeyLife>) -> Metrics {
        Metrics {
            sandboxes: Mutex::default(),
            maps: OnceLock::new(),
            keys,
            audit,
            started: Instant::now(),
        }
    }

    /// Adds metrics for a sandbox, until the returned value is dropped or
    /// [`SandboxMetrics::retire`] is called.
    pub(crate) fn sandbox(&self, id: &Arc<str>) -> Arc<SandboxMetrics> {
        let metrics = Arc::new(SandboxMetrics::new(id));
        let mut sandboxes = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if sandboxes.all.len() >= sandboxes.most {
            let is_alive = |sandbox: &Weak<SandboxMetrics>| {
                sandbox.upgrade().is_some_and(|sandbox| !sandbox.is_retired())
            };
            sandboxes.all.retain(is_alive);
            sandboxes.most = FEWEST_KNOWN.max(2 * sandboxes.all.len());
        }
        sandboxes.all.push(Arc::downgrade(&metrics));
        metrics
    }

    /// Reports the fill of the kernel's maps from now on. A process has one program set, so only
    /// the first call counts.
    pub fn watch_maps(&self, maps: Arc<dyn MapFills>) {
        // Called again with the same set for every sandbox.
        let _ = self.maps.set(maps);
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut sandboxes = BTreeMap::new();
        for sandbox in &self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).all {
            if let Some(sandbox) = sandbox.upgrade().filter(|sandbox| !sandbox.is_retired()) {
                // With duplicate ids, the newer sandbox wins.
                sandboxes.insert(sandbox.id().clone(), sandbox);
            }
        }
        text::encode(text::Snapshot {
            sandboxes: sandboxes.into_values().collect(),
            maps: self.maps.get().map(|maps| maps.read()).unwrap_or_default(),
            keys: (self.keys)(),
            audit_dropped: self.audit.dropped(),
            audit_waiting: self.audit.waiting(),
            uptime: self.started.elapsed(),
        })
    }
}
