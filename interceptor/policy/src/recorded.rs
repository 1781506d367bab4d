//! Audit records read back: what was asked, and whether it was permitted. Only what a policy needs
//! to judge the request again is kept.

use std::net::IpAddr;

use serde::Deserialize;

use super::Policy;
use super::aws::AwsScope;
use super::decision::{Allow, Decision, Filter, Reason};
use super::host::Host;
use super::path::CanonicalPath;
use super::request::{Request, Scheme};

/// The fields kept of an audit record.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Recorded {
    /// When: RFC 3339.
    #[serde(default)]
    pub ts: String,
    /// The id of the record.
    #[serde(default)]
    pub id: String,
    /// `request`, `connection`, `dns` or `lifecycle`.
    pub kind: String,
    /// `allow` or `deny`.
    #[serde(default)]
    pub decision: String,
    /// Which check decided.
    #[serde(default)]
    pub filter: Option<String>,
    /// The rule that decided.
    #[serde(default)]
    pub rule: Option<serde_json::Value>,
    /// Why it was refused, or how it ended (`type` in the record).
    #[serde(rename = "type", default)]
    pub reason: Option<String>,
    /// The credential concerned.
    #[serde(default)]
    pub credential: Option<String>,
    /// The host.
    #[serde(default)]
    pub host: Option<String>,
    /// The address.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// The port.
    #[serde(default)]
    pub port: Option<u16>,
    /// The protocol.
    #[serde(default)]
    pub protocol: Option<String>,
    /// The method.
    #[serde(default)]
    pub method: Option<String>,
    /// The path.
    #[serde(default)]
    pub path: Option<String>,
    /// What its AWS signature was for: `SERVICE/REGION`.
    #[serde(default)]
    pub aws: Option<String>,
}

/// How the recorded traffic reached the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Traffic {
    /// An HTTP request.
    Request,
    /// A connection that was judged by its destination alone.
    Connection,
    /// A connection that speaks neither HTTP nor TLS.
    Raw,
}

/// What a record asked of the policy. Records with the same subject get the same decision from a
/// policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// What it was.
    pub traffic: Traffic,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
    /// The method; empty for a connection.
    pub method: String,
    /// The path; empty for a connection.
    pub path: String,
    /// Whether the request came over TLS. Records do not tell: port 80 and refusals of plain HTTP
    /// count as plain.
    pub is_https: bool,
    /// The name of the credential that the request used, or presented wrongly.
    pub credential: Option<String>,
    /// The credential was presented where it must not be.
    pub misused: bool,
    /// The address that the host resolved to, if that may be why it was refused.
    pub address: Option<IpAddr>,
    /// What its AWS signature is for: `SERVICE/REGION`.
    pub aws: Option<String>,
}

impl Recorded {
    /// Whether the policy in force then permitted it; `None` if the policy did not decide, or if
    /// the record does not tell.
    pub fn permitted(&self) -> Option<bool> {
        if self.decision == "allow" {
            return Some(true);
        }
        let reason = Reason::ALL
            .into_iter()
            .find(|reason| Some(reason.as_str()) == self.reason.as_deref())?;
        let (is_request, is_raw) =
            (self.kind == "request", self.protocol.as_deref() == Some("tcp"));
        match reason {
            Reason::HostDenied
            | Reason::ApprovalRefused
            | Reason::ApprovalTimeout
            | Reason::CredentialAmbiguous
            | Reason::PlaintextDenied => Some(false),
            // Possibly because of a method-override header, or because the key could not be set.
            Reason::EndpointDenied => {
                let for_rules =
                    self.filter.as_deref().is_none_or(|filter| filter == Filter::Endpoint.as_str());
                let as_sent =
                    for_rules && self.rule.as_ref().is_none_or(serde_json::Value::is_null);
                as_sent.then_some(false)
            }
            // On a connection, the placeholder was in the TLS server name.
            Reason::CredentialMisuse => is_request.then_some(false),
            // Also used for upgrades and for traffic that the kernel blocks.
            Reason::ProtocolDenied => (!is_request && is_raw).then_some(false),
            // The query, or what was removed with it.
            Reason::PathAmbiguous => {
                let path = self.path.as_deref()?;
                CanonicalPath::parse(path).is_err().then_some(false)
            }
            Reason::MethodRefused => {
                let refused = ["CONNECT", "TRACE", "TRACK"];
                let method = self.method.as_deref()?;
                refused.iter().any(|name| name.eq_ignore_ascii_case(method)).then_some(false)
            }
            // The policy had permitted it.
            Reason::UpstreamUnreachable
            | Reason::UpstreamTls
            | Reason::UpstreamProtocol
            | Reason::UpstreamTimeout
            | Reason::CredentialUnavailable
            | Reason::KeyEchoed
            | Reason::KeysChanged
            | Reason::Aborted
            | Reason::ResponseTimeout
            | Reason::TunnelIdleTimeout => Some(true),
            // With a filter: a connection to a denied host that ended before any request. Without:
            // one whose names differed.
            Reason::NoRequest | Reason::CertificateRejected => {
                self.filter.is_some().then_some(false)
            }
            Reason::RequestMalformed
            | Reason::AuthorityMismatch
            | Reason::LimitExceeded
            | Reason::HeaderTimeout
            | Reason::IdleTimeout
            | Reason::TotalTimeout => None,
        }
    }

    /// What it asked of the policy; `None` for a record that no policy decides.
    pub fn subject(&self) -> Option<Subject> {
        let host = Host::parse(self.host.as_deref()?).ok()?;
        let port = self.port?;
        let is_raw = self.protocol.as_deref() == Some("tcp");
        let traffic = match self.kind.as_str() {
            "request" => Traffic::Request,
            "connection" if is_raw => Traffic::Raw,
            "connection" => Traffic::Connection,
            _ => return None,
        };
        let is_request = traffic == Traffic::Request;
        let is = |reason: Reason| self.reason.as_deref() == Some(reason.as_str());
        let text = |text: &Option<String>| match is_request {
            true => text.clone(),
            false => Some(String::new()),
        };
        // The address counts only if it was the reason for the refusal: a dialled address may have
        // been exempt (`--resolve`).
        let address = self.ip.filter(|address| is(Reason::HostDenied) && !is_synthetic(*address));
        Some(Subject {
            traffic,
            host,
            port,
            method: text(&self.method)?,
            path: text(&self.path)?,
            is_https: self.scheme() == Scheme::Https,
            credential: self.credential.clone().filter(|_| is_request),
            misused: is_request && is(Reason::CredentialMisuse),
            address,
            aws: self.aws.clone().filter(|_| is_request),
        })
    }

    /// Judges the recorded request by another policy; `None` for records that no policy decides.
    pub fn judge(&self, policy: &Policy) -> Option<Decision> {
        Some(self.subject()?.judge(policy))
    }

    /// The scheme, as far as a record tells.
    pub fn scheme(&self) -> Scheme {
        let plain = self.port == Some(80)
            || self.reason.as_deref() == Some(Reason::PlaintextDenied.as_str());
        if plain { Scheme::Http } else { Scheme::Https }
    }
}

impl Subject {
    /// What its AWS signature is for.
    pub fn aws(&self) -> Option<AwsScope<'_>> {
        let (service, region) = self.aws.as_deref()?.split_once('/')?;
        Some(AwsScope { service, region })
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        if self.is_https { Scheme::Https } else { Scheme::Http }
    }

    /// Judges it by a policy. The credential used or misused counts as presented.
    pub fn judge(&self, policy: &Policy) -> Decision {
        let decision = match self.traffic {
            Traffic::Request => {
                let named = self.credential.as_ref().and_then(|name| policy.credential_named(name));
                let governing = policy.governing(self.scheme(), &self.host, self.port);
                let presented: Vec<_> =
                    named.into_iter().filter(|id| self.misused || governing.contains(id)).collect();
                policy.decide(&Request {
                    scheme: self.scheme(),
                    host: &self.host,
                    port: self.port,
                    method: &self.method,
                    path: &self.path,
                    overrides: &[],
                    aws: self.aws(),
                    presented: &presented,
                })
            }
            Traffic::Raw => policy.decide_raw(&self.host, self.port),
            Traffic::Connection => policy.decide_host(&self.host, self.port),
        };
        match (&decision, self.address) {
            (Decision::Allow(Allow { .. }), Some(address)) => policy
                .decide_address(&self.host, address, self.port)
                .map_or_else(Decision::Deny, |()| decision),
            _ => decision,
        }
    }
}

/// Whether the address is in one of the ranges (198.18.0.0/15, 2001:2::/48) from which the
/// interceptor's resolver gives names synthetic addresses. Such an address tells nothing about the
/// real destination.
pub fn is_synthetic(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets()[0] == 198 && address.octets()[1] & 0xfe == 18,
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 2, 0],
    }
}
