//! The record of one decision.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::{Allow, Deny, Filter, Reason, Rule};
use jiff::Timestamp;

use super::RequestId;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A connection that carried no request: a tunnel, a passthrough, a refusal before any request
    /// was read.
    Connection,
    /// A DNS lookup.
    Dns,
    /// An HTTP request.
    Request,
    /// A question to a person, and its answer.
    Approval,
    /// An event of the sandbox or the proxy itself: started, stopped, records lost.
    Lifecycle,
}

impl Kind {
    /// The name used in records, e.g. `request`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Connection => "connection",
            Kind::Dns => "dns",
            Kind::Request => "request",
            Kind::Approval => "approval",
            Kind::Lifecycle => "lifecycle",
        }
    }
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Permitted.
    Allow,
    /// Refused.
    Deny,
}

impl Verdict {
    /// `allow` or `deny`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        }
    }
}

/// The protocol of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    H1,
    /// HTTP/2.
    H2,
    /// A WebSocket.
    Ws,
    /// TLS, tunnelled without decryption.
    Tls,
    /// Neither TLS nor HTTP.
    Tcp,
}

impl Protocol {
    /// The name used in records, e.g. `h2`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::H1 => "h1",
            Protocol::H2 => "h2",
            Protocol::Ws => "ws",
            Protocol::Tls => "tls",
            Protocol::Tcp => "tcp",
        }
    }
}

/// One decision, or one event in a sandbox's life. Fields that are `None` are omitted from the
/// line.
///
/// [`Record::new`] and [`Record::lifecycle`] create one with the current time; setters named like
/// the fields fill it.
#[derive(Clone, Debug)]
pub struct Record {
    /// The time of the decision, not of the writing.
    pub time: Timestamp,
    /// The sandbox concerned.
    pub sandbox: Arc<str>,
    /// The id that the response and the log also carry.
    pub id: RequestId,
    /// What the record is about.
    pub kind: Kind,
    /// The decision; `None` for an event.
    pub decision: Option<Verdict>,
    /// Why it was refused, or how it failed after being allowed (`type` in the line).
    pub reason: Option<Reason>,
    /// What happened, if it is not a [`Reason`] (`type` in the line): an event of
    /// [`Kind::Lifecycle`], or a connection while the interceptor was not running.
    pub event: Option<&'static str>,
    /// Which check decided.
    pub filter: Option<Filter>,
    /// The rule that decided.
    pub rule: Option<Arc<Rule>>,
    /// The name of the credential concerned; never its key.
    pub credential: Option<Arc<str>>,
    /// The requested host; as sent by the sandbox if invalid.
    pub host: Option<Arc<str>>,
    /// The address dialled, or else the one the sandbox asked for.
    pub ip: Option<IpAddr>,
    /// The port of the destination.
    pub port: Option<u16>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// The method, as sent.
    pub method: Option<Box<str>>,
    /// The judged path, without its query.
    pub path: Option<Box<str>>,
    /// The response status sent to the sandbox.
    pub status: Option<u16>,
    /// Bytes from the sandbox to the origin.
    pub bytes_up: Option<u64>,
    /// Bytes from the origin to the sandbox.
    pub bytes_down: Option<u64>,
    /// From the first byte of the request, or the start of the connection, to its end.
    pub duration: Option<Duration>,
    /// How many times the origin sent back a whole real key; `None` for zero.
    pub key_echoed: Option<u64>,
    /// The TLS alert with which a client rejected the certificate, e.g. `unknown_ca`.
    pub alert: Option<&'static str>,
    /// How many records were lost, for the event `audit_dropped`.
    pub dropped: Option<u64>,
    /// The lease that permitted it, or that an approval gave.
    pub lease: Option<Arc<str>>,
    /// Who decided: `uid:N`, `page` or `webhook`.
    pub by: Option<Box<str>>,
    /// Details of an event: for `takeover_begun`, the process that asked for it.
    pub message: Option<Box<str>>,
    /// The line itself, without a line feed, of a record that another process made.
    pub(super) line: Option<Box<str>>,
}

impl Record {
    /// A decision made now.
    pub fn new(sandbox: &Arc<str>, id: RequestId, kind: Kind, decision: Verdict) -> Record {
        Record { decision: Some(decision), ..Record::empty(sandbox, id, kind) }
    }

    /// An event that happened now, e.g. `sandbox_started`.
    pub fn lifecycle(sandbox: &Arc<str>, event: &'static str) -> Record {
        Record { event: Some(event), ..Record::empty(sandbox, RequestId::new(), Kind::Lifecycle) }
    }

    /// What happened to a question, e.g. `asked`; `id` is the question's.
    pub(crate) fn approval(sandbox: &Arc<str>, id: RequestId, event: &'static str) -> Record {
        Record { event: Some(event), ..Record::empty(sandbox, id, Kind::Approval) }
    }

    /// Sets [`Record::by`].
    #[must_use]
    pub(crate) fn by(self, who: &str) -> Record {
        Record { by: Some(who.into()), ..self }
    }

    /// Sets [`Record::lease`].
    #[must_use]
    pub(crate) fn lease(self, id: &Arc<str>) -> Record {
        Record { lease: Some(id.clone()), ..self }
    }

    /// Sets [`Record::message`].
    #[must_use]
    pub fn message(self, text: &str) -> Record {
        Record { message: Some(text.into()), ..self }
    }

    /// A permitted request or connection.
    pub fn allow(sandbox: &Arc<str>, id: RequestId, kind: Kind, allow: &Allow) -> Record {
        Record {
            filter: Some(allow.filter),
            rule: allow.rule.clone(),
            ..Record::new(sandbox, id, kind, Verdict::Allow)
        }
    }

    /// A refusal, with its response status; clear the status if there is no response.
    pub fn deny(sandbox: &Arc<str>, id: RequestId, kind: Kind, deny: &Deny) -> Record {
        Record {
            reason: Some(deny.reason),
            filter: Some(deny.filter),
            rule: deny.rule.clone(),
            status: (kind == Kind::Request).then_some(deny.status),
            ..Record::new(sandbox, id, kind, Verdict::Deny)
        }
    }

    pub(super) fn empty(sandbox: &Arc<str>, id: RequestId, kind: Kind) -> Record {
        Record {
            time: Timestamp::now(),
            sandbox: Arc::clone(sandbox),
            id,
            kind,
            decision: None,
            reason: None,
            event: None,
            filter: None,
            rule: None,
            credential: None,
            host: None,
            ip: None,
            port: None,
            protocol: None,
            method: None,
            path: None,
            status: None,
            bytes_up: None,
            bytes_down: None,
            duration: None,
            key_echoed: None,
            alert: None,
            dropped: None,
            lease: None,
            by: None,
            message: None,
            line: None,
        }
    }

    /// The record's memory use in bytes, for the queue's limit.
    pub(super) fn size(&self) -> usize {
        let text = |text: Option<&str>| text.map_or(0, str::len);
        size_of::<Record>()
            + text(self.host.as_deref())
            + text(self.method.as_deref())
            + text(self.path.as_deref())
            + text(self.message.as_deref())
            + text(self.line.as_deref())
    }
}

/// Setters, each named like the field it fills.
impl Record {
    /// Sets [`Record::reason`].
    #[must_use]
    pub fn reason(mut self, reason: Reason) -> Record {
        self.reason = Some(reason);
        self
    }

    /// Sets [`Record::filter`].
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Record {
        self.filter = Some(filter);
        self
    }

    /// Sets [`Record::rule`].
    #[must_use]
    pub fn rule(mut self, rule: Option<Arc<Rule>>) -> Record {
        self.rule = rule;
        self
    }

    /// Sets [`Record::credential`] to the credential's name.
    #[must_use]
    pub fn credential(mut self, name: impl Into<Arc<str>>) -> Record {
        self.credential = Some(name.into());
        self
    }

    /// Sets [`Record::host`].
    #[must_use]
    pub fn host(mut self, host: impl Into<Arc<str>>) -> Record {
        self.host = Some(host.into());
        self
    }

    /// Sets [`Record::ip`].
    #[must_use]
    pub fn ip(mut self, ip: IpAddr) -> Record {
        self.ip = Some(ip);
        self
    }

    /// Sets [`Record::port`].
    #[must_use]
    pub fn port(mut self, port: u16) -> Record {
        self.port = Some(port);
        self
    }

    /// Sets [`Record::protocol`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Record {
        self.protocol = Some(protocol);
        self
    }

    /// Sets [`Record::method`].
    #[must_use]
    pub fn method(mut self, method: impl Into<Box<str>>) -> Record {
        self.method = Some(method.into());
        self
    }

    /// Sets [`Record::path`]. Cuts off a query, which may carry keys.
    #[must_use]
    pub fn path(mut self, path: &str) -> Record {
        let path = path.split_once('?').map_or(path, |(path, _query)| path);
        self.path = Some(path.into());
        self
    }

    /// Sets [`Record::status`].
    #[must_use]
    pub fn status(mut self, status: u16) -> Record {
        self.status = Some(status);
        self
    }

    /// Sets [`Record::bytes_up`] and [`Record::bytes_down`].
    #[must_use]
    pub fn bytes(mut self, up: u64, down: u64) -> Record {
        self.bytes_up = Some(up);
        self.bytes_down = Some(down);
        self
    }

    /// Sets [`Record::duration`].
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Record {
        self.duration = Some(duration);
        self
    }
}
