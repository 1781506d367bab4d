//! Sends a judged request to its origin. The request is rebuilt from what was judged; its bytes are
//! never relayed.

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use interceptor_policy::redact::ranges::Widened;
use interceptor_policy::{CredentialId, Deny, Filter, Host, JudgedPath, Reason};

use super::address::address;
use super::body::Download;
use super::flight::Flight;
use super::inject::{inject, strip_hop_by_hop};
use super::judge::head_bytes;
use super::offers::{self, Switch};
use super::refuse::deny::refusal;
use super::refuse::origin::{broken, too_slow, unreachable};
use super::refuse::{Unsent, failed, unsent};
use super::respond::{Keyed, Requested, respond};
use super::sending::{Broken, Sending};
use super::signing::{self, Checked};
use super::trailers::Trailers;
use super::upload::Upload;
use crate::audit::Protocol;
use crate::credential::{KeyError, RealKey};
use crate::proxy::budget::{Allowance, Exceeded};
use crate::sigv4::Signed;
use crate::tls::refusal::HandshakeContext;
use crate::upstream::body::Outgoing;
use crate::upstream::pool::{Answer, ConnectError, Connection, PoolKey};

/// The route to the origin.
#[derive(Debug)]
struct Route {
    /// The key of its connection in the pool.
    key: PoolKey,
    /// The protocol to switch to.
    switch: Switch,
    /// Whether to use HTTP/2, if the origin supports it. Requests go out in the version they came
    /// in, except that upgrades exist only in HTTP/1.1.
    h2: bool,
}

/// Everything needed to send a request.
#[derive(Debug)]
struct Ready {
    head: Parts,
    range: Option<Widened>,
    allowance: Option<Allowance>,
    connection: Connection,
    /// The key in it.
    keyed: Option<Keyed>,
    /// Its signature.
    signed: Option<Signed>,
}

/// Sends a request and returns its response.
pub(super) async fn forward(
    mut flight: Box<Flight<'_>>,
    mut body: Incoming,
    upgrade: Option<OnUpgrade>,
) -> Response<Download> {
    // A connection that waits for an origin is not idle.
    let _waiting = flight.exchange.activity().wait();
    let switch = Switch::asked(&flight.parts);
    let h2 = flight.context.protocol == Protocol::H2 && switch == Switch::None;
    let mut way = Route { key: flight.key(), switch, h2 };
    let mut checked = None;
    if let Some(id) = signing::signer(&flight) {
        // Boxed, so that requests that are not signed do without its room.
        match Box::pin(signing::verify(&mut flight, &mut body, id)).await {
            Ok(verified) => checked = Some(verified),
            Err(why) => return Box::pin(unsent(*flight, body, *why)).await,
        }
    }
    let ready = match ready(&mut flight, &mut way, &body, checked.as_ref()).await {
        Ok(ready) => ready,
        Err(why) => return Box::pin(unsent(*flight, body, *why)).await,
    };
    let Ready { head, range, allowance, connection, mut keyed, signed } = ready;
    let mut upload = upload(&mut flight, body, allowance.clone());
    if let (Some(checked), Some(signed)) = (&mut checked, signed) {
        upload.seal(checked.seal(signed, &flight.parts.headers));
    }
    let sending = upload.sending();
    let request: Request<Outgoing> = Request::from_parts(head, Box::new(upload));
    let sent = send(&mut flight, (&way, connection), request, &sending, &mut keyed, checked);
    match sent.await {
        Ok(response) => {
            sending.answered();
            let asked = Requested { switch: way.switch, upgrade, range, allowance, keyed };
            respond(flight, response, asked).await
        }
        Err(failure) => failed(flight, sending.broken().cloned().unwrap_or(failure)),
    }
}

/// Prepares everything needed to send a request.
///
/// # Errors
/// Why it is not sent.
async fn ready(
    flight: &mut Flight<'_>,
    way: &mut Route,
    body: &Incoming,
    checked: Option<&Checked>,
) -> Result<Ready, Box<Unsent>> {
    let allowance = allowance(flight, &way.key, body)?;
    let mut taken = None;
    if let Some(id) = flight.judged.allow.credential {
        let keyring = &flight.judged.rules.keyring;
        keyring.refresh().await;
        keyring.usable(id).await.map_err(|error| unavailable(id, &error))?;
        taken = Some(Instant::now());
        // The certificate may be another by now.
        way.key = flight.key();
    }
    let Sent { head, range, key, signed } = outgoing(flight, way, checked).map_err(Unsent::from)?;
    let keyed = key.zip(taken).map(|(key, taken)| Keyed { key, taken });
    flight.exchange.pause();
    let connection = match connect(flight, way).await {
        Ok(connection) => connection,
        Err(error) => return Err(Box::new(unreachable(&way.key.host, &error).into())),
    };
    flight.exchange.resume();
    flight.exchange.note(|record| record.ip = connection.address.map(|address| address.ip()));
    Ok(Ready { head, range, allowance, connection, keyed, signed })
}

/// Refuses a request whose key has expired.
fn unavailable(id: CredentialId, error: &KeyError) -> Box<Unsent> {
    let message = format!("nothing was sent, because there is no key: {error}");
    let deny = refusal(Reason::CredentialUnavailable, message);
    let deny = Deny { filter: Filter::Credential, credential: Some(id), ..deny };
    Box::new(Unsent { deny, retry: true })
}

/// Counts a request against the limits of its host, and returns how much body they still allow.
fn allowance(
    flight: &Flight<'_>,
    key: &PoolKey,
    body: &Incoming,
) -> Result<Option<Allowance>, Unsent> {
    let limits = flight.limits();
    let (budget, head) =
        (&flight.context.sandbox.budget, head_bytes(&flight.parts.headers, flight.uri()));
    let spent = if flight.context.take_prepaid(key) {
        budget.spend_prepaid(flight.host(), head, limits)
    } else {
        budget.spend(flight.host(), head, limits)
    };
    let allowance = spent.map_err(|exceeded| Unsent {
        deny: refusal(Reason::LimitExceeded, exceeded.to_string()),
        retry: exceeded.passes(),
    })?;
    let least = body.size_hint().lower();
    if allowance.as_ref().is_some_and(|allowance| least > allowance.left()) {
        let exceeded = Exceeded::Bytes(limits.bytes_up_per_host.unwrap_or_default());
        return Err(refusal(Reason::LimitExceeded, exceeded.to_string()).into());
    }
    match limits.body_bytes.filter(|most| least > *most) {
        Some(most) => Err(Broken::too_large(most).deny.into()),
        None => Ok(allowance),
    }
}

/// What is sent: the head, the range asked for, the key in it, and its signature.
struct Sent {
    head: Parts,
    range: Option<Widened>,
    key: Option<Arc<RealKey>>,
    signed: Option<Signed>,
}

/// Builds the head for the origin from what was judged. Also returns the requested range, if the
/// response is to be searched for keys.
fn outgoing(flight: &Flight<'_>, way: &Route, checked: Option<&Checked>) -> Result<Sent, Deny> {
    let switch = &way.switch;
    let (parts, judged) = (&flight.parts, &flight.judged);
    let credential = judged.allow.credential;
    if let (Switch::Other(protocol), Some(id)) = (switch, credential) {
        return Err(Deny { credential: Some(id), ..unsearchable(flight.host(), protocol) });
    }
    let mut head = Request::new(()).into_parts().0;
    head.method = parts.method.clone();
    head.headers = parts.headers.clone();
    head.uri = target(&judged.allow.path, flight.uri())?;
    strip_hop_by_hop(&mut head.headers);
    // The proxy itself sends 100 Continue to the sandbox, once the origin begins to read.
    head.headers.remove(EXPECT);
    head.headers.remove(HOST);
    join_cookies(&mut head.headers);
    // An upgrade offer applies to one connection only; an accepted one is added again below.
    head.headers.remove(UPGRADE);
    let mut key = None;
    if let Some(id) = credential {
        let rules = &judged.rules;
        let set = inject(&mut head, &rules.policy, &rules.keyring, id, &judged.presented).map_err(
            |error| {
                let message =
                    format!("the credential could not be set, so nothing was sent: {error}");
                let deny = refusal(Reason::EndpointDenied, message);
                Deny { filter: Filter::Credential, credential: Some(id), ..deny }
            },
        )?;
        key = Some(set);
    }
    let redactor = judged.rules.keyring.redactor().map_err(|error| {
        refusal(
            Reason::UpstreamProtocol,
            format!("nothing was sent, because the answer could not be searched for keys: {error}"),
        )
    })?;
    let range = redactor.and_then(|redactor| offers::searchable(&mut head, &redactor));
    if let Some(protocol) = switch.value() {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
    }
    let mut signed = None;
    if let (Some(checked), Some(key), Some(id)) = (checked, &key, credential) {
        let query = flight.uri().query().unwrap_or_default();
        signed = Some(checked.sign(&mut head, query, &way.key, key, id)?);
    }
    Ok(Sent { head, range, key, signed })
}

/// Refuses a protocol in which returned keys could not be found.
fn unsearchable(host: &Host, protocol: &HeaderValue) -> Deny {
    let protocol = String::from_utf8_lossy(protocol.as_bytes()).into_owned();
    let message = format!(
        "the request was refused: it asks to switch to `{protocol}`, and what `{}` sends in that \
         protocol cannot be searched for the real key; on a host that a credential governs only \
         `websocket` can be switched to: use a client that supports it (kubectl 1.31 or later), \
         or remove the host from the credential",
        host
    );
    Deny { filter: Filter::Credential, ..refusal(Reason::ProtocolDenied, message) }
}

/// The path as judged, with the query as sent, byte for byte.
fn target(path: &JudgedPath, sent: &Uri) -> Result<Uri, Deny> {
    let as_sent = sent.path_and_query().filter(|target| match path {
        JudgedPath::Canonical(path) => target.path() == path.as_str(),
        JudgedPath::AsSent => true,
    });
    let target = match (as_sent, path) {
        (Some(target), _) => target.clone(),
        (None, JudgedPath::AsSent) => PathAndQuery::from_static("/"),
        (None, JudgedPath::Canonical(path)) => {
            let text = match sent.query() {
                Some(query) => format!("{path}?{query}"),
                None => path.to_string(),
            };
            PathAndQuery::try_from(text).map_err(|_| {
                refusal(Reason::PathAmbiguous, "the path cannot be written in a request".to_owned())
            })?
        }
    };
    Ok(Uri::from(target))
}

/// HTTP/2 may split the cookie header (RFC 9113 section 8.2.3); HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice())) {
        headers.insert(COOKIE, joined);
    }
}

async fn connect(flight: &Flight<'_>, way: &Route) -> Result<Connection, ConnectError> {
    if let Some(mut early) = flight.context.take_early(&way.key) {
        // It may have failed for a reason that no longer holds, so try again.
        if let Ok(Ok(connection)) = (&mut early.task).await {
            return Ok(connection);
        }
    }
    flight.context.sandbox.pool.get(flight.terms(), &way.key, way.h2).await
}

/// The body of a request.
fn upload(flight: &mut Flight<'_>, body: Incoming, allowance: Option<Allowance>) -> Upload {
    let (rules, to) = (&flight.judged.rules, &flight.judged.to);
    let to = (to.scheme, to.host.clone(), to.port);
    let trailers = Trailers::new(rules.clone(), flight.judged.allow.credential, Some(to));
    Upload::new(body, &mut flight.exchange, rules.policy.limits(), allowance, trailers)
}

/// Sends the request. If a pooled connection turns out to be closed, sends it again: if nothing was
/// sent yet, or, for a safe request without a body, if no byte of a response arrived.
async fn send(
    flight: &mut Flight<'_>,
    (way, mut connection): (&Route, Connection),
    mut request: Request<Outgoing>,
    sending: &Arc<Sending>,
    keyed: &mut Option<Keyed>,
    checked: Option<Checked>,
) -> Result<Response<Answer>, Broken> {
    let (pool, key) = (&flight.context.sandbox.pool, &way.key);
    let limits = *flight.limits();
    let repeatable = request.method().is_safe() && request.body().is_end_stream();
    for _ in 0..3 {
        let over_h2 = connection.is_h2();
        address(&mut request, key, over_h2)?;
        let used = connection.used;
        let attempt = HandshakeContext {
            governed: key.is_governed(),
            asked_for_certificate: connection.asked_for_certificate,
            presented: key.presents(),
        };
        flight.exchange.sent(true);
        flight.exchange.pause();
        let sent = sending.patiently(pool.send(connection, key, request), &limits).await;
        flight.exchange.resume();
        let failed = match sent.map_err(|impatience| too_slow(&key.host, impatience, &limits))? {
            Ok(answered) => return Ok(answered),
            Err(failed) => failed,
        };
        let dialled = match failed.unsent {
            Some(unsent) if used => {
                flight.exchange.sent(false);
                request = unsent;
                flight.exchange.pause();
                pool.get(flight.terms(), key, way.h2).await
            }
            None if failed.stale && repeatable && flight.is_current() => {
                tracing::debug!(
                    host = %key.host,
                    "a pooled connection had ended; sending the request again"
                );
                let upload =
                    Upload::empty(&flight.exchange, &limits, sending.clone(), &flight.judged.rules);
                let Sent { head, key: other, .. } = outgoing(flight, way, checked.as_ref())?;
                // It may be another by now.
                if let (Some(keyed), Some(other)) = (keyed.as_mut(), other) {
                    keyed.key = other;
                }
                request = Request::from_parts(head, Box::new(upload));
                flight.exchange.pause();
                pool.renewed(flight.terms(), key, way.h2).await
            }
            unsent => {
                // hyper writes no head if the body fails at once; HTTP/2 sends the head before the
                // reset.
                flight.exchange.sent(unsent.is_none() && (over_h2 || sending.head_was_sent()));
                return Err(broken(&key.host, &failed.error, attempt).into());
            }
        };
        connection = dialled.map_err(|error| unreachable(&key.host, &error))?;
        flight.exchange.resume();
        flight.exchange.note(|record| record.ip = connection.address.map(|address| address.ip()));
    }
    let message = format!("`{}` closes every connection at once", key.host);
    Err(refusal(Reason::UpstreamUnreachable, message).into())
}
