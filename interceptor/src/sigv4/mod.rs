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
mod problem;
mod sign;
mod signature;
#[cfg(test)]
mod tests;

pub(crate) use self::canonical::Message;
pub(crate) use self::check::{Verified, check};
pub(crate) use self::chunks::Chunks;
pub(crate) use self::claim::Claim;
pub(crate) use self::keys::Pair;
pub(crate) use self::payload::{Digest, Payload};
pub(crate) use self::problem::Problem;
pub(crate) use self::sign::{Signed, sign};
