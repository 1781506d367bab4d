//! The search for real keys in origins' responses, chunk by chunk.
//!
//! It replaces every key, literal or in the encodings that [`scan::pattern`] lists, with its
//! placeholder. The caller supplies the bytes; nothing here reads, waits or knows the time.
//!
//! # What is observed
//! Nothing that the sandbox can observe depends on how much of a key some bytes match, only on
//! whether a whole key is there; [`scan`] says what is held. If a message ends inside a stream
//! ([`Search`], [`StreamGuard`]), nothing is held beyond its end; `seam` finds the keys that the
//! end cuts.

pub mod digests;
mod fields;
mod guard;
mod messages;
pub mod ranges;
pub mod scan;
mod seam;
mod websocket;

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;

pub use self::fields::redact_fields;
pub use self::guard::{Ended, StreamGuard};
pub use self::messages::{MessageError, Messages, Search, is_grpc};
use self::scan::Scanner;

/// Why a response cannot be searched for keys, and is therefore refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedactError {
    /// A `content-encoding` that this proxy cannot undo.
    #[error(
        "the origin sent a content-encoding other than gzip, deflate, br or zstd, although only \
         identity was accepted"
    )]
    UnknownCoding,
    /// More stacked codings than anybody needs.
    #[error("the origin stacked more than three content-encodings")]
    TooManyCodings,
    /// Part of an encoded body.
    #[error(
        "the origin sent a part of an encoded body, which cannot be decoded; ask for it as a whole"
    )]
    CodedRange,
    /// Another range than the requested one, or an impossible one.
    #[error("the origin sent another range than the requested one, or an invalid one")]
    Range,
    /// A part of any kind, although none was requested.
    #[error("the origin sent a part that was not requested, whose ends could cut a key")]
    Unasked,
    /// The sandbox requested a part beyond the end of the body (416). Has the whole length, if
    /// known.
    #[error("the requested part lies beyond the end")]
    Beyond(Option<u64>),
    /// Keys have changed since the range was asked for, and reach beyond what surrounds it.
    #[error(transparent)]
    Late(#[from] LateKey),
    /// More keys than one search automaton can hold.
    #[error("too many keys for one search")]
    TooManyKeys,
}

/// A stream cannot be searched for another key any more: part of one may have passed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("keys have changed, and what has passed of it could have been part of one")]
pub struct LateKey;

/// The keys that one host could send back, compiled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redactor {
    scanner: Arc<Scanner>,
    /// The same with placeholders that are as long as their keys, for bodies of fixed length.
    fitted: Arc<Scanner>,
}

impl Redactor {
    /// Compiles these keys, each with its placeholder.
    ///
    /// # Errors
    /// [`RedactError::TooManyKeys`], after hundreds of thousands.
    pub fn of<'a>(
        keys: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Redactor, RedactError> {
        let keys: Vec<(&[u8], &[u8])> = keys.collect();
        let whole = Arc::new(Scanner::new(keys.iter().copied()));
        let fitted = if whole.keeps_length() {
            Arc::clone(&whole)
        } else {
            let placeholders: Vec<Cow<'_, [u8]>> =
                keys.iter().map(|(key, placeholder)| fit(placeholder, key.len())).collect();
            let pairs = keys.iter().zip(&placeholders);
            Arc::new(Scanner::new(pairs.map(|((key, _), placeholder)| (*key, &placeholder[..]))))
        };
        Ok(Redactor { scanner: whole, fitted })
    }

    /// Redacts the values of headers or trailers, and removes those whose *name* is a key. Returns
    /// the number of keys found.
    pub fn headers(&self, headers: &mut HeaderMap) -> u64 {
        redact_fields(&self.scanner, headers)
    }

    /// The keys with their placeholders as they are.
    pub fn scanner(&self) -> &Arc<Scanner> {
        &self.scanner
    }

    /// The same with placeholders that are as long as their keys, for bodies of fixed length.
    pub fn fitted(&self) -> &Arc<Scanner> {
        &self.fitted
    }

    /// Whether parts can be cut out of a body.
    pub fn keeps_length(&self) -> bool {
        self.fitted.keeps_length()
    }

    /// How far a key cut by a part's ends can reach beyond them, in bytes.
    pub fn reach(&self) -> u64 {
        self.scanner.reach() as u64
    }

    /// A guard for a WebSocket, origin to sandbox.
    pub fn web_socket(&self) -> StreamGuard {
        StreamGuard::web_socket(&self.scanner)
    }

    /// A guard for a stream of another protocol, after an upgrade.
    pub fn unknown_protocol(&self) -> StreamGuard {
        StreamGuard::unknown(&self.scanner)
    }

    /// The text with every key replaced, or `None` if it contains none.
    pub fn text(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.scanner.replace(text)
    }
}

/// A placeholder padded or cut to the length of its key.
fn fit(placeholder: &[u8], length: usize) -> Cow<'_, [u8]> {
    match placeholder.get(..length) {
        Some(cut) => Cow::Borrowed(cut),
        None => [placeholder, &vec![b'-'; length - placeholder.len()]].concat().into(),
    }
}
