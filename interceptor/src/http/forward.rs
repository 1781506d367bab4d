//! Sends a judged request to its origin and brings the answer back: built anew from what was judged, never relayed bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue, TE, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use super::answer::{Asked, answer_failure, respond};
use super::body::{Download, Fate, Upload};
use super::context::Context;
use super::exchange::Exchange;
use super::inject::{inject, strip_hop_by_hop};
use super::offers::{self, Switch};
use super::redact::ranges::Widened;
use super::refuse::refusal;
use super::serve::{Denied, Judged, head_bytes, refuse};
use crate::audit::Protocol;
use crate::policy::{Deny, Filter, Host, Reason, Scheme};
use crate::proxy::budget::Exceeded;
use crate::tls::refusal::{self as tls_refusal, Attempt};
use crate::tunnel::silence;
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
    let fate = Arc::new(AtomicU8::new(0));
    let switch = Switch::asked(&parts);
    let (generation, credential) = (judged.rules.generation, judged.allow.credential);
    let key = Key::new(generation, judged.scheme, judged.host.clone(), judged.port, credential);
    let allowance = match context.sandbox.budget.spend(&judged.host, head_bytes(&parts), limits) {
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
        return fail(context, judged, &parts, body, body_too_large(most), exchange).await;
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
    exchange.note(|record| {
        record.ip = Some(connection.address.ip());
        match switch {
            Switch::None => {}
            Switch::WebSocket => record.protocol = Some(Protocol::Ws),
            Switch::Other(_) => record.protocol = Some(Protocol::Tcp),
        }
    });
    let upload = Upload::new(body, &exchange, limits, fate.clone(), allowance.clone());
    let request = Request::from_parts(head, upload);
    let sent =
        exchange_with(context, &judged, &key, connection, request, h2, &mut exchange, limits.idle_timeout);
    match sent.await {
        Ok((response, lease)) => {
            let asked = Asked { switch, upgrade, range, allowance };
            respond(context, &judged, &parts, response, lease, asked, exchange).await
        }
        Err(failure) => {
            let deny = match Fate::of(&fate) {
                Fate::TooLarge => body_too_large(limits.body_bytes.unwrap_or_default()),
                Fate::Spent => {
                    let exceeded = Exceeded::Bytes(limits.bytes_up_per_host.unwrap_or_default());
                    refusal(Reason::LimitExceeded, exceeded.to_string())
                }
                Fate::Broken => refusal(
                    Reason::RequestMalformed,
                    "the body of the request is malformed or broke off; it was not sent to its end"
                        .to_owned(),
                ),
                Fate::Fine => failure,
            };
            answer_failure(&judged, &parts, deny, exchange)
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
fn target(path: &str, sent: &Uri) -> Result<Uri, Deny> {
    let as_sent = sent.path_and_query().filter(|target| target.path() == path).cloned();
    let target = match as_sent {
        Some(target) => target,
        None => {
            let text = match sent.query() {
                Some(query) => format!("{path}?{query}"),
                None => path.to_owned(),
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

/// `Host`, or the authority of an HTTP/2 request: what was judged, with its port where that is not the scheme's own.
fn authority(key: &Key) -> String {
    let host = match &key.host {
        Host::Ip(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        host => host.to_string(),
    };
    if key.port == key.scheme.default_port() { host } else { format!("{host}:{}", key.port) }
}

/// Fits the head to the protocol of the connection it goes out on.
fn address<B>(request: &mut Request<B>, key: &Key, h2: bool) -> Result<(), Deny> {
    let malformed = |_| Deny {
        reason: Reason::RequestMalformed,
        status: Reason::RequestMalformed.status(),
        filter: Filter::Request,
        rule: None,
        credential: None,
        message: "the host cannot stand in a request".to_owned(),
        nearest: None,
    };
    let authority = authority(key);
    if h2 {
        let mut uri = request.uri().clone().into_parts();
        uri.scheme = Some(match key.scheme {
            Scheme::Http => http::uri::Scheme::HTTP,
            Scheme::Https => http::uri::Scheme::HTTPS,
        });
        uri.authority = Some(authority.parse().map_err(|_| malformed(()))?);
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| malformed(()))?;
        request.headers_mut().remove(HOST);
        *request.version_mut() = Version::HTTP_2;
    } else {
        let value = HeaderValue::try_from(authority).map_err(|_| malformed(()))?;
        // A request that was meant for HTTP/2 and is sent again carries scheme and authority in its target.
        if request.uri().authority().is_some() {
            let target = request.uri().path_and_query().cloned();
            *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
        }
        request.headers_mut().insert(HOST, value);
        // A field that concerns this connection is named as such (RFC 9110 section 10.1.4).
        if request.headers().contains_key(TE) && !request.headers().contains_key(CONNECTION) {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
        }
        *request.version_mut() = Version::HTTP_11;
    }
    Ok(())
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

/// Sends the request, once more if a kept connection turned out to be closed before any of it was sent.
#[expect(clippy::too_many_arguments, reason = "one step of the pipeline, split off for its loop")]
async fn exchange_with(
    context: &Context,
    judged: &Judged,
    key: &Key,
    connection: Connection,
    mut request: Request<Upload>,
    h2: bool,
    exchange: &mut Exchange,
    idle: Duration,
) -> Result<(Response<Incoming>, Lease), Deny> {
    let pool = &context.sandbox.pool;
    let mut connection = connection;
    for _ in 0..3 {
        address(&mut request, key, connection.is_h2())?;
        let used = connection.used;
        let attempt =
            Attempt { governed: key.is_governed(), asked_for_certificate: connection.asked_for_certificate };
        let sending = pool.send(connection, key, request);
        exchange.wait();
        let sent = patiently(sending, exchange, idle).await;
        exchange.go_on();
        let sent = match sent {
            Some(sent) => sent,
            None => {
                let message = format!("`{}` did not begin to answer within {idle:?}", key.host);
                return Err(refusal(Reason::UpstreamTimeout, message));
            }
        };
        match sent {
            Ok(answered) => return Ok(answered),
            Err(mut error) => match error.take_message() {
                Some(unsent) if used => {
                    request = unsent;
                    exchange.wait();
                    connection = match pool.get(&judged.rules.policy, key, h2).await {
                        Ok(connection) => connection,
                        Err(error) => return Err(unreachable(&key.host, &error)),
                    };
                    exchange.go_on();
                }
                _ => return Err(broken(&key.host, error.error(), attempt)),
            },
        }
    }
    Err(refusal(Reason::UpstreamUnreachable, format!("`{}` closes every connection at once", key.host)))
}

/// Waits for the head of the answer as long as the request itself moves, or `idle` after it stopped moving.
async fn patiently<F: Future>(sending: F, exchange: &Exchange, idle: Duration) -> Option<F::Output> {
    let up = exchange.up();
    tokio::select! {
        output = sending => Some(output),
        () = silence(|| up.load(Ordering::Relaxed), idle) => None,
    }
}

fn body_too_large(most: u64) -> Deny {
    Deny {
        status: 413,
        ..refusal(
            Reason::LimitExceeded,
            format!(
                "the body goes beyond the {most} bytes that one request may send; send less, or raise limits.body_bytes"
            ),
        )
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
