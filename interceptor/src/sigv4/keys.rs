//! A pair of keys, and the signatures it makes.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::claim::Claim;
use super::payload::{Digest, EMPTY};
use super::problem::ALGORITHM;
use super::signature::Signature;

/// The keys that requests are signed with.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    /// The access key's id.
    pub(crate) id: &'a str,
    /// The secret access key.
    pub(crate) secret: &'a str,
    /// The session token of temporary keys.
    pub(crate) token: Option<&'a str>,
}

/// What a signature is for: date, region and service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) time: String,
    /// `YYYYMMDD/REGION/SERVICE/aws4_request`.
    pub(super) scope: String,
}

impl Context {
    pub(super) fn of(claim: &Claim) -> Context {
        let Claim { time, region, service, .. } = claim;
        let date = &time[..8];
        Context { time: time.clone(), scope: format!("{date}/{region}/{service}/aws4_request") }
    }
}

/// The key for one scope (not a long-lived secret: it is good for a day, a region and a service).
#[derive(Clone)]
pub(super) struct SigningKey(hmac::Key);

impl SigningKey {
    pub(super) fn new(pair: &Pair<'_>, context: &Context) -> SigningKey {
        let first = Zeroizing::new(["AWS4", pair.secret].concat());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        for part in context.scope.split('/') {
            let mut tag = Zeroizing::new([0_u8; 32]);
            tag.copy_from_slice(hmac::sign(&key, part.as_bytes()).as_ref());
            key = hmac::Key::new(hmac::HMAC_SHA256, &*tag);
        }
        SigningKey(key)
    }

    fn sign(&self, text: &str) -> Signature {
        Signature::of(hmac::sign(&self.0, text.as_bytes()).as_ref())
    }

    /// The signature of a request.
    pub(super) fn request(&self, context: &Context, canonical: &str) -> Signature {
        let Context { time, scope } = context;
        let digest = Digest::of(canonical.as_bytes());
        self.sign(&format!("{ALGORITHM}\n{time}\n{scope}\n{}", digest.as_str()))
    }

    /// The signature of a chunk behind another signature.
    pub(super) fn chunk(&self, context: &Context, before: &Signature, data: &Digest) -> Signature {
        let Context { time, scope } = context;
        let (before, data) = (before.as_str(), data.as_str());
        self.sign(&format!("{ALGORITHM}-PAYLOAD\n{time}\n{scope}\n{before}\n{EMPTY}\n{data}"))
    }

    /// The signature of the trailers behind the last chunk.
    pub(super) fn trailer(
        &self,
        context: &Context,
        before: &Signature,
        fields: &Digest,
    ) -> Signature {
        let Context { time, scope } = context;
        let (before, fields) = (before.as_str(), fields.as_str());
        self.sign(&format!("{ALGORITHM}-TRAILER\n{time}\n{scope}\n{before}\n{fields}"))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}
