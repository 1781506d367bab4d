//! Removes real keys from an origin's responses before the sandbox sees them.
//!
//! An origin may return a key: a debugging endpoint that echoes the request, an error that quotes a
//! header, a redirect with a key in its query. Another port of the host, or a related host, may
//! return it too. So every response that the proxy can read is searched for every key of the
//! sandbox, whether a credential governs the host or not. Each key, literal or in an encoding that
//! `pattern` lists, is replaced by its placeholder: in header values, body and trailers, as they
//! stream. The search itself is [`interceptor_policy::redact`]; this module applies it to bodies
//! and connections. It is the last line of defence, not the only one: a key is sent only to its own
//! hosts, in one place of a request. A sandbox without keys pays nothing.
//!
//! # Content codings
//! `offers` asks origins for `accept-encoding: identity`, and nothing is encoded again on the way
//! to the sandbox, which is on the same machine. Measured (see `benches/redact.rs`): searching 1
//! GiB takes 0.15 to 0.6 CPU seconds for most texts, more for texts full of unusual escapes.
//! Decoding takes about 2 for gzip, 1.5 for zstd and 1.3 for brotli; encoding gzip again would take
//! about 50. If an origin encodes a body anyway, it is decoded and passed on as identity.
//! `content-encoding` and everything that describes the encoded bytes are removed, even without a
//! body (HEAD, 304), and `blocks` re-chunks the decoded body, so that nothing shows how well a
//! response compresses. A body whose coding cannot be undone cannot be searched, which is an error:
//! [`RedactError`].
//!
//! # Lengths
//! A placeholder is as long as its key if the key is long enough. The replacement for a shorter key
//! is cut to the key's length if the length of the body is fixed: if it is announced and long, if
//! ranges of it are offered or requested, and in gRPC messages. So `content-length` stays correct
//! and is kept. A short announced body, or a decoded one, whose length may change is read before
//! its head is sent (`RedactedBody::poll_read_ahead`); a long decoded one is delimited by its
//! framing. A body that is empty from the start (HEAD, 204, 304) keeps the headers that describe
//! the full body, unless they describe encoded bytes.
//!
//! # Ranges
//! See `ranges`.

mod blocks;
mod body;
mod decode;
mod error;
mod guarded;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body;
use interceptor_policy::redact::ranges::{Found, Widened, is_whole};
use interceptor_policy::redact::{LateKey, RedactError, Redactor, digests, is_grpc};

pub use self::body::RedactedBody;
use self::body::{PartCut, Searching};
pub(crate) use self::decode::is_coded;
pub use self::error::{BodyError, BoxError};
pub use self::guarded::Guarded;
pub(crate) use self::guarded::Unguarded;

/// A body announced as no longer than this is short: if its length may change, it is read before
/// its head is sent.
pub(crate) const SHORT: usize = 64 * 1024;

/// Redaction of responses with a [`Redactor`].
pub trait RedactResponse {
    /// Redacts a response: its headers at once, its body and trailers as they stream.
    ///
    /// If the body is already at its end, it and the headers that describe it are left unchanged.
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

    /// Like [`RedactResponse::response`], for a request that asked for this range.
    ///
    /// # Errors
    /// The same, or the origin sent a different range than requested.
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
        let mut fixed = is_fixed(&parts.headers, partial);
        let scanner = Arc::clone(if fixed { self.fitted() } else { self.scanner() });
        let (mut codings, mut cut, mut found) = (Vec::new(), None, 0);
        if !scanner.is_empty() {
            if is_unasked(&parts, asked.is_some()) {
                return Err(RedactError::Unasked);
            }
            found = self.headers(&mut parts.headers);
            // The reason phrase is free text too, and no client needs it (RFC 9110 15).
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
                    if self.reach() > asked.margin() {
                        return Err(LateKey.into());
                    }
                    match asked.find(&parts.headers)? {
                        Found::Part(part) => {
                            let margin = asked.margin();
                            cut = Some(PartCut { cut: part.describe(&mut parts.headers)?, margin });
                        }
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
        // A short body that keeps its length keeps what announces it.
        fixed |= parts.headers.contains_key(CONTENT_LENGTH);
        let how = Searching { scanner, fixed, codings, cut, in_head: found };
        let body = RedactedBody::new(body, &parts.headers, how);
        Ok(Response::from_parts(parts, body))
    }
}

/// Whether replacements must keep the length of a body with these headers.
fn is_fixed(headers: &HeaderMap, partial: bool) -> bool {
    let length =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // The length of encoded bytes must not decide anything visible.
    let length = length.filter(|_| !is_coded(headers));
    partial
        || headers.contains_key(ACCEPT_RANGES)
        || length.is_some_and(|length| length > SHORT as u64)
        || is_grpc(headers)
}

/// Makes the headers describe the body that will be sent instead of the one received.
fn describe(headers: &mut HeaderMap, decoded: bool, keeps_length: bool) {
    if decoded || !keeps_length {
        headers.remove(CONTENT_LENGTH);
    }
    if !decoded {
        return;
    }
    // Its ranges would be ranges of the encoded bytes.
    headers.remove(ACCEPT_RANGES);
    headers.remove(CONTENT_ENCODING);
    digests::remove(headers);
    // A strong validator identifies the exact bytes (RFC 9110 8.8.1).
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) {
        let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
        if let Ok(weak) = weak {
            headers.insert(ETAG, weak);
        }
    }
}

/// Removes headers that describe encoded bytes when none are sent (HEAD, 304): their length tells
/// how well the content compresses, and so whether a text chosen by the client repeats in it.
fn describe_nothing(headers: &mut HeaderMap) {
    if headers.get(ETAG).is_some_and(|tag| tag.as_bytes().starts_with(b"\"")) {
        headers.remove(ETAG);
    }
    describe(headers, true, true);
}

/// Whether a response is partial content (RFC 9110 section 14, RFC 3229) without having been
/// requested. A range that covers the whole content is not partial: an object's only part by
/// `?partNumber=`.
fn is_unasked(parts: &http::response::Parts, asked: bool) -> bool {
    let partial = parts.status == StatusCode::PARTIAL_CONTENT;
    let several = |kind: &HeaderValue| {
        let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"multipart/byteranges")
    };
    let described = parts.headers.contains_key(CONTENT_RANGE);
    // With 416, it states only the full length.
    let of_nothing = parts.status == StatusCode::RANGE_NOT_SATISFIABLE;
    partial && !asked && !is_whole(&parts.headers)
        || parts.status == StatusCode::IM_USED
        || described && !partial && !of_nothing
        || parts.headers.get_all(CONTENT_TYPE).iter().any(several)
}
