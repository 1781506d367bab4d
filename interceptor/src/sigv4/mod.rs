//! AWS Signature Version 4, pure: what a request claims, whether its signature is right, and the
//! signature of another request. No I/O and no clock here.
//!
//! - [`claim`]: the signature in a header or the query, and its scope.
//! - [`canonical`]: the one text that both signatures are made of.
//! - [`keys`]: a pair of keys, and the signatures it makes.
//! - [`check`]: whether a claim is right, and what it must cover.
//! - [`sign`]: signs a request that is about to be sent.
//! - [`payload`]: what a signature says about the body.
//! - [`chunks`]: bodies that are signed in chunks, signed again as they stream.
//!
//! Rules: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html> and, for S3,
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html>.

mod canonical;
mod check;
mod chunks;
mod claim;
mod keys;
mod payload;
mod sign;
#[cfg(test)]
mod tests;

pub(crate) use self::canonical::Message;
pub(crate) use self::check::{Verified, check};
pub(crate) use self::chunks::Chunks;
pub(crate) use self::claim::Claim;
pub(crate) use self::keys::Pair;
pub(crate) use self::payload::{Digest, Payload};
pub(crate) use self::sign::{Signed, sign};

/// The algorithm, as requests name it.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Why a request is not taken. Shows nothing of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    /// The signature is not written as its form asks.
    #[error("its signature is malformed: {0}")]
    Malformed(&'static str),
    /// It is not signed in a form that can be verified.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A header that matters is not covered by the signature.
    #[error("its signature does not cover the header `{0}`, so anybody could have changed it")]
    Uncovered(String),
    /// It is signed by other keys than the placeholder pair.
    #[error(
        "it is signed with another access key than the placeholder; keys of the sandbox's own are \
         of no use here"
    )]
    Foreign,
    /// It has a session token.
    #[error(
        "it has a session token, which the placeholder pair has not; unset AWS_SESSION_TOKEN, and \
         do not assume roles inside"
    )]
    Token,
    /// Its date is too far from now.
    #[error("it was signed more than {MINUTES} minutes before or after now; sign it again")]
    Stale,
    /// It was valid for a while, which is over.
    #[error("its signed URL has expired; sign it again")]
    Expired,
    /// The signature is wrong.
    #[error(
        "its signature does not match the request: it was made with another secret, or the \
         request was changed after it"
    )]
    Mismatch,
    /// What has been signed would be left out.
    #[error(
        "it is signed with {0}, which authenticates or leads elsewhere and is not forwarded to a \
         host that a credential governs; send it without"
    )]
    LeftOut(String),
    /// Another signature cannot be written.
    #[error("it cannot be signed again")]
    Unwritable,
}

/// How many minutes a signature's date may be off.
const MINUTES: i64 = 15;
