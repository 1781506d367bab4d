//! Why a redacted body breaks off.

use std::io;

use interceptor_policy::redact::{LateKey, MessageError, RedactError};

/// An error of any type from below a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a redacted body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The origin's body broke off.
    #[error("the origin's body broke off: {0}")]
    Origin(#[source] BoxError),
    /// The origin's body does not match its `content-encoding`.
    #[error("the origin's body does not decode: {0}")]
    Coding(#[source] io::Error),
    /// A message in it cannot be searched, so it is not passed on.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It cannot be searched for keys that became known meanwhile.
    #[error(transparent)]
    Late(#[from] LateKey),
    /// Keys became known meanwhile, and cannot be searched for at all.
    #[error(transparent)]
    Keys(#[from] RedactError),
}
