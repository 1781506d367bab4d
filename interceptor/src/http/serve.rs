//! The requests of one connection, each judged by itself (attack H12).

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use interceptor_policy::{
    BaseUrl, Decision, Deny, Filter, Host, Limits, Policy, Reason, Scheme, is_method_override,
    query_overrides, resembles_framing,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::body::Download;
use super::context::Context;
use super::exchange::Exchange;
use super::refuse::{About, answer, named_placeholder, refusal};
use super::strict::head::{self, Refused};
use super::strict::{REFUSED_METHOD, Upgrade};
use super::upload::{DRAINED, drain, drain_behind};
use super::{authority, base_url, dialect, forward};
use crate::audit::{Protocol, RequestId};
use crate::proxy::Rules;

pub(super) fn count(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// One request: from its head to its recorded answer.
pub(super) async fn handle(
    context: Arc<Context>,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    context.activity.request();
    let exchange = Exchange::new(&context.sandbox, context.protocol, &context.activity);
    let span = exchange.span().clone();
    Ok(answered(context, request, exchange).instrument(span).await)
}

async fn answered(
    context: Arc<Context>,
    mut request: Request<Incoming>,
    mut exchange: Exchange,
) -> Response<Download> {
    // The filter waits for what becomes of exactly these requests.
    let wants_upgrade = request.version() == Version::HTTP_11 && asks_for_upgrade(request.headers());
    let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    exchange.note(|record| record.port = Some(context.asked.port()));
    let place = context.sandbox.requests.try_take();
    let judged = judge(&context, &mut parts, &mut exchange).and_then(|judged| match place {
        Some(place) => {
            exchange.hold(place);
            Ok(judged)
        }
        None => {
            let most = judged.rules.policy.limits().requests;
            let message = format!(
                "this sandbox has reached its limit of {} in progress; wait for one to end, or raise limits.requests",
                crate::words::count(most, "request")
            );
            let deny = refusal(Reason::LimitExceeded, message);
            Err(Box::new(Denied { deny, rules: judged.rules, host: Some(judged.host), retry: true }))
        }
    });
    let response = match judged {
        Ok(judged) => {
            let cut = CancellationToken::new();
            let later = later(&parts, &judged);
            let alive = context.sandbox.live.enter(&judged.rules.policy, cut.clone(), later);
            exchange.enter(alive, cut.clone());
            let (version, id) = (parts.version, exchange.id());
            tokio::select! {
                response = forward::forward(&context, judged, parts, body, upgrade, exchange) => response,
                // Dropped with its exchange, which is recorded as it stands.
                () = cut.cancelled() => cut_off(version, id),
                () = context.activity.aged() => too_old(version, id),
            }
        }
        Err(denied) => {
            if denied.deny.status == Refused::TOO_LARGE {
                shed(&mut parts);
            }
            refuse(&context, &parts, body, denied, exchange).await
        }
    };
    let mut response = response;
    let is_outdated = context.is_outdated();
    if context.protocol == Protocol::H2 {
        if is_outdated {
            context.outdated.cancel();
        }
    } else if response.version() <= Version::HTTP_11
        && response.status() != http::StatusCode::SWITCHING_PROTOCOLS
        && (is_outdated || context.sandbox.draining().is_cancelled())
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if wants_upgrade && let Some(notes) = &context.notes {
        let switched = response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
        notes.upgrade(if switched { Upgrade::Switched } else { Upgrade::Declined });
    }
    context.activity.beat();
    response
}

/// Says of a later policy whether it would have permitted a request.
fn later(parts: &Parts, judged: &Judged) -> impl Fn(&Policy) -> bool + Send + Sync + 'static + use<> {
    let (scheme, port, host) = (judged.scheme, judged.port, judged.host.clone());
    let (method, uri) = (parts.method.clone(), parts.uri.clone());
    let overrides: Vec<String> = overrides(parts).map(Cow::into_owned).collect();
    // By name: what a stream or a WebSocket holds for its life keeps no rules, nor keys, of before.
    let presented = judged.presented.credentials.iter();
    let before: Vec<String> = presented.map(|id| judged.rules.policy.credential(*id).name.clone()).collect();
    move |policy| {
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        // A credential that is gone permits nothing.
        let named = before.iter().map(|name| policy.credential_named(name));
        let Some(presented) = named.collect::<Option<Vec<_>>>() else { return false };
        let decision = policy.decide(&interceptor_policy::Request {
            scheme,
            host: &host,
            port,
            method: method.as_str(),
            path: uri.path(),
            overrides: &overrides,
            presented: &presented,
        });
        matches!(decision, Decision::Allow(_))
    }
}

/// The answer to a request that a new policy has cut off before the origin answered.
fn cut_off(version: Version, id: RequestId) -> Response<Download> {
    let message = "the policy was replaced during the request, and the new one does not permit it; the origin may have received it";
    let deny = refusal(Reason::HostDenied, message.to_owned());
    answer(&deny, About::default(), id, version, true).map(Download::unrecorded)
}

/// The answer to a request whose connection is as old as it may be before the origin answered.
fn too_old(version: Version, id: RequestId) -> Response<Download> {
    let message = "the connection was as old as limits.total_timeout_seconds permits before the \
                   origin answered; the origin may have received the request";
    let deny = refusal(Reason::UpstreamTimeout, message.to_owned());
    answer(&deny, About::default(), id, version, true).map(Download::unrecorded)
}

/// The values of the headers and parameters that let a request say that it is of another method.
fn overrides(parts: &Parts) -> impl Iterator<Item = Cow<'_, str>> {
    let named = parts.headers.iter().filter(|(name, _)| is_method_override(name.as_str()));
    // A value that is not text allows nothing: it is judged as a method that no rule names.
    let named = named.map(|(_, value)| Cow::Borrowed(value.to_str().unwrap_or("\u{fffd}")));
    named.chain(query_overrides(parts.uri.query().unwrap_or_default()).map(Cow::Owned))
}

/// Whether a request asks to switch protocols (RFC 9110 section 7.8), as [`Strict`] understands it.
pub(super) fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE)
        && headers.get_all(CONNECTION).iter().any(|value| {
            let mut options = value.as_bytes().split(|byte| *byte == b',');
            options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

/// A request that may be forwarded, and the rules it was judged by: one value from here to its end (attack R9).
#[derive(Debug)]
pub(crate) struct Judged {
    /// The rules.
    pub rules: Arc<Rules>,
    /// How the origin is spoken to.
    pub scheme: Scheme,
    /// The host.
    pub host: Host,
    /// The port there.
    pub port: u16,
    /// What the sandbox asked for, where it asked under a base URL.
    pub based: Option<BaseUrl>,
    /// What was decided.
    pub allow: interceptor_policy::Allow,
    /// Where placeholders stand in the request.
    pub presented: crate::credential::Presented,
}

/// A refusal, with what is known of the request.
#[derive(Debug)]
pub(crate) struct Denied {
    /// The refusal.
    pub deny: Deny,
    /// The rules it was judged by.
    pub rules: Arc<Rules>,
    /// The host, once it is known.
    pub host: Option<Host>,
    /// Whether the same request may well pass a second later.
    pub retry: bool,
}

fn judge(context: &Context, parts: &mut Parts, exchange: &mut Exchange) -> Result<Judged, Box<Denied>> {
    let rules = context.sandbox.rules();
    let refused = |deny, host| Box::new(Denied { deny, rules: rules.clone(), host, retry: false });
    if parts.method.as_str() == REFUSED_METHOD
        && let Some(why) = context.notes.as_ref().and_then(|notes| notes.refused())
    {
        let deny = Deny {
            reason: why.reason,
            status: why.status,
            filter: Filter::Request,
            rule: None,
            credential: None,
            message: why.message,
            nearest: None,
        };
        return Err(refused(deny, Some(context.identity.host.clone())));
    }
    let method = parts.method.as_str();
    exchange.note(|record| {
        record.method = Some(method.into());
        // One that is too long to be judged is too long to be kept.
        let most = count(rules.policy.limits().header_bytes);
        let path = Some(parts.uri.path()).filter(|path| !path.is_empty() && path.len() <= most);
        record.path = path.map(Into::into);
    });
    if let Some(deny) = unsound(parts, rules.policy.limits()) {
        return Err(refused(deny, Some(context.identity.host.clone())));
    }
    let host = match authority::host(parts, &context.identity) {
        Ok(host) => host,
        // CONNECT names another host by its nature; it is refused for what it is.
        Err(_) if parts.method == http::Method::CONNECT => context.identity.host.clone(),
        Err(deny) => return Err(refused(deny, Some(context.identity.host.clone()))),
    };
    if let Host::Name(name) = &host
        && let Some(id) = rules.keyring.named_in(name.as_str())
    {
        let deny = named_placeholder(&rules.policy, id);
        return Err(refused(deny, Some(host)));
    }
    // From here on a request under a base URL is one to the host it stands for, for rules, records and the origin alike.
    let (scheme, port) = (context.identity.scheme, context.identity.port);
    let based = rules.policy.base_url(scheme, &host, port, parts.uri.path());
    let (scheme, host, port) = match &based {
        None => (scheme, host, port),
        Some(based) => {
            match base_url::target(based, &parts.uri) {
                Ok(target) => parts.uri = target,
                Err(deny) => return Err(refused(deny, Some(host))),
            }
            exchange.note(|record| {
                record.port = Some(based.port);
                record.path = Some(parts.uri.path().into());
            });
            (Scheme::Https, based.host.clone(), based.port)
        }
    };
    let imitated = parts.headers.keys().find_map(|name| resembles_framing(name.as_str()));
    if let Some(framing) = imitated
        && !rules.policy.governing(scheme, &host, port).is_empty()
    {
        let message = format!(
            "the request has a header whose name some servers read as `{framing}`, though it is \
             spelled otherwise; leave it out"
        );
        return Err(refused(refusal(Reason::RequestMalformed, message), Some(host)));
    }
    let overrides: Vec<Cow<'_, str>> = overrides(parts).collect();
    let overrides: Vec<&str> = overrides.iter().map(AsRef::as_ref).collect();
    let presented = rules.keyring.presented(&parts.headers, parts.uri.query());
    // The URL names the credential, as a placeholder would; one that names another contradicts it.
    let mut meant = presented.credentials.clone();
    if let Some(based) = &based
        && !meant.contains(&based.credential)
    {
        meant.push(based.credential);
    }
    let decision = rules.policy.decide(&interceptor_policy::Request {
        scheme,
        host: &host,
        port,
        method,
        path: parts.uri.path(),
        overrides: &overrides,
        presented: &meant,
    });
    match decision {
        Decision::Allow(allow) => {
            exchange.allow(&allow);
            exchange.note(|record| {
                record.host = Some(host.to_string().into());
                let path = allow.path.text(parts.uri.path());
                if record.path.as_deref() != Some(path) {
                    record.path = Some(path.into());
                }
                record.credential =
                    allow.credential.map(|id| rules.policy.credential(id).name.as_str().into());
            });
            Ok(Judged { rules, scheme, host, port, based, allow, presented })
        }
        Decision::Deny(deny) => Err(refused(deny, Some(host))),
    }
}

/// How much a head is: RFC 9113 section 10.5.1 counts 32 bytes for each field; its pseudo-fields are counted alike.
pub(super) fn head_bytes(parts: &Parts) -> u64 {
    let fields: usize =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    (fields + parts.uri.path_and_query().map_or(0, |target| target.as_str().len())) as u64
}

/// The refusal of a head that HTTP/1.1's filter would not let through: HTTP/2 has none before it.
fn unsound(parts: &Parts, limits: &Limits) -> Option<Deny> {
    if parts.version < Version::HTTP_2 {
        return None;
    }
    let why = if head_bytes(parts) > limits.header_bytes {
        Refused::head_too_large(count(limits.header_bytes))
    } else if parts.headers.len() as u64 > limits.headers {
        Refused::too_many_headers(count(limits.headers))
    } else {
        head::parsed(parts).err()?
    };
    Some(Deny { status: why.status, ..refusal(why.reason, why.message) })
}

/// Lets go of a head that is too large before its refusal waits for its turn; what says in which
/// words the client is told is kept.
fn shed(parts: &mut Parts) {
    let told = [http::header::USER_AGENT, http::header::CONTENT_TYPE, http::header::TE];
    let kept = told.into_iter().chain([CONTENT_LENGTH, EXPECT, UPGRADE]).filter_map(|name| {
        let value = parts.headers.get(&name).filter(|value| value.len() <= 256)?;
        Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    });
    parts.headers = kept.collect();
    if parts.uri.path().len() > 1024 {
        parts.uri = http::Uri::default();
    }
}

/// Answers a refusal and notes it.
pub(crate) async fn refuse(
    context: &Context,
    parts: &Parts,
    body: Incoming,
    denied: Box<Denied>,
    mut exchange: Exchange,
) -> Response<Download> {
    let Denied { deny, rules, host, retry } = *denied;
    let turn = context.sandbox.refusals.turn();
    if !turn.is_zero() {
        tokio::time::sleep(turn).await;
    }
    let stand_in = context.notes.is_some() && parts.method.as_str() == REFUSED_METHOD;
    let host = host.map(|host| host.to_string());
    let credential = deny.credential.map(|id| rules.policy.credential(id).name.clone());
    exchange.deny(&deny);
    exchange.note(|record| {
        if stand_in && deny.status == Refused::TOO_SLOW {
            record.reason = Some(Reason::HeaderTimeout);
        }
        record.host = host.as_deref().map(Into::into);
        record.credential = credential.as_deref().map(Into::into);
        record.ip.get_or_insert(context.asked.ip());
    });
    let about = About {
        host: host.as_deref(),
        method: (!stand_in).then(|| parts.method.as_str()),
        path: (!stand_in).then(|| parts.uri.path()).filter(|path| !path.is_empty()),
        credential: credential.as_deref(),
        retry,
    };
    // A client that asked for another protocol has no second request for this connection; Node's would wait for its end.
    let close = stand_in
        || parts.headers.contains_key(UPGRADE)
        || matches!(
            deny.reason,
            Reason::AuthorityMismatch | Reason::MethodRefused | Reason::RequestMalformed
        );
    let call = take_rest(parts, body).await;
    let mut response = answer(&deny, about, exchange.id(), parts.version, close);
    let asked = dialect::Asked { headers: &parts.headers, uri: &parts.uri, body: &call };
    dialect::speak(&mut response, &asked, &deny);
    own(response, exchange)
}

/// The interceptor's own answer with its record.
pub(crate) fn own(response: Response<Bytes>, mut exchange: Exchange) -> Response<Download> {
    exchange.note(|record| record.status = Some(response.status().as_u16()));
    response.map(|bytes| Download::own(bytes, exchange))
}

/// Takes what the sandbox is sending anyway, within bounds: closing under it would reset the connection and lose the answer.
/// Returns it where it may be a JSON-RPC call, for the answer's sake.
async fn take_rest(parts: &Parts, body: Incoming) -> Vec<u8> {
    let announced = parts.headers.get(CONTENT_LENGTH).is_none_or(|length| {
        length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: usize| length <= DRAINED)
    });
    let waits_for_continue = parts.headers.contains_key(EXPECT);
    let may_be_a_call = dialect::may_be_a_call(&parts.headers);
    if parts.version >= Version::HTTP_2 && !(may_be_a_call && announced && !waits_for_continue) {
        // A stream can be answered while it is still sent to.
        drain_behind(body);
        return Vec::new();
    }
    if waits_for_continue || !announced {
        return Vec::new();
    }
    drain(body, if may_be_a_call { dialect::MOST_CALL } else { 0 }).await
}
