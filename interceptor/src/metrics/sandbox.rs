//! The metrics of one sandbox: atomic counters indexed by enums.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use interceptor_policy::Reason;

use super::histogram::Histogram;
use crate::audit::{Record, Verdict};
use crate::seam::HalfOpen;

/// All reasons, and "none".
pub(super) const TYPES: usize = Reason::ALL.len() + 1;

/// The peer of a TLS handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// The sandbox.
    Sandbox,
    /// An origin.
    Origin,
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Handshake {
    /// It completed.
    Done,
    /// One side refused, or closed.
    Failed,
    /// It took too long.
    TimedOut,
}

/// The outcome of a request for an uncached certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mint {
    /// It was minted.
    Minted,
    /// `limits.mints_per_second` refused it.
    Limited,
    /// Minting failed.
    Failed,
}

/// Decisions by verdict and type.
pub(super) type Decisions = [[AtomicU64; TYPES]; 2];

/// The metrics of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct SandboxMetrics {
    id: Arc<str>,
    label: String,
    retired: AtomicBool,
    /// Finished requests.
    pub(super) requests: Decisions,
    /// Connections decided as a whole.
    pub(super) connections: Decisions,
    /// The latency that the proxy added to forwarded requests.
    pub(super) added: Histogram,
    /// By peer and outcome.
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
    /// Lost audit records of this sandbox.
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

    /// The id as a label value.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Relaxed)
    }

    /// The sandbox has ended: hides its metrics even while this is still held.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Counts a finished request.
    pub(crate) fn request(&self, record: &Record) {
        count(&self.requests, record);
    }

    /// Counts a connection decided as a whole.
    pub(crate) fn connection(&self, record: &Record) {
        count(&self.connections, record);
    }

    /// Observes the latency that the proxy added to a forwarded request.
    pub(crate) fn added(&self, time: Duration) {
        self.added.observe(time);
    }

    pub(crate) fn handshake(&self, side: Side, end: Handshake) {
        self.handshakes[side as usize][end as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn mint(&self, outcome: Mint) {
        self.mints[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Counts a new connection to an origin.
    pub(crate) fn pool_opened(&self) {
        self.pool_opened.fetch_add(1, Relaxed);
    }

    /// Counts a reused connection to an origin.
    pub(crate) fn pool_reused(&self) {
        self.pool_reused.fetch_add(1, Relaxed);
    }

    /// Sets the number of idle connections to origins.
    pub(crate) fn pool_idle(&self, number: usize) {
        self.pool_idle.store(number as u64, Relaxed);
    }

    /// Counts bytes of bodies and tunnels from the sandbox.
    pub(crate) fn up(&self, bytes: u64) {
        self.bytes_up.fetch_add(bytes, Relaxed);
    }

    /// The same to the sandbox.
    pub(crate) fn down(&self, bytes: u64) {
        self.bytes_down.fetch_add(bytes, Relaxed);
    }

    /// Counts real keys that origins sent back.
    pub(crate) fn keys_echoed(&self, keys: u64) {
        self.keys_echoed.fetch_add(keys, Relaxed);
    }

    /// Counts a DNS query.
    pub(crate) fn dns_query(&self) {
        self.dns_queries.fetch_add(1, Relaxed);
    }

    /// Counts a DNS query for a denied name.
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

    /// The counter of this sandbox's lost audit records.
    pub(crate) fn audit_dropped(&self) -> &Arc<AtomicU64> {
        &self.audit_dropped
    }

    /// Reports the sandbox's half-open connections from now on.
    pub(crate) fn watch_half_open(&self, gauge: Box<dyn HalfOpen>) {
        // A sandbox is attached only once.
        let _ = self.half_open.set(gauge);
    }
}

/// Counts something while it lasts.
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

    /// The metrics that count it.
    pub(crate) fn metrics(&self) -> &Arc<SandboxMetrics> {
        &self.metrics
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        (self.which)(&self.metrics).fetch_sub(1, Relaxed);
    }
}

/// Escapes a label value, which the encoder does not (OpenMetrics 1.0, `escaped-string`).
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
