//! The search for real keys in what an origin answers, chunk by chunk.
//!
//! Every key, literal or in the encodings that [`scan::pattern`] lists, is replaced by its
//! placeholder. Who drives bodies and connections through it decides where the bytes come from;
//! nothing here reads, waits or knows the time.
//!
//! # What is observed
//! Nothing that the sandbox can see depends on how far something matches a key, only on whether all
//! of it does: see [`scan`] for what is held. Where a message ends inside a stream ([`Search`],
//! [`StreamGuard`]), nothing is held beyond it; `seam` finds what its end cuts.

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
    /// Part of an encoded body.
    #[error("the origin sent a part of an encoded body, which cannot be decoded; ask for it as a whole")]
    CodedRange,
    /// Not the range that was asked for, or described so that it cannot be one.
    #[error("the origin sent another range than it was asked for, or one that makes no sense")]
    Range,
    /// A part, of whatever kind, though none was asked for.
    #[error("the origin sent a part that it was not asked for, so that a key could be cut by its ends")]
    Unasked,
    /// The sandbox asked for a part beyond the end of the body (416); the whole length, where it is known.
    #[error("the part that was asked for lies beyond the end")]
    Beyond(Option<u64>),
    /// More keys than one search automaton can hold.
    #[error("too many keys for one search")]
    TooManyKeys,
}

/// The keys that could come back from one host, compiled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redactor {
    scanner: Arc<Scanner>,
    /// The same with placeholders that are as long as their keys, for bodies of fixed length.
    fitted: Arc<Scanner>,
}

impl Redactor {
    /// Finds these keys and puts these placeholders in their place.
    ///
    /// # Errors
    /// [`RedactError::TooManyKeys`], after hundreds of thousands.
    pub fn of<'a>(keys: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Redactor, RedactError> {
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

    /// Redacts the values of headers or trailers, and removes those whose *name* is a key. Gives how many it found.
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

    /// How far on both sides of a part of a body a key that it cuts can reach.
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

    /// The text with every key replaced, or `None` where it holds none.
    pub fn text(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.scanner.replace(text)
    }
}

/// A placeholder at the length of its key.
fn fit(placeholder: &[u8], length: usize) -> Cow<'_, [u8]> {
    match placeholder.get(..length) {
        Some(cut) => Cow::Borrowed(cut),
        None => [placeholder, &vec![b'-'; length - placeholder.len()]].concat().into(),
    }
}
