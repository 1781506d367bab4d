//! Returns the origin's response to the sandbox. A response that breaks HTTP, or that cannot be
//! searched for keys, is refused; the rest is streamed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{
    ALT_SVC, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use http::{Response, StatusCode};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;
use interceptor_policy::Reason;
use interceptor_policy::redact::ranges::Widened;
use interceptor_policy::redact::{RedactError, Redactor};

use super::base_url::readdress;
use super::body::{BodySource, CutReason, Download, remove_cookies};
use super::exchange::{Exchange, TooManyEchoes};
use super::flight::Flight;
use super::inject::strip_hop_by_hop;
use super::offers::{self, Switch};
use super::redact::{BodyError, RedactResponse as _, RedactedBody, SHORT, is_coded};
use super::refuse::deny::refusal;
use super::refuse::{DECISION_HEADER, failed, own, too_many};
use super::upgrade::{Wires, switch};
use crate::credential::{KeyWatch, RealKey};
use crate::proxy::budget::Allowance;
use crate::tunnel::pulse::Pulse;
use crate::upstream::pool::Answer;

/// What the origin was asked for.
#[derive(Debug)]
pub(super) struct Requested {
    /// The protocol to switch to, and the sandbox's half of the connection.
    pub switch: Switch,
    pub upgrade: Option<OnUpgrade>,
    /// The requested range, if the response is searched for keys.
    pub range: Option<Widened>,
    /// How much may still be sent to this host.
    pub allowance: Option<Allowance>,
    /// The key that it carried.
    pub keyed: Option<Keyed>,
}

/// The key that a request carried.
#[derive(Debug)]
pub(super) struct Keyed {
    pub key: Arc<RealKey>,
    /// When it was taken.
    pub taken: Instant,
}

/// Passes on the origin's response.
pub(super) async fn respond(
    mut flight: Box<Flight<'_>>,
    mut response: Response<Answer>,
    asked: Requested,
) -> Response<Download> {
    // A reason phrase adds nothing to the status, and could carry a key.
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
    // Only a credential whose policy passes cookies may log the client in or echo who it is.
    let credential = flight.judged.allow.credential;
    if let (Some(id), Some(keyed)) = (credential, &asked.keyed)
        && matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    {
        flight.judged.rules.keyring.refused(id, keyed.taken);
    }
    let cookies = credential.is_none_or(|id| flight.policy().strip(id).passes_cookies());
    if !cookies {
        remove_cookies(response.headers_mut());
    }
    let sent = credential.zip(asked.keyed.as_ref().map(|keyed| keyed.key.clone()));
    let (redactor, watch) = match KeyWatch::begin(&flight.judged.rules.keyring, sent) {
        Ok(begun) => begun,
        Err(error) => return unsearched(flight, &error.to_string()),
    };
    let hidden = redactor.as_ref().and_then(|_| offers::hidden(&response));
    if let Some(problem) = unsound(&response).or(hidden) {
        let message = format!("the answer from `{}` {problem}", flight.host());
        return failed(flight, refusal(Reason::UpstreamProtocol, message).into());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switching(flight, response, asked, (redactor, watch));
    }
    tidy(&flight, response.headers_mut());
    flight.exchange.note(|record| record.status = Some(response.status().as_u16()));
    let patience = flight.limits().response_timeout;
    let response = match redactor {
        None => response.map(|body| BodySource::Origin(body, watch)),
        Some(redactor) => {
            let search = (&redactor, watch);
            match searched(&mut flight.exchange, response, search, asked.range, patience).await {
                Ok(response) => response.map(|body| BodySource::Redacted(Box::new(body))),
                Err(Unpassed::Beyond(length)) => return beyond(length, flight.exchange),
                Err(Unpassed::Unsearched(why)) => return unsearched(flight, &why),
                Err(Unpassed::TooMany(error)) => return too_many(flight, error),
            }
        }
    };
    let mut exchange = flight.exchange;
    exchange.forwarded();
    response.map(|source| {
        let body = Download::origin(source, exchange, patience);
        if cookies { body } else { body.without_cookies() }
    })
}

/// Switches to the requested protocol.
fn switching(
    flight: Box<Flight<'_>>,
    response: Response<Answer>,
    asked: Requested,
    search: (Option<Redactor>, KeyWatch),
) -> Response<Download> {
    let Requested { switch: protocol, upgrade, allowance, .. } = asked;
    match upgrade.filter(|_| protocol.taken_up(response.headers())) {
        Some(sandbox) => {
            let (redactor, watch) = search;
            let wires = Wires { sandbox, switch: protocol, redactor, watch, allowance };
            switch(flight, response, wires)
        }
        None => {
            let message =
                format!("`{}` switched to a protocol that was not requested", flight.host());
            failed(flight, refusal(Reason::UpstreamProtocol, message).into())
        }
    }
}

/// Removes headers that concern only the connection to the origin, and those that only the
/// interceptor may set.
fn tidy(flight: &Flight<'_>, headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(ALT_SVC);
    headers.remove(DECISION_HEADER);
    if let Some((based, _)) = &flight.judged.to.based {
        readdress(headers, flight.policy(), based);
    }
}

/// Why a response is not passed on.
enum Unpassed {
    /// The requested range starts beyond the end of the content, of this length.
    Beyond(Option<u64>),
    /// It cannot be searched for keys, for this reason.
    Unsearched(String),
    /// Too many keys have come back to the sandbox.
    TooMany(TooManyEchoes),
}

/// The response with keys removed.
async fn searched(
    exchange: &mut Exchange,
    response: Response<Answer>,
    (redactor, watch): (&Redactor, KeyWatch),
    range: Option<Widened>,
    patience: Duration,
) -> Result<Response<RedactedBody<Answer>>, Unpassed> {
    let announced = announced(response.headers());
    // Decoding changes the length, so the announced length says nothing about the decoded body.
    let coded = is_coded(response.headers());
    let mut response = redactor.answer(response, range).map_err(|error| match error {
        RedactError::Beyond(length) => Unpassed::Beyond(length),
        error => Unpassed::Unsearched(error.to_string()),
    })?;
    response.body_mut().follow(watch);
    if announced.is_some_and(|length| coded || length <= SHORT as u64)
        && !response.headers().contains_key(CONTENT_LENGTH)
        && !response.body().is_end_stream()
    {
        exchange.pause();
        let read = Box::pin(read_ahead(response.body_mut(), patience)).await;
        exchange.resume();
        match read {
            Ok(Some(length)) => {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            Ok(None) => {}
            Err(error) => {
                // Counted even though none of it is passed on.
                let _ = exchange.echoed(response.body().matches());
                return Err(Unpassed::Unsearched(error.to_string()));
            }
        }
    }
    exchange.echoed(response.body().matches()).map_err(Unpassed::TooMany)?;
    Ok(response)
}

/// The announced length of a response.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a short body before its head is sent.
async fn read_ahead(
    body: &mut RedactedBody<Answer>,
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
        () = pulse.silence(patience) => {
            Err(BodyError::Origin(Box::new(CutReason::Silent(patience))))
        }
    }
}

/// Answers that the range starts beyond the end of the content (RFC 9110 section 15.5.17). The
/// origin's response to the wider range is not read, so its connection is not reused.
fn beyond(length: Option<u64>, mut exchange: Exchange) -> Response<Download> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    let range = length.and_then(|length| HeaderValue::try_from(format!("bytes */{length}")).ok());
    if let Some(range) = range {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    exchange.forwarded();
    own(response, exchange)
}

/// Refuses a response that cannot be searched for keys.
fn unsearched(flight: Box<Flight<'_>>, why: &str) -> Response<Download> {
    let message = format!("the answer from `{}` was not passed on: {why}", flight.host());
    failed(flight, refusal(Reason::UpstreamProtocol, message).into())
}

/// What makes a response's framing ambiguous (RFC 9112 section 6.3).
fn unsound(response: &Response<Answer>) -> Option<&'static str> {
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
    let plain = |length: &HeaderValue| {
        length.as_bytes().iter().all(u8::is_ascii_digit) && !length.is_empty()
    };
    if lengths.next().is_some() || length.is_some_and(|length| !plain(length)) {
        return Some("has a Content-Length that is not one plain number");
    }
    None
}
