//! Why a request is not taken.

/// The algorithm, as requests name it.
pub(super) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

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
pub(super) const MINUTES: i64 = 15;
