//! Sends a judged request to its origin and brings the answer back: built anew from what was judged, never relayed bytes.

use std::sync::Arc;

use http::header::{
    ALT_SVC, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;

use super::address::address;
use super::body::{Download, Source};
use super::context::Context;
use super::exchange::Exchange;
use super::inject::{inject, strip_hop_by_hop};
use super::refuse::{About, DECISION_HEADER, answer, refusal};
use super::serve::{Denied, Judged, asks_for_upgrade, head_bytes, refuse};
use super::trailers::Trailers;
use super::upload::{Broken, Impatience, Sending, Upload};
use super::{dialect, upgrade};
use crate::audit::Protocol;
use crate::policy::{Deny, Filter, Host, Limits, Reason};
use crate::proxy::budget::{Allowance, Exceeded};
use crate::upstream::pool::{ConnectError, Connection, Key, Lease};

/// The headers by which frameworks let a request say that it is of another method (SPEC 2).
pub(crate) const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

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
    let websocket = is_websocket(&parts);
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
    let head = match outgoing(&judged, &parts, websocket) {
        Ok(head) => head,
        Err(deny) => return fail(context, judged, &parts, body, deny, exchange).await,
    };
    // A WebSocket begins on HTTP/1.1 (RFC 6455); everything else speaks upstream what the sandbox speaks, if the origin does.
    let h2 = context.protocol == Protocol::H2 && !websocket;
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
        if websocket {
            record.protocol = Some(Protocol::Ws);
        }
    });
    let governing = judged.rules.policy.governing(judged.scheme, &judged.host, judged.port);
    let trailers = Trailers::new(judged.rules.clone(), judged.allow.credential, governing);
    let upload = Upload::new(body, &mut exchange, limits, allowance.clone(), trailers);
    let sending = upload.sending();
    let request = Request::from_parts(head, upload);
    let sent =
        exchange_with(context, &judged, &key, connection, request, h2, &mut exchange, limits, &sending);
    match sent.await {
        Ok((response, lease)) => {
            sending.answered();
            let asked = upgrade.filter(|_| websocket);
            respond(context, &judged, &parts, response, lease, asked, allowance, exchange)
        }
        Err(failure) => {
            let failure = sending.broken().cloned().unwrap_or(failure);
            answer_broken(&judged, &parts, failure, exchange)
        }
    }
}

fn is_websocket(parts: &Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && parts.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && asks_for_upgrade(&parts.headers)
}

/// The head that the origin gets: built from what was judged.
fn outgoing(judged: &Judged, parts: &Parts, websocket: bool) -> Result<Parts, Deny> {
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
    if websocket {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(head)
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
    limits: &Limits,
    sending: &Sending,
) -> Result<(Response<Incoming>, Lease), Broken> {
    let pool = &context.sandbox.pool;
    let mut connection = connection;
    for _ in 0..3 {
        let over_h2 = connection.is_h2();
        address(&mut request, key, over_h2)?;
        let used = connection.used;
        exchange.sent(true);
        exchange.wait();
        let sent = sending.patiently(pool.send(connection, key, request), limits).await;
        exchange.go_on();
        let sent = sent.map_err(|impatience| too_slow(&key.host, impatience, limits))?;
        match sent {
            Ok(answered) => return Ok(answered),
            Err(mut error) => match error.take_message() {
                Some(unsent) if used => {
                    exchange.sent(false);
                    request = unsent;
                    exchange.wait();
                    connection = match pool.get(&judged.rules.policy, key, h2).await {
                        Ok(connection) => connection,
                        Err(error) => return Err(unreachable(&key.host, &error).into()),
                    };
                    exchange.go_on();
                }
                unsent => {
                    // hyper writes no head whose body fails at once; HTTP/2 sends it before the reset.
                    exchange.sent(unsent.is_none() && (over_h2 || sending.head_was_sent()));
                    return Err(broken(&key.host, error.error()).into());
                }
            },
        }
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

fn broken(host: &Host, error: &hyper::Error) -> Deny {
    tracing::debug!(%host, %error, "an exchange with an origin failed");
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

/// Says what became of a request that was let through and not answered.
pub(crate) fn answer_failure(
    judged: &Judged,
    parts: &Parts,
    deny: Deny,
    exchange: Exchange,
) -> Response<Download> {
    answer_broken(judged, parts, deny.into(), exchange)
}

/// As [`answer_failure`], where the record says more exactly than the answer what it was.
fn answer_broken(
    judged: &Judged,
    parts: &Parts,
    failure: Broken,
    mut exchange: Exchange,
) -> Response<Download> {
    let Broken { deny, ends } = failure;
    exchange.failed(&deny, ends);
    let host = judged.host.to_string();
    let credential = judged.allow.credential.map(|id| judged.rules.policy.credential(id).name.as_str());
    let about = About {
        host: Some(&host),
        method: Some(parts.method.as_str()),
        path: Some(parts.uri.path()),
        credential,
        retry: false,
    };
    let close = matches!(deny.reason, Reason::LimitExceeded | Reason::RequestMalformed);
    let mut response = answer(&deny, about, exchange.id(), parts.version, close);
    // What it sent is on its way to the origin.
    let asked = dialect::Asked { headers: &parts.headers, uri: &parts.uri, body: &[] };
    dialect::speak(&mut response, &asked, &deny);
    super::serve::own(response, exchange)
}

/// What makes the framing of an answer ambiguous (RFC 9112 section 6.3), or hides its content from the search for keys.
fn unsound(response: &Response<Incoming>) -> Option<&'static str> {
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    if codings.next().is_some()
        || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Some("has a Transfer-Encoding other than a single `chunked`");
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if coding.is_some() && length.is_some() {
        return Some("has both Content-Length and Transfer-Encoding");
    }
    let plain = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit) && !length.is_empty();
    if lengths.next().is_some() || length.is_some_and(|length| !plain(length)) {
        return Some("has a Content-Length that is not one plain number");
    }
    None
}

/// The origin's answer for the sandbox.
#[expect(clippy::too_many_arguments, reason = "the last step of the pipeline, split off for its length")]
fn respond(
    context: &Arc<Context>,
    judged: &Judged,
    parts: &Parts,
    mut response: Response<Incoming>,
    lease: Lease,
    upgrade: Option<OnUpgrade>,
    allowance: Option<Allowance>,
    mut exchange: Exchange,
) -> Response<Download> {
    let limits = judged.rules.policy.limits();
    // A phrase says nothing that the status does not, and is a place for a key to come back in.
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
    if let Some(problem) = unsound(&response) {
        let deny = refusal(Reason::UpstreamProtocol, format!("the answer of `{}` {problem}", judged.host));
        return answer_failure(judged, parts, deny, exchange);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let taken_up = response.headers().get(UPGRADE);
        let websocket = taken_up.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        return match upgrade.filter(|_| websocket) {
            Some(sandbox) => upgrade::switch(context, judged, parts, response, sandbox, allowance, exchange),
            None => {
                let message = format!("`{}` switched to a protocol that nobody asked for", judged.host);
                let deny = refusal(Reason::UpstreamProtocol, message);
                answer_failure(judged, parts, deny, exchange)
            }
        };
    }
    let headers = response.headers_mut();
    strip_hop_by_hop(headers);
    headers.remove(ALT_SVC);
    headers.remove(DECISION_HEADER);
    if let Some(based) = &judged.based {
        super::base_url::readdress(headers, &judged.rules.policy, based);
    }
    exchange.note(|record| record.status = Some(response.status().as_u16()));
    let redacted = match judged.redactor() {
        None => {
            exchange.forwarded();
            return response.map(|body| {
                Download::origin(Source::Origin(body), exchange, lease, limits.response_timeout)
            });
        }
        Some(Ok(redactor)) => redactor.response(response),
        Some(Err(error)) => Err(error),
    };
    match redacted {
        Ok(response) => {
            exchange.forwarded();
            response.map(|body| {
                let source = Source::Redacted(Box::new(body));
                Download::origin(source, exchange, lease, limits.response_timeout)
            })
        }
        Err(error) => {
            let deny = refusal(
                Reason::UpstreamProtocol,
                format!("the answer of `{}` was not passed on: {error}", judged.host),
            );
            answer_failure(judged, parts, deny, exchange)
        }
    }
}
