//! Names and encodes the metrics. Counters per enum value are omitted while zero; the others are
//! always present, so that a missing series means a missing sandbox.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use interceptor_policy::Reason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::keys::{self, KeyLife};
use super::sandbox::{Decisions, SandboxMetrics};
use crate::seam::MapFill;

/// The state at a scrape.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) sandboxes: Vec<Arc<SandboxMetrics>>,
    pub(super) maps: Vec<MapFill>,
    pub(super) keys: Vec<KeyLife>,
    pub(super) audit_dropped: u64,
    pub(super) audit_waiting: usize,
    pub(super) uptime: Duration,
}

/// The text of a snapshot.
pub(super) fn encode(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("interceptor");
    registry.register_collector(Box::new(snapshot));
    let mut out = String::new();
    if let Err(error) = text::encode(&mut out, &registry) {
        // Writing to a string cannot fail, so this is an encoder error; a partial response would be
        // wrong.
        tracing::error!(%error, "cannot write the metrics");
        out = "# EOF\n".to_owned();
    }
    out
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Collector for Snapshot {
    #[expect(clippy::too_many_lines, reason = "a table of metrics")]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let encoder = &mut encoder;
        self.process(encoder)?;
        keys::encode(&self.keys, encoder)?;
        self.decisions(encoder, "requests", "Finished requests", |sandbox| &sandbox.requests)?;
        let help =
            "Connections decided as a whole: tunnels, and refusals before any request was read";
        self.decisions(encoder, "connections", help, |sandbox| &sandbox.connections)?;
        let help = "Latency the proxy added to a forwarded request, excluding dialling and the \
                    origin's own time";
        let mut family = encoder.encode_descriptor(
            "request_added",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for sandbox in &self.sandboxes {
            let (sum, count, ranges) = sandbox.added.read();
            let labels = [("sandbox", sandbox.label())];
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &ranges, None)?;
        }
        let help = "Finished TLS handshakes with the sandbox and with origins";
        let mut family =
            encoder.encode_descriptor("tls_handshakes", help, None, MetricType::Counter)?;
        for sandbox in &self.sandboxes {
            for (side, ends) in ["sandbox", "origin"].into_iter().zip(&sandbox.handshakes) {
                for (outcome, number) in ["ok", "failed", "timeout"].into_iter().zip(ends) {
                    let labels =
                        [("sandbox", sandbox.label()), ("side", side), ("outcome", outcome)];
                    counter(&mut family, &labels, number)?;
                }
            }
        }
        let help = "Certificate requests for names without a cached one";
        let mut family =
            encoder.encode_descriptor("certificate_mints", help, None, MetricType::Counter)?;
        for sandbox in &self.sandboxes {
            for (outcome, number) in ["minted", "limited", "failed"].into_iter().zip(&sandbox.mints)
            {
                counter(
                    &mut family,
                    &[("sandbox", sandbox.label()), ("outcome", outcome)],
                    number,
                )?;
            }
        }
        self.counters(encoder, "pool_opened", "New connections to origins", |s| &s.pool_opened)?;
        self.counters(encoder, "pool_reused", "Reused connections to origins", |s| &s.pool_reused)?;
        self.gauges(encoder, "pool_idle", "Idle connections to origins", |s| &s.pool_idle)?;
        self.counters(encoder, "bytes_up", "Bytes of bodies and tunnels from the sandbox", |s| {
            &s.bytes_up
        })?;
        self.counters(encoder, "bytes_down", "Bytes of bodies and tunnels to the sandbox", |s| {
            &s.bytes_down
        })?;
        let help = "Real keys that origins sent back and that were redacted";
        self.counters(encoder, "keys_echoed", help, |s| &s.keys_echoed)?;
        self.counters(encoder, "dns_queries", "DNS queries", |s| &s.dns_queries)?;
        self.counters(
            encoder,
            "dns_denied",
            "DNS queries for names that the policy denies",
            |s| &s.dns_denied,
        )?;
        self.gauges(encoder, "connections_open", "Open connections of the sandbox", |s| {
            &s.open_connections
        })?;
        self.gauges(encoder, "requests_open", "Requests in progress", |s| &s.open_requests)?;
        let help = "Lost audit records of the sandbox";
        self.counters(encoder, "sandbox_audit_dropped", help, |s| &s.audit_dropped)?;
        let help = "Half-open connections of the sandbox";
        let mut family =
            encoder.encode_descriptor("connections_half_open", help, None, MetricType::Gauge)?;
        for sandbox in &self.sandboxes {
            if let Some(number) = sandbox.half_open.get().and_then(|gauge| gauge.read()) {
                gauge(&mut family, &[("sandbox", sandbox.label())], number)?;
            }
        }
        Ok(())
    }
}

impl Snapshot {
    /// The metrics of the process itself.
    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder
            .encode_descriptor("build", "This program", None, MetricType::Info)?
            .encode_info(&version)?;
        let seconds = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor(
            "uptime",
            "Time since the start",
            seconds,
            MetricType::Gauge,
        )?;
        family.encode_gauge(&self.uptime.as_secs_f64())?;
        let mut family =
            encoder.encode_descriptor("sandboxes", "Sandboxes", None, MetricType::Gauge)?;
        family.encode_gauge(&(self.sandboxes.len() as u64))?;
        let help = "Lost audit records";
        let mut family =
            encoder.encode_descriptor("audit_dropped", help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&self.audit_dropped, None)?;
        let help = "Audit records waiting to be written";
        let mut family =
            encoder.encode_descriptor("audit_waiting", help, None, MetricType::Gauge)?;
        family.encode_gauge(&(self.audit_waiting as u64))?;
        let mut family = encoder.encode_descriptor(
            "bpf_map_entries",
            "Entries in the kernel's maps",
            None,
            MetricType::Gauge,
        )?;
        for fill in &self.maps {
            gauge(&mut family, &[("map", fill.map)], fill.entries)?;
        }
        let help = "Capacity of the kernel's maps";
        let mut family =
            encoder.encode_descriptor("bpf_map_capacity", help, None, MetricType::Gauge)?;
        for fill in &self.maps {
            gauge(&mut family, &[("map", fill.map)], fill.capacity)?;
        }
        Ok(())
    }

    fn decisions(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&SandboxMetrics) -> &Decisions,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let types = || ["none"].into_iter().chain(Reason::ALL.map(Reason::as_str));
        for sandbox in &self.sandboxes {
            for (decision, numbers) in ["allow", "deny"].into_iter().zip(of(sandbox)) {
                for (kind, number) in
                    types().zip(numbers).filter(|(_, number)| number.load(Relaxed) > 0)
                {
                    let labels =
                        [("sandbox", sandbox.label()), ("decision", decision), ("type", kind)];
                    counter(&mut family, &labels, number)?;
                }
            }
        }
        Ok(())
    }

    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&SandboxMetrics) -> &AtomicU64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for sandbox in &self.sandboxes {
            counter(&mut family, &[("sandbox", sandbox.label())], of(sandbox))?;
        }
        Ok(())
    }

    fn gauges(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&SandboxMetrics) -> &AtomicU64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for sandbox in &self.sandboxes {
            gauge(&mut family, &[("sandbox", sandbox.label())], of(sandbox).load(Relaxed))?;
        }
        Ok(())
    }
}

fn counter<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &Labels<'_, N>,
    number: &AtomicU64,
) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&number.load(Relaxed), None)
}

fn gauge<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &Labels<'_, N>,
    number: u64,
) -> fmt::Result {
    family.encode_family(labels)?.encode_gauge(&number)
}
