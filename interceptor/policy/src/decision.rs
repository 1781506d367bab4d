//! A policy's verdict on a request, as data. The HTTP answer, the audit record and command output
//! are views of it.

use std::sync::Arc;

use super::path::CanonicalPath;

/// Why something was refused, or how it ended: the `type` of a refusal or of a record. The last
/// ones appear in records only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The network policy does not permit the destination.
    HostDenied,
    /// No endpoint rule of the credential matches the method and path.
    EndpointDenied,
    /// A person refused what the policy asks about.
    ApprovalRefused,
    /// Nobody answered in time what the policy asks about.
    ApprovalTimeout,
    /// A placeholder was sent to a host that its credential does not govern.
    CredentialMisuse,
    /// Several credentials govern the host, and the request presents no placeholder or more than
    /// one.
    CredentialAmbiguous,
    /// Plain HTTP to a host that a credential governs.
    PlaintextDenied,
    /// A protocol that the policy does not permit for this destination.
    ProtocolDenied,
    /// The request breaks the rules of HTTP.
    RequestMalformed,
    /// The path has more than one reading.
    PathAmbiguous,
    /// CONNECT or TRACE.
    MethodRefused,
    /// The looked-up name, the SNI, and `Host` or `:authority` differ.
    AuthorityMismatch,
    /// A limit of the sandbox was reached.
    LimitExceeded,
    /// The origin could not be resolved or connected to.
    UpstreamUnreachable,
    /// The origin's certificate or TLS handshake was not acceptable.
    UpstreamTls,
    /// The origin broke the rules of HTTP.
    UpstreamProtocol,
    /// The origin did not answer in time.
    UpstreamTimeout,
    /// The credential's key has expired, and its source gives no other.
    CredentialUnavailable,
    /// Not a refusal: an answer held a real key. It was replaced, or the connection ended because
    /// it could not be.
    KeyEchoed,
    /// An answer ended because keys that came meanwhile could not be searched for in it.
    KeysChanged,
    /// A connection ended before it carried a request.
    NoRequest,
    /// The client refused the certificate.
    CertificateRejected,
    /// The sandbox abandoned a request before it was complete.
    Aborted,
    /// `limits.header_timeout_seconds` ended it.
    HeaderTimeout,
    /// `limits.idle_timeout_seconds` ended it.
    IdleTimeout,
    /// `limits.response_timeout_seconds` ended it.
    ResponseTimeout,
    /// `limits.tunnel_idle_timeout_seconds` ended it.
    TunnelIdleTimeout,
    /// `limits.total_timeout_seconds` ended it.
    TotalTimeout,
}

impl Reason {
    /// Every reason, for tables and tests.
    pub const ALL: [Reason; 28] = [
        Reason::HostDenied,
        Reason::EndpointDenied,
        Reason::ApprovalRefused,
        Reason::ApprovalTimeout,
        Reason::CredentialMisuse,
        Reason::CredentialAmbiguous,
        Reason::PlaintextDenied,
        Reason::ProtocolDenied,
        Reason::RequestMalformed,
        Reason::PathAmbiguous,
        Reason::MethodRefused,
        Reason::AuthorityMismatch,
        Reason::LimitExceeded,
        Reason::UpstreamUnreachable,
        Reason::UpstreamTls,
        Reason::UpstreamProtocol,
        Reason::UpstreamTimeout,
        Reason::CredentialUnavailable,
        Reason::KeyEchoed,
        Reason::KeysChanged,
        Reason::NoRequest,
        Reason::CertificateRejected,
        Reason::Aborted,
        Reason::HeaderTimeout,
        Reason::IdleTimeout,
        Reason::ResponseTimeout,
        Reason::TunnelIdleTimeout,
        Reason::TotalTimeout,
    ];

    /// The name used in answers and records, e.g. `host_denied`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::HostDenied => "host_denied",
            Reason::EndpointDenied => "endpoint_denied",
            Reason::ApprovalRefused => "approval_refused",
            Reason::ApprovalTimeout => "approval_timeout",
            Reason::CredentialMisuse => "credential_misuse",
            Reason::CredentialAmbiguous => "credential_ambiguous",
            Reason::PlaintextDenied => "plaintext_denied",
            Reason::ProtocolDenied => "protocol_denied",
            Reason::RequestMalformed => "request_malformed",
            Reason::PathAmbiguous => "path_ambiguous",
            Reason::MethodRefused => "method_refused",
            Reason::AuthorityMismatch => "authority_mismatch",
            Reason::LimitExceeded => "limit_exceeded",
            Reason::UpstreamUnreachable => "upstream_unreachable",
            Reason::UpstreamTls => "upstream_tls",
            Reason::UpstreamProtocol => "upstream_protocol",
            Reason::UpstreamTimeout => "upstream_timeout",
            Reason::CredentialUnavailable => "credential_unavailable",
            Reason::KeyEchoed => "key_echoed",
            Reason::KeysChanged => "keys_changed",
            Reason::NoRequest => "no_request",
            Reason::CertificateRejected => "certificate_rejected",
            Reason::Aborted => "aborted",
            Reason::HeaderTimeout => "header_timeout_seconds",
            Reason::IdleTimeout => "idle_timeout_seconds",
            Reason::ResponseTimeout => "response_timeout_seconds",
            Reason::TunnelIdleTimeout => "tunnel_idle_timeout_seconds",
            Reason::TotalTimeout => "total_timeout_seconds",
        }
    }

    /// The HTTP status of the refusal. [`Reason::LimitExceeded`] is 429 unless the refusal names
    /// 413 or 431.
    pub const fn status(self) -> u16 {
        match self {
            Reason::HostDenied
            | Reason::EndpointDenied
            | Reason::ApprovalRefused
            | Reason::ApprovalTimeout
            | Reason::CredentialMisuse
            | Reason::CredentialAmbiguous
            | Reason::PlaintextDenied
            | Reason::ProtocolDenied => 403,
            Reason::RequestMalformed | Reason::PathAmbiguous => 400,
            Reason::MethodRefused => 405,
            Reason::AuthorityMismatch => 421,
            Reason::LimitExceeded => 429,
            Reason::UpstreamUnreachable
            | Reason::UpstreamTls
            | Reason::UpstreamProtocol
            | Reason::CredentialUnavailable
            | Reason::KeyEchoed
            | Reason::KeysChanged => 502,
            Reason::UpstreamTimeout | Reason::ResponseTimeout | Reason::TunnelIdleTimeout => 504,
            Reason::NoRequest
            | Reason::CertificateRejected
            | Reason::Aborted
            | Reason::HeaderTimeout
            | Reason::IdleTimeout
            | Reason::TotalTimeout => 408,
        }
    }
}

/// The check that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Filter {
    /// The sandbox's network policy.
    Network,
    /// The endpoint rules of a credential.
    Endpoint,
    /// The request itself: its syntax, path, authority or limits.
    Request,
    /// The choice of credential, and where it may be used.
    Credential,
}

impl Filter {
    /// The name used in answers and records, e.g. `network`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Filter::Network => "network",
            Filter::Endpoint => "endpoint",
            Filter::Request => "request",
            Filter::Credential => "credential",
        }
    }
}

/// A credential of a policy: its index in [`super::Policy::credentials`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId(pub usize);

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its text: a network rule as written (`*.example.com:443`), or an endpoint rule as `METHODS
    /// PATTERN` (`POST /v1/chat/completions`).
    pub text: String,
    /// The JSON pointer (RFC 6901) to it in the policy document.
    pub pointer: String,
}

/// The rule that came closest to permitting a denied request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The part that failed: `host`, `port`, `method` or `path`.
    pub failed: &'static str,
    /// The smallest edit of the document that would permit the request, in one sentence.
    pub edit: String,
}

/// The request may be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// The filter that decided last: [`Filter::Endpoint`] on a governed host, else
    /// [`Filter::Network`].
    pub filter: Filter,
    /// The rule that matched, if any.
    pub rule: Option<Arc<Rule>>,
    /// The credential to inject.
    pub credential: Option<CredentialId>,
    /// The path to forward, without the query.
    pub path: JudgedPath,
}

/// The path of the forwarded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JudgedPath {
    /// On a governed host: the canonical path, which was judged.
    Canonical(CanonicalPath),
    /// Elsewhere: the path exactly as sent.
    AsSent,
}

impl JudgedPath {
    /// The path as text; `sent` is the path of the original request.
    pub fn text<'a>(&'a self, sent: &'a str) -> &'a str {
        match self {
            JudgedPath::Canonical(path) => path.as_str(),
            JudgedPath::AsSent => sent,
        }
    }
}

/// The request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deny {
    /// Why.
    pub reason: Reason,
    /// The HTTP status of the refusal.
    pub status: u16,
    /// Which check refused.
    pub filter: Filter,
    /// The rule that refused, if any.
    pub rule: Option<Arc<Rule>>,
    /// The credential concerned, if any.
    pub credential: Option<CredentialId>,
    /// What was refused, by which filter, and what would permit it.
    pub message: String,
    /// The rule that came closest.
    pub nearest: Option<NearMiss>,
}

/// A policy's verdict on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Forward it.
    Allow(Allow),
    /// Refuse it.
    Deny(Deny),
}

impl Decision {
    /// Whether it permits.
    pub const fn is_allow(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}
