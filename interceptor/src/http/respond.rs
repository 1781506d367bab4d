//! The origin's answer for the sandbox: what breaks the rules of HTTP or hides from the search for
//! keys is refused, the rest goes on as it comes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{
    ALT_SVC, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use http::{Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use interceptor_policy::Reason;
use interceptor_policy::redact::ranges::Widened;
use interceptor_policy::redact::{RedactError, Redactor};

use super::base_url::readdress;
use super::body::{Cut, Download, Source, remove_cookies};
use super::exchange::{Exchange, TooManyEchoes};
use super::flight::Flight;
use super::inject::strip_hop_by_hop;
use super::offers::{self, Switch};
use super::redact::{BodyError, RedactResponse as _, RedactedBody, SHORT, is_coded};
use super::refuse::deny::refusal;
use super::refuse::{DECISION_HEADER, failed, own, too_many};
use super::upgrade::{Wires, switch};
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
    mut flight: Flight<'_>,
    mut response: Response<Incoming>,
    lease: Lease,
    asked: Asked,
) -> Response<Download> {
    // A phrase says nothing that the status does not, and is a place for a key to come back in.
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
    // An answer that makes the client somebody, or quotes who it is, is the credential's business
    // alone.
    let credential = flight.judged.allow.credential;
    let cookies = credential.is_none_or(|id| flight.policy().strip(id).passes_cookies());
    if !cookies {
        remove_cookies(response.headers_mut());
    }
    let redactor = match flight.judged.rules.keyring.redactor() {
        Ok(redactor) => redactor,
        Err(error) => return unsearched(flight, &error.to_string()),
    };
    let hidden = redactor.as_ref().and_then(|_| offers::hidden(&response));
    if let Some(problem) = unsound(&response).or(hidden) {
        let message = format!("the answer of `{}` {problem}", flight.host());
        return failed(flight, refusal(Reason::UpstreamProtocol, message).into());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switching(flight, response, asked, redactor);
    }
    tidy(&flight, response.headers_mut());
    flight.exchange.note(|record| record.status = Some(response.status().as_u16()));
    let patience = flight.limits().response_timeout;
    let response = match redactor {
        None => response.map(Source::Origin),
        Some(redactor) => {
            match searched(&mut flight.exchange, response, &redactor, asked.range, patience).await {
                Ok(response) => response.map(|body| Source::Redacted(Box::new(body))),
                Err(Unpassed::Beyond(length)) => return beyond(length, flight.exchange),
                Err(Unpassed::Unsearched(why)) => return unsearched(flight, &why),
                Err(Unpassed::TooMany(error)) => return too_many(flight, error),
            }
        }
    };
    let mut exchange = flight.exchange;
    exchange.forwarded();
    response.map(|source| {
        let body = Download::origin(source, exchange, lease, patience);
        if cookies { body } else { body.without_cookies() }
    })
}

/// Goes on in the protocol that was asked for.
fn switching(
    flight: Flight<'_>,
    response: Response<Incoming>,
    asked: Asked,
    redactor: Option<Redactor>,
) -> Response<Download> {
    let Asked { switch: protocol, upgrade, allowance, .. } = asked;
    match upgrade.filter(|_| protocol.taken_up(response.headers())) {
        Some(sandbox) => {
            switch(flight, response, Wires { sandbox, switch: protocol, redactor, allowance })
        }
        None => {
            let message =
                format!("`{}` switched to a protocol that nobody asked for", flight.host());
            failed(flight, refusal(Reason::UpstreamProtocol, message).into())
        }
    }
}

/// Takes out of a head what concerns the connection to the origin alone, and what only the
/// interceptor says.
fn tidy(flight: &Flight<'_>, headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(ALT_SVC);
    headers.remove(DECISION_HEADER);
    if let Some((based, _)) = &flight.judged.to.based {
        readdress(headers, flight.policy(), based);
    }
}

/// Why an answer is not passed on.
enum Unpassed {
    /// What was asked for lies beyond the end of what there is, so long.
    Beyond(Option<u64>),
    /// It cannot be searched for keys, and why.
    Unsearched(String),
    /// The sandbox has seen too many keys come back.
    TooMany(TooManyEchoes),
}

/// The answer with keys taken out of it.
async fn searched(
    exchange: &mut Exchange,
    response: Response<Incoming>,
    redactor: &Redactor,
    range: Option<Widened>,
    patience: Duration,
) -> Result<Response<RedactedBody<Incoming>>, Unpassed> {
    let announced = announced(response.headers());
    // A decoded body is short or long by its own length, never by that of the encoded bytes.
    let coded = is_coded(response.headers());
    let mut response = redactor.answer(response, range).map_err(|error| match error {
        RedactError::Beyond(length) => Unpassed::Beyond(length),
        error => Unpassed::Unsearched(error.to_string()),
    })?;
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
                return Err(Unpassed::Unsearched(error.to_string()));
            }
        }
    }
    exchange.echoed(response.body().matches()).map_err(Unpassed::TooMany)?;
    Ok(response)
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

/// What was asked for lies beyond the end of what there is (RFC 9110 section 15.5.17). The
/// connection to the origin, whose answer to the wider question is not read, is not used again.
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

/// The answer cannot be searched for keys.
fn unsearched(flight: Flight<'_>, why: &str) -> Response<Download> {
    let message = format!("the answer of `{}` was not passed on: {why}", flight.host());
    failed(flight, refusal(Reason::UpstreamProtocol, message).into())
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
    let plain = |length: &HeaderValue| {
        length.as_bytes().iter().all(u8::is_ascii_digit) && !length.is_empty()
    };
    if lengths.next().is_some() || length.is_some_and(|length| !plain(length)) {
        return Some("has a Content-Length that is not one plain number");
    }
    None
}
