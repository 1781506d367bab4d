//! Whether a request is signed with the placeholder pair, and its signature covers what matters.

use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST};
use jiff::{SignedDuration, Timestamp};

use super::canonical::Message;
use super::claim::{AMZ_DATE, Claim, Place, parameter_name};
use super::keys::{Context, Pair, SigningKey};
use super::payload::{CONTENT_SHA256, Digest, Payload};
use super::problem::{MINUTES, Problem};

/// The header with a session token.
pub(super) const TOKEN: &str = "x-amz-security-token";
/// What no request may have twice: verifier and origin could take different ones.
const SINGLE: [&str; 3] = [AMZ_DATE, CONTENT_SHA256, "host"];

/// A request whose signature is right.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(super) claim: Claim,
    /// What it says about the body.
    pub(crate) payload: Payload,
    pub(super) context: Context,
    /// Verifies what follows in the body.
    pub(super) key: SigningKey,
}

/// What a signature says about the body, without verifying anything yet.
///
/// # Errors
/// It says nothing that is known.
fn payload(claim: &Claim, headers: &HeaderMap) -> Result<Payload, Problem> {
    let is_url = claim.is_s3() && claim.place != Place::Header;
    Payload::of(headers, is_url)
}

impl Claim {
    /// What it says about the body.
    ///
    /// # Errors
    /// Nothing that is known.
    pub(crate) fn payload(&self, headers: &HeaderMap) -> Result<Payload, Problem> {
        payload(self, headers)
    }
}

/// Verifies a claim by the placeholder pair. `body` is the digest of the body where the claim says
/// nothing about it.
///
/// # Errors
/// What is wrong.
pub(crate) fn check(
    claim: Claim,
    message: &Message<'_>,
    placeholder: &Pair<'_>,
    body: Option<&Digest>,
    now: Timestamp,
) -> Result<Verified, Problem> {
    if claim.id != placeholder.id {
        return Err(Problem::Foreign);
    }
    covers(&claim, message.headers)?;
    is_current(&claim, now)?;
    let mut payload = payload(&claim, message.headers)?;
    if let (Payload::Untold, Some(body)) = (&payload, body) {
        payload = Payload::Hash(body.clone());
    }
    let text = payload.text().ok_or(Problem::Mismatch)?;
    let context = Context::of(&claim);
    let key = SigningKey::new(placeholder, &context);
    let is_signature =
        |parameter: &str| parameter_name(parameter).eq_ignore_ascii_case(b"x-amz-signature");
    let canonical = message.canonical(&claim.covered, text, claim.is_s3(), is_signature);
    if !key.request(&context, &canonical).is(&claim.signature) {
        return Err(Problem::Mismatch);
    }
    Ok(Verified { claim, payload, context, key })
}

/// Every header by which the origin could be told something else must be covered.
fn covers(claim: &Claim, headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(TOKEN) {
        return Err(Problem::Token);
    }
    if SINGLE.iter().any(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        return Err(Problem::Malformed("the request has a header twice that it must have once"));
    }
    if claim.covered.iter().any(|name| name != "host" && !headers.contains_key(name)) {
        return Err(Problem::Mismatch);
    }
    if !claim.covers(HOST.as_str()) {
        return Err(Problem::Uncovered(HOST.to_string()));
    }
    let is_header = claim.place == Place::Header;
    for name in headers.keys().map(http::HeaderName::as_str) {
        let of_aws = name.replace('_', "-").starts_with("x-amz-");
        // The date that counts, and how the body is to be read.
        let of_request = is_header
            && (name == CONTENT_TYPE.as_str()
                || name == DATE.as_str() && !headers.contains_key(AMZ_DATE));
        if (of_aws || of_request) && name != AUTHORIZATION.as_str() && !claim.covers(name) {
            return Err(Problem::Uncovered(name.to_owned()));
        }
    }
    Ok(())
}

fn is_current(claim: &Claim, now: Timestamp) -> Result<(), Problem> {
    let made = claim.made().ok_or(Problem::Stale)?;
    let age = now.duration_since(made);
    let most = SignedDuration::from_mins(MINUTES);
    match claim.place {
        _ if age < -most => Err(Problem::Stale),
        Place::Header if age > most => Err(Problem::Stale),
        Place::Query { seconds } if age > SignedDuration::from_secs(seconds) => {
            Err(Problem::Expired)
        }
        _ => Ok(()),
    }
}
