//! Egress policies for sandboxed code: what a policy document permits, and which keys responses
//! must not reveal.
//!
//! A policy document becomes a compiled [`Policy`], and each request becomes a [`Decision`] with
//! the reason in it. [`redact`] finds real keys in origins' responses. The crate is pure: no I/O,
//! no async, no clock, no environment, no TLS. An editor, a CI job or a gateway can embed exactly
//! the decisions that the `interceptor` makes.
//!
//! # Example
//! Read a document, decide, explain a denial:
//!
//! ```
//! use interceptor_policy::{Authority, Catalogue, Decision, Document, Policy, Request, Scheme};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = r#"{
//!     "network": {"allow": ["api.example.com"], "deny": ["*"]},
//!     "credentials_v2": {"example": {
//!         "key": "the-real-key",
//!         "hosts": ["api.example.com"],
//!         "endpoints": [{"methods": ["GET"], "paths": ["/v1/models"]}]
//!     }}
//! }"#;
//! // Every error at once, each with the place in the document.
//! let document = Document::parse(text).map_err(|problems| format!("{problems:?}"))?.document;
//! let policy = Policy::compile(&document, &Catalogue::builtin())
//!     .map_err(|problems| format!("{problems:?}"))?;
//!
//! let host = Authority::parse("api.example.com")?.host;
//! let request = |method| Request {
//!     scheme: Scheme::Https,
//!     host: &host,
//!     port: 443,
//!     method,
//!     path: "/v1/models",
//!     overrides: &[],
//!     aws: None,
//!     presented: &[],
//! };
//! assert!(matches!(policy.decide(&request("GET")), Decision::Allow(_)));
//! let Decision::Deny(denial) = policy.decide(&request("DELETE")) else {
//!     return Err("a DELETE was permitted".into());
//! };
//! assert_eq!(denial.reason.as_str(), "endpoint_denied");
//! println!("{}", denial.message);
//! # Ok(())
//! # }
//! ```
//!
//! # The way through the source
//! A document goes `jsonc` → `json` → `read` → [`Document`] → `compile` (with the [`Catalogue`]) →
//! [`Policy`]; a request goes through `decide`, which asks `governance` (which credentials),
//! `network` (which hosts) and `endpoint` (which methods and paths).

#![cfg_attr(not(test), warn(clippy::too_many_lines))]

mod address;
mod agents;
mod ask;
mod aws;
mod base_url;
mod catalogue;
mod compile;
mod credential;
mod decide;
mod decision;
mod document;
mod endpoint;
mod fetched;
mod glob;
mod governance;
mod host;
mod host_map;
mod inject;
mod json;
mod jsonc;
mod jsonc_edit;
mod learn;
mod limits;
mod lint;
mod message;
mod nearest;
mod network;
mod network_rule;
mod not_json;
mod overlap;
mod overlay;
mod own_host;
mod path;
mod pattern;
mod permit;
mod problem;
mod proposal;
mod proxy_url;
mod read;
mod recorded;
pub mod redact;
mod report;
mod request;
mod schema;
mod service_url;
mod source_schema;
mod strip;
mod vault;
mod way_out;
mod written;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;

pub use agents::{
    Agent, AgentCredential, AgentEndpoint, AgentHost, AgentRefusal, AgentVariable, agents,
};
pub use aws::{AWS_CONTAINER_ADDRESS, AwsKeys, AwsScope, AwsScopes};
pub use base_url::{BASE_URL_ADDRESS, BaseUrl};
pub use catalogue::{Catalogue, CatalogueError, Profile, Service};
pub use credential::{
    Alphabet, ClientCert, Credential, CredentialHost, ExecSource, Form, KeySource, LiteralKey,
    PlaceholderShape, Prints,
};
pub use decision::{
    Allow, CredentialId, Decision, Deny, Filter, JudgedPath, NearMiss, Reason, Rule,
};
pub use document::{
    AskDocument, ClientCertDocument, CredentialDocument, Document, EndpointDocument,
    LimitsDocument, Located, NetworkDocument, Parsed, UpstreamDocument,
};
pub use fetched::{Assertion, ClientAuth, FetchedSource, Grant, Oauth2Source};
pub use host::{Authority, Host, HostError, HostName};
pub use inject::{BasicDocument, InjectDocument};
pub use json::is_too_deep;
pub use json::{MAX_BYTES, MAX_DEPTH};
pub use jsonc::{strict_json, string_end};
pub use jsonc_edit::{EditError, edited};
pub use learn::{Learnt, Observations, Usage, learn};
pub use limits::Limits;
pub use network_rule::{NetworkRule, RuleError, Target};
pub use not_json::{not_json, without_place};
pub use overlay::{MAX_OPERATIONS, OverlayError, Patch};
pub use path::{CanonicalPath, PathError};
pub use pattern::{PathPattern, PatternError};
pub use permit::Edit;
pub use problem::Problem;
pub use problem::{child_pointer, did_you_mean, looks_like_key, nearest_word};
pub use proposal::Proposal;
pub use proxy_url::{ProxyUrl, ProxyUrlError};
pub use recorded::{Recorded, Subject, Traffic, is_synthetic};
pub use report::{Report, check, check_besides};
pub use request::{Request, Scheme};
pub use schema::json_schema;
pub use service_url::{ServiceUrl, ServiceUrlError};
pub use strip::{Keeps, Strip, is_method_override, query_overrides, resembles_framing};
pub use vault::{VaultAuth, VaultSource};
pub use way_out::{Direct, NoProxy, Proxy, WayOut, is_localhost};

use ask::Ask;
use endpoint::Endpoints;
use governance::Governance;
use network::{Network, RuleSet};
use written::Written;

/// A compiled policy: everything one sandbox may do. It is immutable; a change makes a new one.
#[derive(Clone, Debug)]
pub struct Policy {
    network: Network,
    passthrough: RuleSet,
    credentials: Vec<Credential>,
    /// By credential; `None` permits any method and path.
    endpoints: Vec<Option<Endpoints>>,
    governance: Governance,
    /// If a name appears in both forms of the document, the first wins.
    names: HashMap<String, CredentialId>,
    /// By credential.
    shared_names: Vec<Arc<str>>,
    /// By credential; built on first use.
    strips: Vec<OnceLock<Strip>>,
    limits: Limits,
    way_out: WayOut,
    ask: Option<Ask>,
    /// The document that it was made from, if that is known.
    written: Option<Arc<Written>>,
}

impl Policy {
    /// The credentials, in the order of the document; [`CredentialId`] is the index.
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// One credential.
    ///
    /// # Panics
    /// When the id is from another policy.
    pub fn credential(&self, id: CredentialId) -> &Credential {
        &self.credentials[id.0]
    }

    /// The credential of this name.
    pub fn credential_named(&self, name: &str) -> Option<CredentialId> {
        self.names.get(name).copied()
    }

    /// The credentials that share a host with this one, itself included.
    ///
    /// # Panics
    /// When the id is from another policy.
    pub fn neighbours(&self, id: CredentialId) -> impl Iterator<Item = &Credential> {
        let own = &self.credentials[id.0].hosts;
        self.credentials.iter().filter(|other| {
            other
                .hosts
                .iter()
                .any(|one| own.iter().any(|own| compile::overlap(&one.target, &own.target)))
        })
    }

    /// What is removed from requests that this credential authenticates.
    ///
    /// # Panics
    /// When the id is from another policy.
    pub fn strip(&self, id: CredentialId) -> &Strip {
        self.strips[id.0].get_or_init(|| Strip::new(&self.credentials[id.0], self.neighbours(id)))
    }

    /// The ceilings of the sandbox.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How origins are reached.
    pub fn way_out(&self) -> &WayOut {
        &self.way_out
    }

    /// Where its secrets are, each with the JSON pointer to it: keys, certificates with their
    /// private keys, what services are asked with, and the credential of a proxy.
    pub fn sources(&self) -> impl Iterator<Item = (&KeySource, &str)> {
        let auth = self.way_out.proxy_auth.as_ref().map(|auth| (auth, "/upstream/proxy_auth"));
        let all = self.credentials.iter().flat_map(Credential::sources).chain(auth);
        all.flat_map(|(source, pointer)| source.all().into_iter().map(move |one| (one, pointer)))
    }

    /// As [`Policy::sources`], without the certificates, which are public.
    pub fn secret_sources(&self) -> impl Iterator<Item = (&KeySource, &str)> {
        let is_public = |pointer: &str| {
            let mut all = self.credentials.iter().filter_map(|one| one.client_cert.as_ref());
            all.any(|certificate| certificate.certificate_pointer == pointer)
        };
        self.sources().filter(move |(_, pointer)| !is_public(pointer))
    }

    /// The same policy with another proxy in the place of its own.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Proxy) -> Policy {
        self.way_out.replace_proxy(proxy);
        self
    }

    /// Whether any port of the name could be permitted. Only then may a DNS query for it leave the
    /// host.
    pub fn may_resolve(&self, name: &HostName) -> bool {
        self.network.may_resolve(name)
    }

    /// Whether any TLS is passed through. Only then must a ClientHello be read before it is
    /// answered.
    pub fn may_tunnel_tls(&self) -> bool {
        !self.passthrough.is_empty() || !self.network.allow_tcp.is_empty()
    }

    /// Whether TLS to this name and port is passed through.
    pub fn is_passthrough(&self, name: &HostName, port: u16) -> bool {
        !self.passthrough.is_empty()
            && self.passthrough.first(&Host::Name(name.clone()), port).is_some()
    }

    /// Whether a credential governs `https://host:port`, or `http://host` at any port. Plain HTTP
    /// is governed at every port, so this asks whether a credential names the host.
    pub fn governs(&self, host: &Host, _port: u16) -> bool {
        self.governance.names(host)
    }

    /// The credentials that govern requests of this scheme to this host and port, in the order of
    /// the document.
    pub fn governing(&self, scheme: Scheme, host: &Host, port: u16) -> Vec<CredentialId> {
        self.governance.of(scheme, host, port).all.into_vec()
    }

    /// Whether any credential governs requests of this scheme to this host and port.
    pub fn is_governed(&self, scheme: Scheme, host: &Host, port: u16) -> bool {
        !self.governance.of(scheme, host, port).all.is_empty()
    }

    /// The name of a credential, shared rather than copied.
    ///
    /// # Panics
    /// When the id is from another policy.
    pub fn shared_name(&self, id: CredentialId) -> Arc<str> {
        Arc::clone(&self.shared_names[id.0])
    }

    /// Whether an allow rule names this address itself, as a special-purpose address needs it to be
    /// dialled.
    pub fn allows_address(&self, address: std::net::IpAddr, port: u16) -> bool {
        self.network.allows_address(address, port)
    }

    /// The networks that deny rules name for every port, except catch-alls: the kernel refuses
    /// these at `connect`.
    pub fn denied_networks(&self) -> Vec<IpNet> {
        self.network.denied_networks()
    }

    /// The allow rules that name addresses which are not public, or the host itself, as they are
    /// written.
    pub fn allowed_special(&self) -> Vec<String> {
        self.network.allowed_special()
    }

    /// The loopback networks that allow rules name, at any port; the proxy judges the port. They
    /// only matter if the sandbox shares the host's network.
    pub fn allowed_loopback(&self) -> Vec<IpNet> {
        self.network.allowed_loopback()
    }
}

#[cfg(test)]
mod tests;
