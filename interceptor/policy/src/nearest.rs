//! The nearest miss of a refusal: which rule came closest, which part of it failed, and the
//! smallest edit that would permit the request. It uses look-ups, like the decision itself, because
//! a sandbox can cause refusals at any rate.

use std::sync::Arc;

use super::aws::AwsScope;
use super::decision::NearMiss;
use super::endpoint::{EndpointRule, Outcome};
use super::host::Host;
use super::message;
use super::network::Network;
use super::network_rule::{NetworkRule, Target};
use super::path::CanonicalPath;
use super::problem::nearest_word;
use super::request::Request;

/// Beyond this many rules, misspellings are not searched for.
const MAX_SPELLING: usize = 64;

/// The allow rule nearest to a destination that no rule matches.
pub(super) fn host(network: &Network, host: &Host, port: u16) -> Option<NearMiss> {
    if let Some(name) = host.name().filter(|name| name.is_own_host()) {
        let (_, rule) = network.allow.named(name.as_str(), false)?;
        let edit = message::add_own_host(host, port);
        return Some(NearMiss { rule: Arc::clone(rule), failed: "port", edit });
    }
    if let Some((_, rule)) = network.allow.at_any_port(host) {
        return Some(NearMiss {
            edit: format!(
                "change \"{}\" at {} to have port {port}, or none, or add \"{}\" to /network/allow",
                rule.text,
                rule.pointer,
                message::bracketed(host, port)
            ),
            rule: Arc::clone(rule),
            failed: "port",
        });
    }
    let name = host.name()?;
    let sibling = || {
        name.suffixes().skip(1).filter(|parent| parent.contains('.')).find_map(|parent| {
            network.allow.named(parent, true).or_else(|| network.allow.named(parent, false))
        })
    };
    let near = network
        .allow
        .named(name.as_str(), true)
        .or_else(sibling)
        .or_else(|| misspelt(network, name.as_str()))?;
    Some(NearMiss { edit: message::add_allow(host), rule: Arc::clone(&near.1), failed: "host" })
}

fn misspelt<'a>(
    network: &'a Network,
    name: &str,
) -> Option<&'a (NetworkRule, Arc<super::decision::Rule>)> {
    let named = |entry: &'a (NetworkRule, Arc<super::decision::Rule>)| match &entry.0.target {
        Target::Name(name) => Some((name.as_str(), entry)),
        _ => None,
    };
    let candidates: Vec<_> =
        network.allow.iter().filter_map(named).take(MAX_SPELLING + 1).collect();
    if candidates.len() > MAX_SPELLING {
        return None;
    }
    let nearest = nearest_word(name, candidates.iter().map(|(candidate, _)| *candidate))?;
    candidates.into_iter().find(|(candidate, _)| *candidate == nearest).map(|(_, entry)| entry)
}

/// The endpoint rule nearest to a method and path that no rule permits.
pub(super) fn endpoint(
    request: &Request<'_>,
    path: &CanonicalPath,
    outcome: &Outcome<'_>,
) -> Option<NearMiss> {
    let method = request.method;
    match outcome {
        Outcome::Permitted(_) | Outcome::Path(None) => None,
        Outcome::Scope(rule) => Some(NearMiss {
            rule: Arc::clone(&rule.rule),
            failed: "aws",
            edit: scope_edit(rule, request.aws),
        }),
        Outcome::Method(rule) => Some(NearMiss {
            rule: Arc::clone(&rule.rule),
            failed: "method",
            edit: match upper(method) {
                Some(upper) if rule.admits(&upper) => case(&upper),
                Some(upper) => {
                    format!("add \"{upper}\" to {}/methods and {}", rule.pointer, case(&upper))
                }
                None => format!("add \"{method}\" to {}/methods", rule.pointer),
            },
        }),
        Outcome::Path(Some(rule)) => {
            let pattern = literal_pattern(path);
            let changed = upper(method).filter(|_| !rule.admits(method));
            let method = changed.as_deref().unwrap_or(method);
            let edit = if rule.admits(method) {
                format!("add \"{pattern}\" to {}/paths", rule.pointer)
            } else {
                let list = rule.pointer.rsplit_once('/').map_or("", |(list, _)| list);
                format!("add {{\"methods\": [\"{method}\"], \"paths\": [\"{pattern}\"]}} to {list}")
            };
            let edit = match &changed {
                Some(upper) => format!("{edit} and {}", case(upper)),
                None => edit,
            };
            Some(NearMiss { rule: Arc::clone(&rule.rule), failed: "path", edit })
        }
    }
}

/// What makes a rule name the scope of a signature.
fn scope_edit(rule: &EndpointRule, scope: Option<AwsScope<'_>>) -> String {
    let missing = scope.and_then(|scope| rule.aws.as_ref()?.missing(scope));
    match missing {
        Some((list, name)) => format!("add \"{name}\" to {}/aws/{list}", rule.pointer),
        None => "sign the request for a service and a region that the rule names".to_owned(),
    }
}

/// The method in upper case, as rules spell it, if it was sent otherwise.
fn upper(method: &str) -> Option<String> {
    let upper = method.to_ascii_uppercase();
    (upper != method).then_some(upper)
}

fn case(method: &str) -> String {
    format!("send the method as `{method}`: methods are case-sensitive")
}

/// A pattern that matches the path. Characters that are special or invalid in patterns become `?`.
pub(super) fn literal_pattern(path: &CanonicalPath) -> String {
    path.as_str().replace(['*', '[', ']', '{', '}', '"'], "?")
}
