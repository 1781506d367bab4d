//! What the kernel's programs refuse, as audit records: a refused `connect`, datagram or socket never reaches the proxy, and is a
//! decision all the same.

use std::net::SocketAddr;
use std::sync::Arc;

use interceptor_policy::{Filter, Host, Reason};

use super::Sandbox;
use crate::audit::{Kind, Protocol, Record, RequestId, Verdict};

/// Why the kernel's programs refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A deny rule covers the address, or it is loopback that is not the sandbox's own.
    Network,
    /// Neither TCP nor DNS over UDP: a datagram, or a socket that was not made.
    Protocol,
    /// As many connections as a sandbox may have are half open.
    Limit,
    /// The proxy was not at its place, or the kernel had no memory.
    Unserved,
}

/// One refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub cause: Cause,
    /// The number of the protocol (`IPPROTO_TCP` …).
    pub protocol: u32,
    /// Where to; `None` for a socket that was not made.
    pub destination: Option<SocketAddr>,
}

/// Hears of a sandbox's refusals, on a thread of the kernel's side that it must not hold up.
pub trait Refusals: Send + Sync {
    /// One refusal.
    fn refused(&self, refusal: &Refusal);

    /// So many refusals of which nothing else is known: they came too fast.
    fn dropped(&self, number: u64);
}

/// `IPPROTO_TCP` of `include/uapi/linux/in.h`.
const TCP: u32 = 6;

/// Records the refusals of a sandbox in its audit.
pub(super) struct Recorded(pub(super) Arc<Sandbox>);

impl Refusals for Recorded {
    fn refused(&self, refusal: &Refusal) {
        self.0.audit.emit(record(&self.0, refusal));
    }

    fn dropped(&self, number: u64) {
        let mut record = Record::lifecycle(&self.0.id, "refusals_dropped");
        record.dropped = Some(number);
        self.0.audit.emit(record);
    }
}

/// The record of a refusal. The rule is sought in the rules of this moment: where they were replaced since, it may be missing.
fn record(sandbox: &Sandbox, refusal: &Refusal) -> Record {
    let (reason, filter) = match refusal.cause {
        Cause::Network => (Some(Reason::HostDenied), Some(Filter::Network)),
        Cause::Protocol => (Some(Reason::ProtocolDenied), Some(Filter::Network)),
        Cause::Limit => (Some(Reason::LimitExceeded), None),
        // Nothing was wrong with the origin: the interceptor itself was not there.
        Cause::Unserved => (None, None),
    };
    let mut record = Record::new(&sandbox.id, RequestId::new(), Kind::Connection, Verdict::Deny);
    record.reason = reason;
    record.event = reason.is_none().then_some("interceptor_unavailable");
    record.filter = filter;
    if refusal.protocol == TCP {
        record = record.protocol(Protocol::Tcp);
    }
    let Some(destination) = refusal.destination else { return record };
    let (ip, port) = (destination.ip(), destination.port());
    if refusal.cause == Cause::Network {
        let denied = sandbox.rules().policy.decide_address(&Host::Ip(ip), ip, port);
        record = record.rule(denied.err().and_then(|deny| deny.rule));
    }
    match sandbox.names.name_of(ip) {
        Some(name) => record = record.host(name.to_string()),
        None => record = record.host(ip.to_string()),
    }
    record.ip(ip).port(port)
}
