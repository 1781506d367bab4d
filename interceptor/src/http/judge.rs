//! Judges a request: which host it is for, where it goes, and whether the rules permit it. Changes
//! nothing it is given.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Uri, Version};
use interceptor_policy::{
    CanonicalPath, CredentialId, Decision, Deny, Host, Limits, Policy, Reason, Request, Scheme,
    Subject, Traffic, is_method_override, query_overrides, resembles_framing,
};
use smallvec::SmallVec;

use super::authority::{self, Identity};
use super::base_url;
use super::context::{Context, count};
use super::flight::{Destination, Judged};
use super::refuse::Denied;
use super::refuse::deny::{named_placeholder, refusal};
use super::signing;
use super::strict::REFUSED_METHOD;
use super::strict::head::{self, Refused};
use crate::proxy::Rules;
use crate::sigv4::Claim;

/// The HTTP/1.1 filter replaces a refused request with a stand-in. Returns its refusal if this is
/// one.
pub(super) fn stand_in(
    rules: &Arc<Rules>,
    context: &Context,
    parts: &Parts,
) -> Option<Box<Denied>> {
    if parts.method.as_str() != REFUSED_METHOD {
        return None;
    }
    let why = context.notes.as_ref()?.refused()?;
    let deny = Deny { status: why.status, ..refusal(why.reason, why.message) };
    Some(Denied::new(deny, rules, Some(context.identity.host.clone())))
}

/// Judges a request by these rules.
///
/// # Errors
/// The refusal, with what is known of the request.
pub(super) fn judge(
    rules: Arc<Rules>,
    identity: &Identity,
    parts: &Parts,
) -> Result<Judged, Box<Denied>> {
    let host = host(&rules, identity, parts)?;
    let to = destination(&rules, identity, host, &parts.uri)?;
    if let Some(deny) = imitation(&rules.policy, &to, &parts.headers) {
        return Err(Denied::to(deny, &rules, to));
    }
    let overrides: Vec<Cow<'_, str>> = overrides(parts).collect();
    let overrides: Vec<&str> = overrides.iter().map(AsRef::as_ref).collect();
    let uri = to.uri(parts);
    let presented = rules.keyring.presented(&parts.headers, uri.query());
    let claim = signing::scope(&rules.policy, parts, uri.query());
    let request = Request {
        scheme: to.scheme,
        host: &to.host,
        port: to.port,
        method: parts.method.as_str(),
        path: uri.path(),
        overrides: &overrides,
        presented: &meant(&presented.credentials, &to),
        aws: claim.as_ref().map(Claim::scope),
    };
    let decision = copying(&rules.policy, parts, &request);
    let decision = decision.unwrap_or_else(|| rules.policy.decide(&request));
    match decision {
        Decision::Allow(allow) => Ok(Judged { rules, to, allow, presented, lease: None }),
        Decision::Deny(deny) => Err(Denied::to(deny, &rules, to)),
    }
}

/// Refuses to copy an object that the rules would not permit to read: it is named in a header.
fn copying(policy: &Policy, parts: &Parts, request: &Request<'_>) -> Option<Decision> {
    request.aws?;
    let path = match signing::copied(&parts.headers)? {
        Ok(path) => path,
        Err(deny) => return Some(Decision::Deny(deny)),
    };
    let read = policy.decide(&Request { method: "GET", path: &path, ..*request });
    (!read.is_allow()).then_some(read)
}

/// What a refused request asks of a person, if the policy asks about it.
pub(super) fn asked(
    rules: &Arc<Rules>,
    identity: &Identity,
    parts: &Parts,
    deny: &Deny,
) -> Option<Subject> {
    let host = host(rules, identity, parts).ok()?;
    let to = destination(rules, identity, host, &parts.uri).ok()?;
    let uri = to.uri(parts);
    let presented = rules.keyring.presented(&parts.headers, uri.query());
    let presented = meant(&presented.credentials, &to);
    let overrides: Vec<Cow<'_, str>> = overrides(parts).collect();
    let overrides: Vec<&str> = overrides.iter().map(AsRef::as_ref).collect();
    let claim = signing::scope(&rules.policy, parts, uri.query());
    let request = Request {
        scheme: to.scheme,
        host: &to.host,
        port: to.port,
        method: parts.method.as_str(),
        path: uri.path(),
        overrides: &overrides,
        presented: &presented,
        aws: claim.as_ref().map(Claim::scope),
    };
    // A person would permit what is copied to, and not what is copied.
    if copying(&rules.policy, parts, &request).is_some() {
        return None;
    }
    if !rules.policy.asks(&request, deny) {
        return None;
    }
    // What a person reads is the path that would be forwarded.
    let path = CanonicalPath::parse(uri.path()).map(|path| path.as_str().to_owned());
    let used = presented.first().copied().or(deny.credential);
    Some(Subject {
        traffic: Traffic::Request,
        method: parts.method.as_str().to_owned(),
        path: path.unwrap_or_else(|_| uri.path().to_owned()),
        is_https: to.scheme == Scheme::Https,
        credential: used.map(|id| rules.policy.credential(id).name.clone()),
        misused: false,
        address: None,
        aws: claim.as_ref().map(|claim| signing::text(claim.scope())),
        port: to.port,
        host: to.host,
    })
}

/// The host of the request.
fn host(rules: &Arc<Rules>, identity: &Identity, parts: &Parts) -> Result<Host, Box<Denied>> {
    let refused = |deny| Denied::new(deny, rules, Some(identity.host.clone()));
    if let Some(deny) = unsound(parts, rules.policy.limits()) {
        return Err(refused(deny));
    }
    let host = match authority::host(parts, identity) {
        Ok(host) => host,
        // CONNECT always names another host, and is refused for being CONNECT.
        Err(_) if parts.method == Method::CONNECT => identity.host.clone(),
        Err(deny) => return Err(refused(deny)),
    };
    if let Host::Name(name) = &host
        && let Some(id) = rules.keyring.named_in(name.as_str())
    {
        return Err(Denied::new(named_placeholder(&rules.policy, id), rules, Some(host)));
    }
    Ok(host)
}

/// Where the request goes. A request under a base URL counts as one to the real host from here on,
/// for rules, records and the origin alike.
fn destination(
    rules: &Arc<Rules>,
    identity: &Identity,
    host: Host,
    sent: &Uri,
) -> Result<Destination, Box<Denied>> {
    let (scheme, port) = (identity.scheme, identity.port);
    let Some(based) = rules.policy.base_url(scheme, &host, port, sent.path()) else {
        return Ok(Destination { scheme, host, port, based: None });
    };
    match base_url::target(&based, sent) {
        Ok(target) => Ok(Destination {
            scheme: Scheme::Https,
            host: based.host.clone(),
            port: based.port,
            based: Some((based, target)),
        }),
        Err(deny) => Err(Denied::new(deny, rules, Some(host))),
    }
}

/// Refuses a header field on a governed host that its servers may read as message framing.
fn imitation(policy: &Policy, to: &Destination, headers: &HeaderMap) -> Option<Deny> {
    let framing = headers.keys().find_map(|name| resembles_framing(name.as_str()))?;
    if !policy.is_governed(to.scheme, &to.host, to.port) {
        return None;
    }
    let message = format!(
        "the request has a header whose name some servers read as `{framing}`, though it is \
         spelled differently; remove it"
    );
    Some(refusal(Reason::RequestMalformed, message))
}

/// The credentials the request uses. A base URL names one, as a placeholder would; a placeholder
/// for a different credential contradicts it.
fn meant<'a>(presented: &'a [CredentialId], to: &Destination) -> Cow<'a, [CredentialId]> {
    match &to.based {
        Some((based, _)) if !presented.contains(&based.credential) => {
            let mut meant = presented.to_vec();
            meant.push(based.credential);
            Cow::Owned(meant)
        }
        _ => Cow::Borrowed(presented),
    }
}

/// Tells whether a later policy would have permitted the request.
pub(super) fn later(
    parts: &Parts,
    judged: &Judged,
) -> impl Fn(&Policy) -> bool + Send + Sync + 'static + use<> {
    let Judged { rules, to, presented, .. } = judged;
    let (scheme, port, host) = (to.scheme, to.port, to.host.clone());
    let (method, uri) = (parts.method.clone(), to.uri(parts).clone());
    let overrides: Vec<String> = overrides(parts).map(Cow::into_owned).collect();
    // By name, so that a long stream or WebSocket keeps no old rules or keys alive.
    let before: SmallVec<[Arc<str>; 1]> =
        presented.credentials.iter().map(|id| rules.policy.shared_name(*id)).collect();
    let claim = signing::scope(&rules.policy, parts, uri.query());
    move |policy| {
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        // Without its credential, the request is not permitted.
        let named = before.iter().map(|name| policy.credential_named(name));
        let Some(presented) = named.collect::<Option<Vec<_>>>() else { return false };
        let decision = policy.decide(&Request {
            scheme,
            host: &host,
            port,
            method: method.as_str(),
            path: uri.path(),
            overrides: &overrides,
            presented: &presented,
            aws: claim.as_ref().map(Claim::scope),
        });
        matches!(decision, Decision::Allow(_))
    }
}

/// The values of headers and query parameters that override the request's method.
fn overrides(parts: &Parts) -> impl Iterator<Item = Cow<'_, str>> {
    let named = parts.headers.iter().filter(|(name, _)| is_method_override(name.as_str()));
    // A value that is not text allows nothing: it counts as a method that no rule names.
    let named = named.map(|(_, value)| Cow::Borrowed(value.to_str().unwrap_or("\u{fffd}")));
    named.chain(query_overrides(parts.uri.query().unwrap_or_default()).map(Cow::Owned))
}

/// The size of a head. RFC 9113 section 10.5.1 adds 32 bytes per field, and pseudo-header fields
/// count alike.
pub(super) fn head_bytes(headers: &HeaderMap, uri: &Uri) -> u64 {
    let fields: usize =
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    (fields + uri.path_and_query().map_or(0, |target| target.as_str().len())) as u64
}

/// Refuses an HTTP/2 head that the HTTP/1.1 filter would not let through; HTTP/2 has no such
/// filter.
fn unsound(parts: &Parts, limits: &Limits) -> Option<Deny> {
    if parts.version < Version::HTTP_2 {
        return None;
    }
    let why = if head_bytes(&parts.headers, &parts.uri) > limits.header_bytes {
        Refused::head_too_large(count(limits.header_bytes))
    } else if parts.headers.len() as u64 > limits.headers {
        Refused::too_many_headers(count(limits.headers))
    } else {
        head::parsed(parts).err()?
    };
    Some(Deny { status: why.status, ..refusal(why.reason, why.message) })
}
