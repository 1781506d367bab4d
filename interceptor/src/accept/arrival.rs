//! What is known about a connection before its requests, and the record of a connection without
//! any.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interceptor_policy::{Decision, Deny, Filter, Host, HostName, Policy, Reason, Rule};
use tokio::net::TcpStream;

use super::distrust::{Client, warn};
use super::native;
use crate::audit::{Kind, Protocol, Record, RequestId, Verdict};
use crate::http::activity::Activity;
use crate::proxy::{Rules, Sandbox};

/// A client that closes within this time may have rejected the certificate. Later, it was an unused
/// connection kept open in advance.
const AT_ONCE: Duration = Duration::from_secs(5);

/// A connection before its first request.
pub(super) struct Arrival {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) rules: Arc<Rules>,
    /// The address the sandbox connected to.
    pub(super) asked: SocketAddr,
    /// The name it looked up to get that address.
    pub(super) lookup: Option<HostName>,
    pub(super) since: Instant,
    /// Its socket once more, where requests may wait for a person.
    pub(super) peer: Option<OwnedFd>,
    /// Its record, in case no request ever arrives.
    pub(super) unasked: Unasked,
}

impl Arrival {
    pub(super) fn new(
        sandbox: Arc<Sandbox>,
        asked: SocketAddr,
        activity: Arc<Activity>,
    ) -> Arrival {
        let rules = sandbox.rules();
        // A synthetic address without a name stays an address. It is in a special-purpose range,
        // which policy refuses.
        let lookup = sandbox.names.name_of(asked.ip());
        let since = Instant::now();
        let host = host(lookup.as_ref(), asked);
        let unasked = Unasked {
            decided: decided(&rules.policy, &host, asked.port()),
            sandbox: sandbox.clone(),
            asked,
            since,
            activity,
            host,
            protocol: None,
            counted: false,
            shown: None,
        };
        Arrival { sandbox, rules, asked, lookup, since, peer: None, unasked }
    }

    /// The name looked up, or else the address.
    pub(super) fn host(&self) -> Host {
        host(self.lookup.as_ref(), self.asked)
    }

    /// Activity on it.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.unasked.activity
    }

    /// Sets the host it turned out to be for. If its names differ, every request on it is refused.
    pub(super) fn is_for(&mut self, host: &Host, mismatched: bool) {
        self.unasked.decided = match mismatched {
            true => (Verdict::Deny, None, None),
            false => decided(&self.rules.policy, host, self.asked.port()),
        };
        self.unasked.host = host.clone();
    }

    /// Makes a record for it in place of the one without requests.
    pub(super) fn record(
        &self,
        decision: Verdict,
        protocol: Option<Protocol>,
        host: &Host,
    ) -> Record {
        self.activity().record();
        self.unasked.record(decision, protocol, host)
    }

    /// Records a connection that is closed without an HTTP response.
    pub(super) fn refused(&self, protocol: Option<Protocol>, host: &Host, deny: &Deny) {
        let record =
            self.record(Verdict::Deny, protocol, host).reason(deny.reason).filter(deny.filter);
        let record = record.rule(deny.rule.clone());
        tracing::debug!(
            id = %record.id,
            %host,
            reason = deny.reason.as_str(),
            why = %deny.message,
            "connection refused"
        );
        self.unasked.tell(record);
    }

    /// Closes a connection whose refusal is recorded, with an explanation if its protocol has a
    /// place for one.
    pub(super) async fn explain(
        &self,
        stream: TcpStream,
        first: &[u8],
        host: &Host,
        message: &str,
    ) {
        let port = self.asked.port();
        let refused =
            native::RefusedConnection { sandbox: &self.sandbox, host, port, first, message };
        native::refuse(&refused, stream).await;
    }
}

fn host(lookup: Option<&HostName>, asked: SocketAddr) -> Host {
    match lookup {
        Some(name) => Host::Name(name.clone()),
        None => Host::Ip(asked.ip()),
    }
}

type HostVerdict = (Verdict, Option<Filter>, Option<Arc<Rule>>);

fn decided(policy: &Policy, host: &Host, port: u16) -> HostVerdict {
    match policy.decide_host(host, port) {
        Decision::Allow(allow) => (Verdict::Allow, Some(allow.filter), allow.rule),
        Decision::Deny(deny) => (Verdict::Deny, Some(deny.filter), deny.rule),
    }
}

/// The record of a connection that ends before any request. It is written on drop, for whatever
/// reason, unless a request arrived or another record was made. The origin may have seen the
/// connection (a handshake, an early connection), and no other record would say so. Keeps no rules
/// alive.
#[derive(Debug)]
pub(crate) struct Unasked {
    sandbox: Arc<Sandbox>,
    asked: SocketAddr,
    since: Instant,
    activity: Arc<Activity>,
    host: Host,
    decided: HostVerdict,
    /// The protocol it spoke.
    pub(super) protocol: Option<Protocol>,
    /// Whether it already counts among its host's requests.
    pub(super) counted: bool,
    /// The name on the certificate the client received, and the kind of client.
    pub(super) shown: Option<(Host, Client)>,
}

impl Unasked {
    fn record(&self, decision: Verdict, protocol: Option<Protocol>, host: &Host) -> Record {
        let mut record =
            Record::new(&self.sandbox.id, RequestId::new(), Kind::Connection, decision)
                .port(self.asked.port())
                .duration(self.since.elapsed());
        record.protocol = protocol;
        match host {
            Host::Name(name) => record.host = Some(name.as_str().into()),
            Host::Ip(address) => record.ip = Some(*address),
        }
        record
    }

    fn tell(&self, record: Record) {
        self.sandbox.metrics.connection(&record);
        self.sandbox.audit.emit(record);
    }
}

impl Drop for Unasked {
    fn drop(&mut self) {
        if self.activity.has_record() {
            return;
        }
        let (verdict, filter, rule) = self.decided.clone();
        let alert = self.activity.alert();
        let reason = match alert {
            Some(_) => Reason::CertificateRejected,
            None => self.activity.limit().unwrap_or(Reason::NoRequest),
        };
        let turned_away = reason == Reason::NoRequest
            && self.activity.is_closed()
            && self.since.elapsed() < AT_ONCE;
        if let Some((host, client)) = &self.shown
            && (alert.is_some() || turned_away && client.closes_without_alert())
        {
            warn(&self.sandbox.distrust, &self.sandbox.id, host, alert, *client);
        }
        let record = self.record(verdict, self.protocol, &self.host);
        let mut record = record.reason(reason).rule(rule);
        record.filter = filter;
        record.alert = alert;
        record.ip.get_or_insert(self.asked.ip());
        if verdict == Verdict::Allow && !self.counted {
            // It counts like a request; if that exceeds a limit, the next request is refused.
            let _ = self.sandbox.budget.spend(&self.host, 0, &self.sandbox.limits());
        }
        self.tell(record);
    }
}
