//! The body of a signed request on its way: what its signature says about it is verified, and what
//! is signed in it is signed again.

use aws_lc_rs::digest;
use bytes::Bytes;
use http::HeaderMap;
use interceptor_policy::{Deny, Filter, Reason};

use super::held::Held;
use crate::http::refuse::deny::refusal;
use crate::http::sending::Broken;
use crate::sigv4::{Chunks, Digest, Payload, Signed, Verified};

/// What the body of a signed request has to be.
pub(in super::super) enum Seal {
    /// It was read already.
    Held(Option<Held>),
    /// Its digest was signed.
    Hash(Box<Hash>),
    /// Its chunks have a framing, and perhaps signatures, of their own.
    Chunks(Box<Chunks>),
}

/// The digest that a body must have.
pub(in super::super) struct Hash {
    context: digest::Context,
    expected: Digest,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Seal::Held(_) => "Held",
            Seal::Hash(_) => "Hash",
            Seal::Chunks(_) => "Chunks",
        })
    }
}

impl Seal {
    /// `None` if the body is not signed.
    pub(super) fn new(
        verified: &Verified,
        signed: Signed,
        held: Option<Held>,
        headers: &HeaderMap,
    ) -> Option<Seal> {
        if let Some(held) = held {
            return Some(Seal::Held(Some(held)));
        }
        match &verified.payload {
            Payload::Hash(expected) => {
                let context = digest::Context::new(&digest::SHA256);
                Some(Seal::Hash(Box::new(Hash { context, expected: expected.clone() })))
            }
            payload if payload.is_chunked() => {
                Some(Seal::Chunks(Box::new(Chunks::new(verified, signed, headers))))
            }
            _ => None,
        }
    }

    /// How much of a body that was read is still to be sent.
    pub(in super::super) fn held(&self) -> u64 {
        match self {
            Seal::Held(Some(held)) => held.bytes.len() as u64,
            _ => 0,
        }
    }

    /// Takes a body that was read.
    pub(in super::super) fn take(&mut self) -> Option<Bytes> {
        match self {
            Seal::Held(held) => {
                let held = held.as_mut()?;
                let bytes = std::mem::take(&mut held.bytes);
                (!bytes.is_empty()).then_some(bytes)
            }
            _ => None,
        }
    }

    /// What may be sent of what came.
    ///
    /// # Errors
    /// It is not what was signed.
    pub(in super::super) fn pass(&mut self, data: Bytes) -> Result<Bytes, Broken> {
        match self {
            Seal::Held(_) => Ok(data),
            Seal::Hash(hash) => {
                hash.context.update(&data);
                Ok(data)
            }
            Seal::Chunks(chunks) => chunks.push(&data).map_err(|problem| broken(&problem)),
        }
    }

    /// Whether a body that has ended was what was signed. Nothing of its end was sent yet.
    ///
    /// # Errors
    /// It was not.
    pub(in super::super) fn finish(&self) -> Result<(), Broken> {
        match self {
            Seal::Held(_) => Ok(()),
            Seal::Chunks(chunks) => chunks.finish().map_err(|problem| broken(&problem)),
            Seal::Hash(hash) if Digest::finish(hash.context.clone().finish()) == hash.expected => {
                Ok(())
            }
            Seal::Hash(_) => Err(broken(&"its body does not have the digest that was signed")),
        }
    }
}

fn broken(problem: &dyn std::fmt::Display) -> Broken {
    let message = format!("the request was not sent completely: {problem}");
    let deny = refusal(Reason::RequestMalformed, message);
    let deny = Deny { filter: Filter::Request, ..deny };
    Broken { ends: deny.reason, deny }
}
