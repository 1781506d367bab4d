//! The origin's answer for the sandbox: what breaks the rules of HTTP or hides from the search for keys is refused, the rest goes on as
//! it comes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ALT_SVC, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use interceptor_policy::redact::RedactError;
use interceptor_policy::redact::ranges::Widened;
use interceptor_policy::{Deny, Reason};

use super::body::{Cut, Download, Source, remove_cookies};
use super::context::Context;
use super::exchange::{Exchange, TooManyEchoes};
use super::inject::strip_hop_by_hop;
use super::offers::{self, Switch};
use super::redact::{BodyError, RedactResponse as _, RedactedBody, SHORT, is_coded};
use super::refuse::{About, DECISION_HEADER, answer, refusal};
use super::serve::Judged;
use super::upload::Broken;
use super::{dialect, upgrade};
use crate::proxy::budget::Allowance;
use crate::tunnel::pulse::Pulse;
use crate::upstream::pool::Lease;

/// What was asked of the origin.
#[derive(Debug)]
pub(super) struct Asked {
    /// The protocol to switch to, with the sandbox's half of the connection.
    pub switch: Switch,
    pub upgrade: Option<OnUpgrade>,
    /// The range, where keys are looked for.
    pub range: Option<Widened>,
    /// What may still be sent to this host.
    pub allowance: Option<Allowance>,
}

/// Passes on what the origin answered.
pub(super) async fn respond(
    context: &Arc<Context>,
    judged: &Judged,
    parts: &Parts,
    mut response: Response<Incoming>,
    lease: Lease,
    asked: Asked,
    mut exchange: Exchange,
) -> Response<Download> {
    // A phrase says nothing that the status does not, and is a place for a key to come back in.
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
    // An answer that makes the client somebody, or quotes who it is, is the credential's business alone.
    let credential = judged.allow.credential;
    let cookies = credential.is_none_or(|id| judged.rules.policy.strip(id).passes_cookies());
    if !cookies {
        remove_cookies(response.headers_mut());
    }
    let pass = |body: Download| if cookies { body } else { body.without_cookies() };
    let redactor = match judged.rules.keyring.redactor() {
        Ok(redactor) => redactor,
        Err(error) => return unsearched(judged, parts, &error.to_string(), exchange),
    };
    let hidden = redactor.as_ref().and_then(|_| offers::hidden(&response));
    if let Some(problem) = unsound(&response).or(hidden) {
        let deny = refusal(Reason::UpstreamProtocol, format!("the answer of `{}` {problem}", judged.host));
        return answer_failure(judged, parts, deny, exchange);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Asked { switch, upgrade, allowance, .. } = asked;
        return match upgrade.filter(|_| switch.taken_up(response.headers())) {
            Some(sandbox) => {
                let wires = upgrade::Wires { sandbox, switch, redactor, allowance };
                upgrade::switch(context, judged, parts, response, wires, exchange)
            }
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
    let patience = judged.rules.policy.limits().response_timeout;
    let Some(redactor) = redactor else {
        exchange.forwarded();
        return response.map(|body| pass(Download::origin(Source::Origin(body), exchange, lease, patience)));
    };
    let announced = announced(response.headers());
    // A decoded body is short or long by its own length, never by that of the encoded bytes.
    let coded = is_coded(response.headers());
    let mut response = match redactor.answer(response, asked.range) {
        Ok(response) => response,
        Err(RedactError::Beyond(length)) => return beyond(length, exchange),
        Err(error) => return unsearched(judged, parts, &error.to_string(), exchange),
    };
    if announced.is_some_and(|length| coded || length <= SHORT as u64)
        && !response.headers().contains_key(CONTENT_LENGTH)
        && !response.body().is_end_stream()
    {
        exchange.wait();
        let read = read_ahead(response.body_mut(), patience).await;
        exchange.go_on();
        match read {
            Ok(Some(length)) => {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Ok(None) => {}
            Err(error) => {
                // Counted, though nothing of it is passed on.
                let _ = exchange.echoed(response.body().matches());
                return unsearched(judged, parts, &error.to_string(), exchange);
            }
        }
    }
    if let Err(error) = exchange.echoed(response.body().matches()) {
        return too_many(judged, parts, error, exchange);
    }
    exchange.forwarded();
    response.map(|body| pass(Download::origin(Source::Redacted(Box::new(body)), exchange, lease, patience)))
}

/// The length that an answer announces.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a short body before its head goes out.
async fn read_ahead(
    body: &mut RedactedBody<Incoming>,
    patience: Duration,
) -> Result<Option<usize>, BodyError> {
    let (mut read, mut length, pulse) = (BytesMut::new(), 0, Pulse::default());
    let reading = std::future::poll_fn(|cx| {
        let polled = body.poll_read_ahead(cx, &mut read, SHORT);
        if read.len() > length {
            length = read.len();
            pulse.beat();
        }
        polled
    });
    tokio::select! {
        read = reading => read,
        () = pulse.silence(patience) => Err(BodyError::Origin(Box::new(Cut::Silent(patience)))),
    }
}

/// What was asked for lies beyond the end of what there is (RFC 9110 section 15.5.17). The connection to the origin, whose answer to
/// the wider question is not read, is not used again.
fn beyond(length: Option<u64>, mut exchange: Exchange) -> Response<Download> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    let range = length.and_then(|length| HeaderValue::try_from(format!("bytes */{length}")).ok());
    if let Some(range) = range {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    exchange.forwarded();
    super::serve::own(response, exchange)
}

/// The answer cannot be searched for keys.
fn unsearched(judged: &Judged, parts: &Parts, why: &str, exchange: Exchange) -> Response<Download> {
    let message = format!("the answer of `{}` was not passed on: {why}", judged.host);
    answer_failure(judged, parts, refusal(Reason::UpstreamProtocol, message), exchange)
}

/// The sandbox has seen too many keys come back.
pub(super) fn too_many(
    judged: &Judged,
    parts: &Parts,
    error: TooManyEchoes,
    exchange: Exchange,
) -> Response<Download> {
    let message = format!("the answer of `{}` was not passed on: {error}", judged.host);
    // The origin has received the request, which the policy permits: so it stays recorded.
    told(judged, parts, refusal(Reason::LimitExceeded, message), exchange)
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
pub(super) fn answer_broken(
    judged: &Judged,
    parts: &Parts,
    failure: Broken,
    mut exchange: Exchange,
) -> Response<Download> {
    let Broken { deny, ends } = failure;
    exchange.failed(&deny, ends);
    told(judged, parts, deny, exchange)
}

/// Tells the sandbox, whatever is recorded.
fn told(judged: &Judged, parts: &Parts, deny: Deny, exchange: Exchange) -> Response<Download> {
    let host = judged.host.to_string();
    let credential = judged.allow.credential.map(|id| judged.rules.policy.credential(id).name.as_str());
    let about = About {
        host: Some(&host),
        method: Some(parts.method.as_str()),
        path: Some(parts.uri.path()),
        credential,
        retry: false,
    };
    // As for every refusal, a client that asked for another protocol has no second request for this connection.
    let close = matches!(deny.reason, Reason::LimitExceeded | Reason::RequestMalformed)
        || parts.headers.contains_key(UPGRADE);
    let mut response = answer(&deny, about, exchange.id(), parts.version, close);
    // What it sent is on its way to the origin.
    let asked = dialect::Asked { headers: &parts.headers, uri: &parts.uri, body: &[] };
    dialect::speak(&mut response, &asked, &deny);
    super::serve::own(response, exchange)
}

/// What makes the framing of an answer ambiguous (RFC 9112 section 6.3).
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
