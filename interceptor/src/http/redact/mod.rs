//! Takes real keys out of what an origin answers, before the sandbox sees it.
//!
//! An origin may give a key back: a debugging endpoint that echoes the request, an error that
//! quotes a header, a redirect with a key in its query; another port of its host, or a host beside
//! it, may show it too. So every answer that the proxy opens is searched for every key of the
//! sandbox, whether a credential governs the host or not, and each key, literal or in the encodings
//! that `pattern` lists, is replaced by its placeholder: in header values, in the body and in
//! trailers, while they stream. The search itself is [`interceptor_policy::redact`]; bodies and
//! connections go through it here. It is the last line, not the only one: a key leaves only for its
//! own hosts, in one place of a request. A sandbox without keys pays nothing.
//!
//! # Content codings
//! `offers` asks origins for `accept-encoding: identity`, and nothing is encoded again on the way
//! to the sandbox, which is on this machine. Measured (see `benches/redact.rs`): looking for keys
//! costs 0.15 to 0.6 CPU seconds for a GiB of most texts and more in texts full of unusual escapes,
//! undoing gzip about 2, zstd 1.5 and brotli 1.3, and making gzip again about 50. Where an origin
//! encodes all the same, the body is decoded and goes on as identity: `content-encoding` and what
//! describes the encoded bytes are removed, also where no body comes (HEAD, 304), and `blocks` cuts
//! what was decoded anew: how well an answer compresses is not shown. A coding that cannot be
//! undone cannot be searched and is an error: [`RedactError`].
//!
//! # Lengths
//! Placeholders are as long as their keys where the keys are long enough. What is put in the place
//! of a shorter one is cut to its length where the length of the body is fixed: where it is
//! announced and long, where parts of it are promised or asked for, in gRPC messages. So
//! `content-length` stays true and stays. A short body that is announced, and one that was decoded,
//! is read before its head goes out (`RedactedBody::poll_read_ahead`) where its length may change;
//! a long decoded one is delimited by its framing. A body that is empty from the start (an answer
//! to HEAD, 204, 304) keeps its headers' description of what it would be, unless that is of encoded
//! bytes.
//!
//! # Ranges
//! See `ranges`.

mod blocks;
mod body;
mod decode;
mod guarded;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;
use interceptor_policy::redact::ranges::{Found, Widened, is_whole};
use interceptor_policy::redact::scan::Scanner;
use interceptor_policy::redact::{MessageError, RedactError, Redactor, digests, is_grpc};

pub use self::body::RedactedBody;
pub(crate) use self::decode::is_coded;
pub use self::guarded::Guarded;

/// A body that is announced as no longer than this is short: it is read before its head goes out
/// where its length may change.
pub(crate) const SHORT: usize = 64 * 1024;

/// What may go wrong below a body, of whatever type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a redacted body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The origin's body did.
    #[error("the origin's body broke off: {0}")]
    Origin(#[source] BoxError),
    /// What the origin sent is not what its `content-encoding` says.
    #[error("the origin's body does not decode: {0}")]
    Coding(#[source] io::Error),
    /// A message in it cannot be searched and passed on.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Redaction of responses, for a [`Redactor`].
pub trait RedactResponse {
    /// Redacts a response: its headers at once, its body and trailers as they stream.
    ///
    /// A body that is already at its end is left as it is, with its headers' description of it.
    ///
    /// # Errors
    /// The body has a content coding that cannot be undone; the response must not be passed on (502
    /// `upstream_protocol`).
    fn response<B>(&self, response: Response<B>) -> Result<Response<RedactedBody<B>>, RedactError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        self.answer(response, None)
    }

    /// As [`RedactResponse::response`], for a request of which this range was asked.
    ///
    /// # Errors
    /// As there, and where the origin sent another part than was asked for.
    fn answer<B>(
        &self,
        response: Response<B>,
        asked: Option<Widened>,
    ) -> Result<Response<RedactedBody<B>>, RedactError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>;
}

impl RedactResponse for Redactor {
    fn answer<B>(
        &self,
        response: Response<B>,
        asked: Option<Widened>,
    ) -> Result<Response<RedactedBody<B>>, RedactError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = response.into_parts();
        let partial = parts.status == StatusCode::PARTIAL_CONTENT;
        let scanner = Arc::clone(for_body(self, &parts.headers, partial));
        let (mut codings, mut cut, mut found) = (Vec::new(), None, 0);
        if !scanner.is_empty() {
            if is_unasked(&parts, asked.is_some()) {
                return Err(RedactError::Unasked);
            }
            found = self.headers(&mut parts.headers);
            // A status line's phrase is free text too, and no client needs it (RFC 9110 15).
            parts.extensions.remove::<hyper::ext::ReasonPhrase>();
            if !scanner.keeps_length() {
                parts.headers.remove(ACCEPT_RANGES);
            }
            if !body.is_end_stream() {
                codings = decode::codings(&parts.headers)?;
                if partial && !codings.is_empty() {
                    return Err(RedactError::CodedRange);
                }
                if let Some(asked) = asked.filter(|_| partial) {
                    match asked.find(&parts.headers)? {
                        Found::Part(part) => cut = Some(part.describe(&mut parts.headers)?),
                        Found::Beyond(length) => return Err(RedactError::Beyond(length)),
                    }
                }
                describe(&mut parts.headers, !codings.is_empty(), scanner.keeps_length());
            } else if asked.is_some() && partial {
                return Err(RedactError::Range);
            } else if is_coded(&parts.headers) {
                describe_nothing(&mut parts.headers);
            }
        }
        let body = RedactedBody::new(body, scanner, &parts.headers, &codings, cut, found);
        Ok(Response::from_parts(parts, body))
    }
}

/// What the body of an answer with these headers is searched with.
fn for_body<'a>(redactor: &'a Redactor, headers: &HeaderMap, partial: bool) -> &'a Arc<Scanner> {
    let length =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // How long encoded bytes are decides nothing that can be seen.
    let length = length.filter(|_| !is_coded(headers));
    let fixed = partial
        || headers.contains_key(ACCEPT_RANGES)
        || length.is_some_and(|length| length > SHORT as u64)
        || is_grpc(headers);
    if fixed { redactor.fitted() } else { redactor.scanner() }
}

/// Makes the headers describe the body that will be sent instead of the one that came.
fn describe(headers: &mut HeaderMap, decoded: bool, keeps_length: bool) {
    if decoded || !keeps_length {
        headers.remove(CONTENT_LENGTH);
    }
    if !decoded {
        return;
    }
    // A part of it would be one of the encoded bytes.
    headers.remove(ACCEPT_RANGES);
    headers.remove(CONTENT_ENCODING);
    digests::remove(headers);
    // A strong validator is one of the very bytes (RFC 9110 8.8.1).
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) {
        let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
        if let Ok(weak) = weak {
            headers.insert(ETAG, weak);
        }
    }
}

/// Takes the description of encoded bytes away where none are sent (HEAD, 304): how long they are
/// tells how well they compress, and so whether a text that the client chose stands in them twice.
fn describe_nothing(headers: &mut HeaderMap) {
    if headers.get(ETAG).is_some_and(|tag| tag.as_bytes().starts_with(b"\"")) {
        headers.remove(ETAG);
    }
    describe(headers, true, true);
}

/// Whether an answer is a part of something (RFC 9110 section 14, RFC 3229) that was not asked for
/// so. A part that is all of it borders nothing: an object's only one by `?partNumber=`.
fn is_unasked(parts: &http::response::Parts, asked: bool) -> bool {
    let partial = parts.status == StatusCode::PARTIAL_CONTENT;
    let several = |kind: &HeaderValue| {
        let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"multipart/byteranges")
    };
    let described = parts.headers.contains_key(CONTENT_RANGE);
    // With 416 it gives the whole length alone.
    let of_nothing = parts.status == StatusCode::RANGE_NOT_SATISFIABLE;
    partial && !asked && !is_whole(&parts.headers)
        || parts.status == StatusCode::IM_USED
        || described && !partial && !of_nothing
        || parts.headers.get_all(CONTENT_TYPE).iter().any(several)
}
