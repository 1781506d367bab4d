//! What a signature says about the body of its request.

use aws_lc_rs::digest;
use http::HeaderMap;

use super::problem::Problem;
use super::signature::hex;

/// The header that says it.
pub(crate) const CONTENT_SHA256: &str = "x-amz-content-sha256";
/// The header that names the trailers of a body in chunks.
pub(crate) const TRAILER: &str = "x-amz-trailer";
/// The header with the length of a body in chunks without its framing.
pub(crate) const DECODED_LENGTH: &str = "x-amz-decoded-content-length";

/// The digest of nothing.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A SHA-256 digest in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest(String);

impl Digest {
    /// Of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        Digest::finish(digest::digest(&digest::SHA256, bytes))
    }

    pub(crate) fn finish(digest: digest::Digest) -> Digest {
        Digest(hex(digest.as_ref()))
    }

    fn parse(text: &str) -> Option<Digest> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        (text.len() == EMPTY.len() && text.bytes().all(is_hex)).then(|| Digest(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a signature says about the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Its digest.
    Hash(Digest),
    /// Nothing.
    Unsigned,
    /// It comes in chunks, which are not signed, with trailers behind them.
    UnsignedChunks,
    /// It comes in chunks, of which each is signed.
    SignedChunks {
        /// Whether signed trailers follow.
        trailer: bool,
    },
    /// Its digest, which only the body tells.
    Untold,
}

impl Payload {
    const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
    const UNSIGNED_CHUNKS: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
    const SIGNED_CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    const SIGNED_CHUNKS_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";

    /// Of a request with these headers; `is_url` if it is a signed URL for S3, which says nothing
    /// about a body by itself.
    pub(super) fn of(headers: &HeaderMap, is_url: bool) -> Result<Payload, Problem> {
        let Some(text) = headers.get(CONTENT_SHA256) else {
            return Ok(if is_url { Payload::Unsigned } else { Payload::Untold });
        };
        let text = text.to_str().unwrap_or_default();
        match text {
            Payload::UNSIGNED => Ok(Payload::Unsigned),
            Payload::UNSIGNED_CHUNKS => Ok(Payload::UnsignedChunks),
            Payload::SIGNED_CHUNKS => Ok(Payload::SignedChunks { trailer: false }),
            Payload::SIGNED_CHUNKS_TRAILER => Ok(Payload::SignedChunks { trailer: true }),
            _ if text.starts_with("STREAMING-AWS4-ECDSA-") => Err(Problem::Unsupported(
                "its body is signed by Signature Version 4A, which cannot be verified here",
            )),
            _ => Digest::parse(text).map(Payload::Hash).ok_or(Problem::Malformed(
                "x-amz-content-sha256 is neither a digest nor one of the words for a body",
            )),
        }
    }

    /// Whether the body is framed in chunks of AWS's own.
    pub(crate) fn is_chunked(&self) -> bool {
        matches!(self, Payload::UnsignedChunks | Payload::SignedChunks { .. })
    }

    /// The text in its place in what is signed; `None` if only the body tells.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Payload::Hash(digest) => Some(digest.as_str()),
            Payload::Unsigned => Some(Payload::UNSIGNED),
            Payload::UnsignedChunks => Some(Payload::UNSIGNED_CHUNKS),
            Payload::SignedChunks { trailer: false } => Some(Payload::SIGNED_CHUNKS),
            Payload::SignedChunks { trailer: true } => Some(Payload::SIGNED_CHUNKS_TRAILER),
            Payload::Untold => None,
        }
    }
}
