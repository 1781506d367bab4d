//! What one sandbox counts: atomic numbers, found by enumerations and not by names.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use interceptor_policy::Reason;

use super::histogram::Histogram;
use crate::audit::{Record, Verdict};
use crate::seam::HalfOpen;

/// Every reason there is, and "none".
pub(super) const TYPES: usize = Reason::ALL.len() + 1;

/// With whom a TLS handshake is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// With the sandbox.
    Sandbox,
    /// With an origin.
    Origin,
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handshake {
    /// Both sides agreed.
    Done,
    /// One side refused, or closed.
    Failed,
    /// It took too long.
    TimedOut,
}

/// What came of a wish for a certificate that was not kept already.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mint {
    /// It was made.
    Minted,
    /// `limits.mints_per_second` refused it.
    Limited,
    /// It could not be made.
    Failed,
}

/// Decisions by verdict and type.
pub(super) type Decisions = [[AtomicU64; TYPES]; 2];

/// What one sandbox counts.
#[derive(Debug, Default)]
pub(crate) struct SandboxMetrics {
    id: Arc<str>,
    label: String,
    retired: AtomicBool,
    /// Requests that are over.
    pub(super) requests: Decisions,
    /// Connections that were decided as a whole.
    pub(super) connections: Decisions,
    /// The time that the proxy itself added to forwarded requests.
    pub(super) added: Histogram,
    /// By side and end.
    pub(super) handshakes: [[AtomicU64; 3]; 2],
    pub(super) mints: [AtomicU64; 3],
    pub(super) pool_opened: AtomicU64,
    pub(super) pool_reused: AtomicU64,
    pub(super) pool_idle: AtomicU64,
    pub(super) bytes_up: AtomicU64,
    pub(super) bytes_down: AtomicU64,
    pub(super) keys_echoed: AtomicU64,
    pub(super) dns_queries: AtomicU64,
    pub(super) dns_denied: AtomicU64,
    pub(super) open_connections: AtomicU64,
    pub(super) open_requests: AtomicU64,
    /// The audit stream counts here what of this sandbox it lost.
    pub(super) audit_dropped: Arc<AtomicU64>,
    pub(super) half_open: OnceLock<Box<dyn HalfOpen>>,
}

impl SandboxMetrics {
    pub(super) fn new(id: &Arc<str>) -> SandboxMetrics {
        SandboxMetrics { id: id.clone(), label: label(id), ..SandboxMetrics::default() }
    }

    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The id as the value of a label.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// The sandbox has ended: nothing of it is shown any more, whoever still holds this.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// A request that is over.
    pub(crate) fn request(&self, record: &Record) {
        count(&self.requests, record);
    }

    /// A connection that was decided as a whole.
    pub(crate) fn connection(&self, record: &Record) {
        count(&self.connections, record);
    }

    /// The time that the proxy added to a forwarded request.
    pub(crate) fn added(&self, time: Duration) {
        self.added.observe(time);
    }

    pub(crate) fn handshake(&self, side: Side, end: Handshake) {
        self.handshakes[side as usize][end as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn mint(&self, outcome: Mint) {
        self.mints[outcome as usize].fetch_add(1, Relaxed);
    }

    /// A new connection to an origin.
    pub(crate) fn pool_opened(&self) {
        self.pool_opened.fetch_add(1, Relaxed);
    }

    /// A kept connection to an origin was taken.
    pub(crate) fn pool_reused(&self) {
        self.pool_reused.fetch_add(1, Relaxed);
    }

    /// How many connections to origins are kept now.
    pub(crate) fn pool_idle(&self, number: usize) {
        self.pool_idle.store(number as u64, Relaxed);
    }

    /// Bytes of bodies and tunnels from the sandbox.
    pub(crate) fn up(&self, bytes: u64) {
        self.bytes_up.fetch_add(bytes, Relaxed);
    }

    /// The same to the sandbox.
    pub(crate) fn down(&self, bytes: u64) {
        self.bytes_down.fetch_add(bytes, Relaxed);
    }

    /// Real keys that origins sent back.
    pub(crate) fn keys_echoed(&self, keys: u64) {
        self.keys_echoed.fetch_add(keys, Relaxed);
    }

    /// A name was asked for.
    pub(crate) fn dns_query(&self) {
        self.dns_queries.fetch_add(1, Relaxed);
    }

    /// A name was asked for that the policy denies.
    pub(crate) fn dns_denied(&self) {
        self.dns_denied.fetch_add(1, Relaxed);
    }

    /// Counts an open connection until the returned value is dropped.
    pub(crate) fn open_connection(self: &Arc<Self>) -> Opened {
        Opened::new(self, |metrics| &metrics.open_connections)
    }

    /// Counts a request in progress until the returned value is dropped.
    pub(crate) fn open_request(self: &Arc<Self>) -> Opened {
        Opened::new(self, |metrics| &metrics.open_requests)
    }

    /// Where lost audit records of this sandbox are counted.
    pub(crate) fn audit_dropped(&self) -> &Arc<AtomicU64> {
        &self.audit_dropped
    }

    /// Has the sandbox's half-open connections reported.
    pub(crate) fn watch_half_open(&self, gauge: Box<dyn HalfOpen>) {
        // A sandbox is attached once.
        let _ = self.half_open.set(gauge);
    }
}

/// Something that is counted while it lasts.
#[derive(Debug)]
pub(crate) struct Opened {
    metrics: Arc<SandboxMetrics>,
    which: fn(&SandboxMetrics) -> &AtomicU64,
}

impl Opened {
    fn new(metrics: &Arc<SandboxMetrics>, which: fn(&SandboxMetrics) -> &AtomicU64) -> Opened {
        which(metrics).fetch_add(1, Relaxed);
        Opened { metrics: metrics.clone(), which }
    }

    /// What counts it.
    pub(crate) fn metrics(&self) -> &Arc<SandboxMetrics> {
        &self.metrics
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        (self.which)(&self.metrics).fetch_sub(1, Relaxed);
    }
}

/// Escapes what would end a label's value or its line, which the encoder leaves to its users (OpenMetrics 1.0, `escaped-string`).
fn label(id: &str) -> String {
    id.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn count(decisions: &Decisions, record: &Record) {
    let verdict = usize::from(record.decision == Some(Verdict::Deny));
    // The reasons are numbered as `ALL` lists them; a test compares.
    let reason = record.reason.map_or(0, |reason| reason as usize + 1);
    decisions[verdict][reason].fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_as_they_are_listed() {
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
    }
}
