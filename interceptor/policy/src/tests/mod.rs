//! The policy as its users see it: documents in, decisions out.

mod agents;
mod ask;
mod ask_laws;
mod aws;
mod base_url;
mod bounds;
mod catalogue;
mod client_cert;
mod connections;
mod decide;
mod document;
mod fetched;
mod host;
mod jsonc;
mod jsonc_edit;
mod laws;
mod learn;
mod lint;
mod network;
mod own_host;
mod path;
mod pattern;
mod permit;
mod profiles;
mod size;
mod strip;
mod vault;
mod way_out;

use super::{
    Authority, Catalogue, CredentialId, Decision, Document, Host, Policy, Request, Scheme,
};

/// Compiles a valid document.
pub(super) fn policy(text: &str) -> Policy {
    let parsed = Document::parse(text).unwrap();
    Policy::compile(&parsed.document, &Catalogue::builtin()).unwrap()
}

/// Decides a request written as `METHOD URL`, the way `explain` reads one.
pub(super) fn decide(policy: &Policy, method: &str, url: &str) -> Decision {
    decide_with(policy, method, url, &[], &[])
}

/// As [`decide`], with the values of override headers and the names of the credentials whose
/// placeholders are presented.
pub(super) fn decide_with(
    policy: &Policy,
    method: &str,
    url: &str,
    overrides: &[&str],
    presented: &[&str],
) -> Decision {
    let (scheme, rest) = match url.strip_prefix("https://") {
        Some(rest) => (Scheme::Https, rest),
        None => (Scheme::Http, url.strip_prefix("http://").unwrap()),
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let Authority { host, port } = Authority::parse(authority).unwrap();
    let presented: Vec<CredentialId> =
        presented.iter().map(|name| policy.credential_named(name).unwrap()).collect();
    policy.decide(&Request {
        scheme,
        host: &host,
        port: port.unwrap_or(scheme.default_port()),
        method,
        path: path.split('?').next().unwrap(),
        overrides,
        presented: &presented,
        aws: None,
    })
}

/// The `type` of a refusal, or `allow`.
pub(super) fn outcome(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::Deny(deny) => deny.reason.as_str(),
    }
}

/// A host, parsed.
pub(super) fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}
