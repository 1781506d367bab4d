//! Audit records as the commands read them back: one JSON object a line, of which only what a policy can judge again
//! is taken. Lines that are none are counted, not fatal: a record may have been cut by a full disk.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use interceptor_policy::{CanonicalPath, Decision, Filter, Host, Policy, Reason, Request, Scheme};
use serde::Deserialize;

use crate::files;

/// The longest line that is read as a record, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// What is taken from a record.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    #[serde(default)]
    pub(super) id: String,
    pub(super) kind: String,
    #[serde(default)]
    pub(super) decision: String,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    rule: Option<serde_json::Value>,
    #[serde(rename = "type", default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) credential: Option<String>,
    #[serde(default)]
    pub(super) host: Option<String>,
    #[serde(default)]
    pub(super) ip: Option<std::net::IpAddr>,
    #[serde(default)]
    pub(super) port: Option<u16>,
    #[serde(default)]
    pub(super) protocol: Option<String>,
    #[serde(default)]
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) path: Option<String>,
}

/// Calls `each` with every record of an audit file, in order, until it says to stop; returns how many lines were none.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn each(path: &Path, mut each: impl FnMut(Record) -> bool) -> anyhow::Result<u64> {
    let context = || format!("cannot read the audit file {}", path.display());
    let mut reader = BufReader::new(files::open(path).with_context(context)?.0);
    let mut line = Vec::new();
    let mut unreadable = 0;
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).with_context(context)? == 0 {
            return Ok(unreadable);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(record) => {
                if !each(record) {
                    return Ok(unreadable);
                }
            }
            Err(_) => unreadable += 1,
        }
    }
}

impl Record {
    /// Whether the policy of that time permitted it; `None` where something other than the policy
    /// decided, or what decided is not in the record.
    pub(super) fn permitted(&self) -> Option<bool> {
        if self.decision == "allow" {
            return Some(true);
        }
        let reason =
            Reason::ALL.into_iter().find(|reason| Some(reason.as_str()) == self.reason.as_deref())?;
        let (is_request, is_raw) = (self.kind == "request", self.protocol.as_deref() == Some("tcp"));
        match reason {
            Reason::HostDenied | Reason::CredentialAmbiguous | Reason::PlaintextDenied => Some(false),
            // For a method that a header asked for, or since the key could not be set.
            Reason::EndpointDenied => {
                let for_rules =
                    self.filter.as_deref().is_none_or(|filter| filter == Filter::Endpoint.as_str());
                let as_sent = for_rules && self.rule.as_ref().is_none_or(serde_json::Value::is_null);
                as_sent.then_some(false)
            }
            // The placeholder stood in the name that TLS asked for.
            Reason::CredentialMisuse => is_request.then_some(false),
            // For an upgrade, or for what the kernel does not let pass.
            Reason::ProtocolDenied => (!is_request && is_raw).then_some(false),
            // The query, or what was cut off with it.
            Reason::PathAmbiguous => {
                let path = self.path.as_deref()?;
                CanonicalPath::parse(path).is_err().then_some(false)
            }
            Reason::MethodRefused => {
                let refused = ["CONNECT", "TRACE", "TRACK"];
                let method = self.method.as_deref()?;
                refused.iter().any(|name| name.eq_ignore_ascii_case(method)).then_some(false)
            }
            // The policy had let it through.
            Reason::UpstreamUnreachable
            | Reason::UpstreamTls
            | Reason::UpstreamProtocol
            | Reason::UpstreamTimeout
            | Reason::KeyEchoed
            | Reason::Aborted
            | Reason::ResponseTimeout
            | Reason::TunnelIdleTimeout => Some(true),
            // A connection to a host that is denied, which ended before anything was asked; one
            // whose names differed has no filter.
            Reason::NoRequest | Reason::CertificateRejected => self.filter.is_some().then_some(false),
            Reason::RequestMalformed
            | Reason::AuthorityMismatch
            | Reason::LimitExceeded
            | Reason::HeaderTimeout
            | Reason::IdleTimeout
            | Reason::TotalTimeout => None,
        }
    }

    /// What another policy says of what was recorded; `None` for records that a policy does not decide.
    ///
    /// A record has no scheme: port 80, and a refusal for plaintext, were `http`; the rest `https`. The credential that was
    /// used or misused counts as presented.
    pub(super) fn judge(&self, policy: &Policy) -> Option<Decision> {
        let host = Host::parse(self.host.as_deref()?).ok()?;
        let port = self.port?;
        let decision = match self.kind.as_str() {
            "request" => {
                let named = self.credential.as_ref().and_then(|name| policy.credential_named(name));
                let governing = policy.governing(self.scheme(), &host, port);
                let misused = self.reason.as_deref() == Some(Reason::CredentialMisuse.as_str());
                let presented: Vec<_> =
                    named.into_iter().filter(|id| misused || governing.contains(id)).collect();
                policy.decide(&Request {
                    scheme: self.scheme(),
                    host: &host,
                    port,
                    method: self.method.as_deref()?,
                    path: self.path.as_deref()?,
                    overrides: &[],
                    presented: &presented,
                })
            }
            "connection" if self.protocol.as_deref() == Some("tcp") => policy.decide_raw(&host, port),
            "connection" => policy.decide_host(&host, port),
            _ => return None,
        };
        // The address matters where it was what was refused: an address that was dialled may have been exempt (`--resolve`).
        let refused_address = self.reason.as_deref() == Some(Reason::HostDenied.as_str());
        match (&decision, self.ip.filter(|_| refused_address)) {
            (Decision::Allow(_), Some(address)) if !is_synthetic(address) => {
                Some(policy.decide_address(&host, address, port).map_or_else(Decision::Deny, |()| decision))
            }
            _ => Some(decision),
        }
    }

    pub(super) fn scheme(&self) -> Scheme {
        let plain = self.port == Some(80) || self.reason.as_deref() == Some(Reason::PlaintextDenied.as_str());
        if plain { Scheme::Http } else { Scheme::Https }
    }
}

/// Whether an address is one that the interceptor's own DNS hands out: it says nothing about where a name leads.
fn is_synthetic(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(address) => address.octets()[0] == 198 && address.octets()[1] & 0xfe == 18,
        std::net::IpAddr::V6(address) => address.segments()[..3] == [0x2001, 2, 0],
    }
}
