//! Takes real keys out of what an origin answers, before the sandbox sees it.
//!
//! An origin may give a key back: a debugging endpoint that echoes the request, an error that quotes a header, a redirect
//! with a key in its query. On a governed host every occurrence of a key that could have been sent there, literal or in
//! the encodings that `pattern` lists, is replaced by its placeholder: in header values, in the body and in trailers, while they
//! stream. It is the last line, not the only one: a key leaves only for its own hosts, in one place of a request.
//!
//! # Content codings
//! `inject` asks governed origins for `accept-encoding: identity`, and nothing is encoded again on the way to the sandbox,
//! which is on this machine. Measured (see `benches/redact.rs`): looking for a key costs 0.1 to 0.2 CPU seconds for a
//! GiB, undoing gzip about 2, zstd 1.5 and brotli 1.3, and making gzip again about 50. Where an origin encodes
//! all the same, the body is decoded and goes on as identity: `content-encoding` and what describes the encoded bytes are
//! removed. A coding that cannot be undone cannot be searched and is an error: [`RedactError`].
//!
//! # Lengths
//! Where each form of each placeholder is as long as the key's, which the keyring arranges where a service's shape
//! permits it, `content-length` stays true and stays. Else it is removed, and the body is delimited by its framing. A
//! body that is empty from the start (an answer to HEAD, 204, 304) keeps its headers' description of what it would be.
//!
//! # Ranges
//! A key cut in two by two range requests would be found in neither: `inject` drops `range` on governed hosts, which an
//! origin is free to ignore anyway (RFC 9110 14.2).

mod body;
mod decode;
mod guard;
pub(crate) mod pattern;
mod scan;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Body;

pub use self::body::RedactedBody;
pub use self::guard::{Guarded, Leak, StreamGuard};
use self::scan::Scanner;

/// What may go wrong below a body, of whatever type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a response cannot be searched for keys, and so not be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedactError {
    /// A `content-encoding` that this proxy cannot undo.
    #[error(
        "the origin sent a content-encoding other than gzip, deflate, br or zstd, although asked for identity"
    )]
    UnknownCoding,
    /// More codings on top of each other than anybody needs.
    #[error("the origin stacked more than three content-encodings")]
    TooManyCodings,
    /// More keys than one search automaton can hold.
    #[error("too many keys for one host")]
    TooManyKeys,
}

/// Why a redacted body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The origin's body did.
    #[error("the origin's body broke off: {0}")]
    Origin(#[source] BoxError),
    /// What the origin sent is not what its `content-encoding` says.
    #[error("the origin's body does not decode: {0}")]
    Coding(#[source] io::Error),
}

/// The keys that could come back from one host, compiled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redactor {
    scanner: Arc<Scanner>,
}

impl Redactor {
    /// Finds these keys and puts these placeholders in their place.
    ///
    /// # Errors
    /// [`RedactError::TooManyKeys`], after hundreds of thousands.
    pub fn of<'a>(keys: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Redactor, RedactError> {
        let scanner = Scanner::new(keys).map_err(|_| RedactError::TooManyKeys)?;
        Ok(Redactor { scanner: Arc::new(scanner) })
    }

    /// Redacts a response: its headers at once, its body and trailers as they stream.
    ///
    /// A body that is already at its end is left as it is, with its headers' description of it.
    ///
    /// # Errors
    /// The body has a content coding that cannot be undone; the response must not be passed on (502 `upstream_protocol`).
    pub fn response<B>(&self, response: Response<B>) -> Result<Response<RedactedBody<B>>, RedactError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = response.into_parts();
        let mut codings = Vec::new();
        if !self.scanner.is_empty() {
            self.headers(&mut parts.headers);
            // A status line's phrase is free text too, and no client needs it (RFC 9110 15).
            parts.extensions.remove::<hyper::ext::ReasonPhrase>();
            if !body.is_end_stream() {
                codings = decode::codings(&parts.headers)?;
                describe(&mut parts.headers, !codings.is_empty(), self.scanner.keeps_length());
            }
        }
        Ok(Response::from_parts(parts, RedactedBody::new(body, Arc::clone(&self.scanner), &codings)))
    }

    /// Redacts the values of headers or trailers, and removes those whose *name* is a key.
    pub fn headers(&self, headers: &mut HeaderMap) {
        redact_values(&self.scanner, headers);
    }

    /// What two redactors that are the same share.
    #[cfg(test)]
    pub(crate) fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    /// A guard for a stream that is not HTTP messages any more, after an upgrade.
    pub fn guard(&self) -> StreamGuard {
        StreamGuard::new(Arc::clone(&self.scanner))
    }

    /// The text with every key replaced, or `None` where it holds none.
    pub fn text(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.scanner.replace(text)
    }
}

/// Makes the headers describe the body that will be sent instead of the one that came.
fn describe(headers: &mut HeaderMap, decoded: bool, keeps_length: bool) {
    if decoded || !keeps_length {
        headers.remove(CONTENT_LENGTH);
    }
    // No range is ever asked for on the sandbox's behalf.
    headers.remove(ACCEPT_RANGES);
    if !decoded {
        return;
    }
    headers.remove(CONTENT_ENCODING);
    for name in ["content-digest", "repr-digest", "digest", "content-md5"] {
        headers.remove(name);
    }
    // A strong validator is one of the very bytes (RFC 9110 8.8.1).
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) {
        let weak = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat());
        if let Ok(weak) = weak {
            headers.insert(ETAG, weak);
        }
    }
}

fn redact_values(scanner: &Scanner, headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| scanner.names_a_key(name.as_str())).cloned().collect();
    for name in named {
        headers.remove(name);
    }
    let mut unsayable = Vec::new();
    for (name, value) in headers.iter_mut() {
        if let Some(clean) = scanner.replace(value.as_bytes()) {
            // The replacement is made of the placeholder's visible characters, so this holds; if ever not, the header goes.
            match HeaderValue::from_bytes(&clean) {
                Ok(clean) => *value = clean,
                Err(_) => unsayable.push(name.clone()),
            }
        }
    }
    for name in unsayable {
        headers.remove(name);
    }
}
