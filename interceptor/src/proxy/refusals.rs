//! Audit records of the kernel programs' refusals: a refused `connect`, datagram or socket never
//! reaches the proxy, but is a decision all the same.

use std::sync::Arc;

use interceptor_policy::{Filter, Host, Reason};

use super::Sandbox;
use crate::audit::{Kind, Protocol, Record, RequestId, Verdict};
use crate::seam::{Cause, Refusal, Refusals};

/// `IPPROTO_TCP` of `include/uapi/linux/in.h`.
const TCP: u32 = 6;

/// Records a sandbox's kernel refusals in the audit log.
pub(super) struct Recorded(pub(super) Arc<Sandbox>);

impl Sandbox {
    /// Records kernel refusals among this sandbox's audit records.
    pub fn refusals(self: &Arc<Self>) -> Arc<dyn Refusals> {
        Arc::new(Recorded(Arc::clone(self)))
    }
}

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

/// The record of a refusal. The rule comes from the current policy, so it may be missing if that
/// was replaced meanwhile.
fn record(sandbox: &Sandbox, refusal: &Refusal) -> Record {
    let (reason, filter) = match refusal.cause {
        Cause::Network => (Some(Reason::HostDenied), Some(Filter::Network)),
        Cause::Protocol => (Some(Reason::ProtocolDenied), Some(Filter::Network)),
        Cause::Limit => (Some(Reason::LimitExceeded), None),
        // The origin is not at fault: the interceptor was not there.
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
