//! Sends a judged request to its origin and brings the answer back: built anew from what was judged, never relayed bytes.

use std::sync::Arc;

use http::header::{CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use interceptor_policy::redact::ranges::Widened;
use interceptor_policy::{Deny, Filter, Host, JudgedPath, Limits, Reason};

use super::address::address;
use super::answer::{Asked, answer_broken, respond};
use super::body::Download;
use super::context::Context;
use super::exchange::Exchange;
use super::inject::{inject, strip_hop_by_hop};
use super::offers::{self, Switch};
use super::refuse::refusal;
use super::serve::{Denied, Judged, head_bytes, refuse};
use super::trailers::Trailers;
use super::upload::{Broken, Impatience, Sending, Upload};
use crate::audit::Protocol;
use crate::proxy::budget::Exceeded;
use crate::tls::refusal::{self as tls_refusal, Attempt};
use crate::upstream::body::Outgoing;
use crate::upstream::pool::{ConnectError, Connection, Key, Lease};

/// What one forwarded request consists of, once it is judged.
pub(crate) async fn forward(
    context: &Arc<Context>,
    judged: Judged,
    parts: Parts,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
    mut exchange: Exchange,
) -> Response<Download> {
    let limits = judged.rules.policy.limits();
    let switch = Switch::asked(&parts);
    let (generation, credential) = (judged.rules.generation, judged.allow.credential);
    let key = Key::new(generation, judged.scheme, judged.host.clone(), judged.port, credential);
    // While it waits for its origin, its connection is not idle.
    let _waiting = exchange.activity().wait();
    let (budget, head) = (&context.sandbox.budget, head_bytes(&parts));
    let spent = if context.take_prepaid(&key) {
        budget.spend_prepaid(&judged.host, head, limits)
    } else {
        budget.spend(&judged.host, head, limits)
    };
    let allowance = match spent {
        Ok(allowance) => allowance,
        Err(exceeded) => {
            let deny = refusal(Reason::LimitExceeded, exceeded.to_string());
            let (rules, host) = (judged.rules, Some(judged.host));
            let denied = Denied { deny, rules, host, retry: exceeded.passes() };
            return refuse(context, &parts, body, Box::new(denied), exchange).await;
        }
    };
    if allowance.as_ref().is_some_and(|allowance| body.size_hint().lower() > allowance.left()) {
        let exceeded = Exceeded::Bytes(limits.bytes_up_per_host.unwrap_or_default());
        let deny = refusal(Reason::LimitExceeded, exceeded.to_string());
        return fail(context, judged, &parts, body, deny, exchange).await;
    }
    if let Some(most) = limits.body_bytes.filter(|most| body.size_hint().lower() > *most) {
        let deny = Broken::too_large(most).deny;
        return fail(context, judged, &parts, body, deny, exchange).await;
    }
    if judged.allow.credential.is_some() {
        judged.rules.keyring.refresh().await;
    }
    let (head, range) = match outgoing(&judged, &parts, &switch) {
        Ok(outgoing) => outgoing,
        Err(deny) => return fail(context, judged, &parts, body, deny, exchange).await,
    };
    // Only HTTP/1.1 has upgrades; everything else speaks upstream what the sandbox speaks, if the origin does.
    let h2 = context.protocol == Protocol::H2 && switch == Switch::None;
    exchange.wait();
    let connection = match connect(context, &judged, &key, h2).await {
        Ok(connection) => connection,
        Err(error) => {
            let deny = unreachable(&judged.host, &error);
            return fail(context, judged, &parts, body, deny, exchange).await;
        }
    };
    exchange.go_on();
    exchange.note(|record| record.ip = Some(connection.address.ip()));
    let governing = judged.rules.policy.governing(judged.scheme, &judged.host, judged.port);
    let trailers = Trailers::new(judged.rules.clone(), judged.allow.credential, governing);
    let upload = Upload::new(body, &mut exchange, limits, allowance.clone(), trailers);
    let sending = upload.sending();
    let request: Request<Outgoing> = Request::from_parts(head, Box::new(upload));
    let again = || outgoing(&judged, &parts, &switch);
    let sent = exchange_with(context, &judged, &key, connection, request, h2, &mut exchange, &sending, again);
    match sent.await {
        Ok((response, lease)) => {
            sending.answered();
            let asked = Asked { switch, upgrade, range, allowance };
            respond(context, &judged, &parts, response, lease, asked, exchange).await
        }
        Err(failure) => {
            let failure = sending.broken().cloned().unwrap_or(failure);
            answer_broken(&judged, &parts, failure, exchange)
        }
    }
}

/// The head that the origin gets: built from what was judged. With it, the range that it asks for, where keys are looked for.
fn outgoing(judged: &Judged, parts: &Parts, switch: &Switch) -> Result<(Parts, Option<Widened>), Deny> {
    if let (Switch::Other(protocol), Some(id)) = (switch, judged.allow.credential) {
        return Err(Deny { credential: Some(id), ..unsearchable(judged, protocol) });
    }
    let mut head = Request::new(()).into_parts().0;
    head.method = parts.method.clone();
    head.headers = parts.headers.clone();
    head.uri = target(&judged.allow.path, &parts.uri)?;
    strip_hop_by_hop(&mut head.headers);
    // The proxy itself asks the sandbox to go on, when the origin begins to read.
    head.headers.remove(EXPECT);
    head.headers.remove(HOST);
    join_cookies(&mut head.headers);
    // An offer to switch protocols is the connection's own; the one taken up is made anew below.
    head.headers.remove(UPGRADE);
    head.headers.remove("http2-settings");
    if let Some(id) = judged.allow.credential {
        let rules = &judged.rules;
        inject(&mut head, &rules.policy, &rules.keyring, id, &judged.presented).map_err(|error| Deny {
            reason: Reason::EndpointDenied,
            status: Reason::EndpointDenied.status(),
            filter: Filter::Credential,
            rule: None,
            credential: Some(id),
            message: format!("the credential could not be set, so nothing was sent: {error}"),
            nearest: None,
        })?;
    }
    let redactor = judged.rules.keyring.redactor().map_err(|error| {
        refusal(
            Reason::UpstreamProtocol,
            format!("nothing was sent, since the answer could not be searched: {error}"),
        )
    })?;
    let range = redactor.and_then(|redactor| offers::searchable(&mut head, &redactor));
    if let Some(protocol) = switch.value() {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol);
    }
    Ok((head, range))
}

/// The refusal of a protocol in which a key that comes back could not be told.
fn unsearchable(judged: &Judged, protocol: &HeaderValue) -> Deny {
    let protocol = String::from_utf8_lossy(protocol.as_bytes()).into_owned();
    let message = format!(
        "the request was refused: it asks to switch to `{protocol}`, and what `{}` sends in that protocol cannot be searched \
         for the real key; on a host that a credential governs only `websocket` can be switched to: use a client that \
         speaks it (kubectl 1.31 and later do), or take the host out of the credential",
        judged.host
    );
    Deny { filter: Filter::Credential, ..refusal(Reason::ProtocolDenied, message) }
}

/// The path that was judged with the query that was sent, byte for byte.
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
            PathAndQuery::try_from(text).map_err(|_| Deny {
                reason: Reason::PathAmbiguous,
                status: Reason::PathAmbiguous.status(),
                filter: Filter::Request,
                rule: None,
                credential: None,
                message: "the path cannot stand in a request".to_owned(),
                nearest: None,
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

async fn connect(
    context: &Context,
    judged: &Judged,
    key: &Key,
    h2: bool,
) -> Result<Connection, ConnectError> {
    if let Some(mut early) = context.take_early(key) {
        // It may have failed for a reason that is over by now; then a new attempt gives the answer.
        if let Ok(Ok(connection)) = (&mut early.task).await {
            return Ok(connection);
        }
    }
    context.sandbox.pool.get(&judged.rules.policy, key, h2).await
}

/// Sends the request, once more if a kept connection turned out to be closed: before any of it was
/// sent, or, where that does no harm, before any byte of an answer. `again` builds its head anew.
#[expect(clippy::too_many_arguments, reason = "one step of the pipeline, split off for its loop")]
async fn exchange_with(
    context: &Context,
    judged: &Judged,
    key: &Key,
    connection: Connection,
    mut request: Request<Outgoing>,
    h2: bool,
    exchange: &mut Exchange,
    sending: &Arc<Sending>,
    again: impl Fn() -> Result<(Parts, Option<Widened>), Deny>,
) -> Result<(Response<Incoming>, Lease), Broken> {
    let (pool, policy) = (&context.sandbox.pool, &judged.rules.policy);
    let limits = policy.limits();
    let repeatable = request.method().is_safe() && request.body().is_end_stream();
    let mut connection = connection;
    for _ in 0..3 {
        let over_h2 = connection.is_h2();
        address(&mut request, key, over_h2)?;
        let used = connection.used;
        let attempt =
            Attempt { governed: key.is_governed(), asked_for_certificate: connection.asked_for_certificate };
        exchange.sent(true);
        exchange.wait();
        let sent = sending.patiently(pool.send(connection, key, request), limits).await;
        exchange.go_on();
        let sent = sent.map_err(|impatience| too_slow(&key.host, impatience, limits))?;
        let failed = match sent {
            Ok(answered) => return Ok(answered),
            Err(failed) => failed,
        };
        let dialled = match failed.unsent {
            Some(unsent) if used => {
                exchange.sent(false);
                request = unsent;
                exchange.wait();
                pool.get(policy, key, h2).await
            }
            None if failed.stale && repeatable && judged.rules.generation == context.sandbox.generation() => {
                tracing::debug!(host = %key.host, "a kept connection ended, the request is sent again");
                let upload = Upload::empty(exchange, limits, sending.clone(), &judged.rules);
                request = Request::from_parts(again()?.0, Box::new(upload));
                exchange.wait();
                pool.renewed(policy, key, h2).await
            }
            unsent => {
                // hyper writes no head whose body fails at once; HTTP/2 sends it before the reset.
                exchange.sent(unsent.is_none() && (over_h2 || sending.head_was_sent()));
                return Err(broken(&key.host, &failed.error, attempt).into());
            }
        };
        connection = dialled.map_err(|error| unreachable(&key.host, &error))?;
        exchange.go_on();
        exchange.note(|record| record.ip = Some(connection.address.ip()));
    }
    let message = format!("`{}` closes every connection at once", key.host);
    Err(refusal(Reason::UpstreamUnreachable, message).into())
}

/// What is said when a limit of time is used up before the origin answers.
fn too_slow(host: &Host, impatience: Impatience, limits: &Limits) -> Broken {
    let timeout = |message| refusal(Reason::UpstreamTimeout, message);
    match impatience {
        Impatience::Sandbox => Broken::idle(limits.idle_timeout),
        Impatience::Origin => {
            let message = format!(
                "`{host}` took nothing of the request's body for {:?}, which is \
                 limits.idle_timeout_seconds",
                limits.idle_timeout
            );
            Broken { deny: timeout(message), ends: Reason::IdleTimeout }
        }
        Impatience::Response => {
            let message = format!(
                "`{host}` did not begin to answer within {:?}, which is \
                 limits.response_timeout_seconds",
                limits.response_timeout
            );
            Broken { deny: timeout(message), ends: Reason::ResponseTimeout }
        }
    }
}

fn unreachable(host: &Host, error: &ConnectError) -> Deny {
    match error.denied() {
        Some(deny) => deny.clone(),
        None => refusal(error.reason(), format!("`{host}` could not be reached: {error}")),
    }
}

fn broken(host: &Host, error: &hyper::Error, attempt: Attempt) -> Deny {
    tracing::debug!(%host, %error, "exchange with the origin failed");
    // In TLS 1.3 an origin refuses the client's certificate, or the lack of one, only after the
    // handshake.
    let alert = tls_refusal::in_chain(error).filter(|error| matches!(error, rustls::Error::AlertReceived(_)));
    if alert.is_some() || attempt.asked_for_certificate && !error.is_parse() {
        let words = match alert {
            Some(alert) => tls_refusal::of_tls(alert, attempt),
            None => tls_refusal::certificate_missed(attempt),
        };
        return refusal(Reason::UpstreamTls, format!("`{host}` could not be reached: {words}"));
    }
    let what = if error.is_parse() {
        "gave an answer that is not valid HTTP"
    } else {
        "ended the connection without an answer"
    };
    refusal(Reason::UpstreamProtocol, format!("`{host}` {what}"))
}

/// Refuses before anything was sent.
async fn fail(
    context: &Context,
    judged: Judged,
    parts: &Parts,
    body: Incoming,
    deny: Deny,
    exchange: Exchange,
) -> Response<Download> {
    let denied = Denied { deny, rules: judged.rules, host: Some(judged.host), retry: false };
    refuse(context, parts, body, Box::new(denied), exchange).await
}
