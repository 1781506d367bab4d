//! Audit records read back from a file, one JSON object per line. Only what a policy needs to judge
//! the request again is kept. Lines that are not records are counted rather than fatal: a full disk
//! may have cut one.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use interceptor_policy::{CanonicalPath, Decision, Filter, Host, Policy, Reason, Request, Scheme};
use serde::Deserialize;

use crate::dns::is_synthetic;
use crate::files;

/// The longest line read as a record, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// The fields kept of a record.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ReplayRecord {
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

/// Calls `each` with every record of an audit file, in order, until it returns `false`. Returns the
/// number of lines that are not records.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn each(path: &Path, each: impl FnMut(ReplayRecord) -> bool) -> anyhow::Result<u64> {
    let context = || format!("cannot read the audit file {}", path.display());
    each_of(files::open(path).with_context(context)?.0, path, each)
}

/// As [`each`], with the records of a kept run.
///
/// # Errors
/// If they cannot be read.
pub(super) fn each_of(
    file: impl Read,
    path: &Path,
    mut each: impl FnMut(ReplayRecord) -> bool,
) -> anyhow::Result<u64> {
    let context = || format!("cannot read the audit file {}", path.display());
    let mut reader = BufReader::new(file);
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

impl ReplayRecord {
    /// Whether the policy in force then permitted it; `None` if the policy did not decide, or if
    /// the record does not tell.
    pub(super) fn permitted(&self) -> Option<bool> {
        if self.decision == "allow" {
            return Some(true);
        }
        let reason = Reason::ALL
            .into_iter()
            .find(|reason| Some(reason.as_str()) == self.reason.as_deref())?;
        let (is_request, is_raw) =
            (self.kind == "request", self.protocol.as_deref() == Some("tcp"));
        match reason {
            Reason::HostDenied | Reason::CredentialAmbiguous | Reason::PlaintextDenied => {
                Some(false)
            }
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
            | Reason::KeyEchoed
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

    /// Judges the recorded request by another policy; `None` for records that no policy decides.
    ///
    /// Records have no scheme: port 80 and plaintext refusals count as `http`, the rest as `https`.
    /// The credential used or misused counts as presented.
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
            "connection" if self.protocol.as_deref() == Some("tcp") => {
                policy.decide_raw(&host, port)
            }
            "connection" => policy.decide_host(&host, port),
            _ => return None,
        };
        // The address counts only if it was the reason for the refusal: a dialled address may have
        // been exempt (`--resolve`).
        let refused_address = self.reason.as_deref() == Some(Reason::HostDenied.as_str());
        match (&decision, self.ip.filter(|_| refused_address)) {
            (Decision::Allow(_), Some(address)) if !is_synthetic(address) => Some(
                policy
                    .decide_address(&host, address, port)
                    .map_or_else(Decision::Deny, |()| decision),
            ),
            _ => Some(decision),
        }
    }

    pub(super) fn scheme(&self) -> Scheme {
        let plain = self.port == Some(80)
            || self.reason.as_deref() == Some(Reason::PlaintextDenied.as_str());
        if plain { Scheme::Http } else { Scheme::Https }
    }
}
