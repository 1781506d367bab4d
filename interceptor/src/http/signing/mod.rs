//! Requests that are signed for AWS: verified by the placeholder pair, and signed again with the
//! real one as they are sent.
//!
//! A request is verified as it came and signed as it goes. Between the two are the canonical path,
//! which was judged, and headers that are no part of its meaning; if anything that is signed would
//! be left out, the request is refused. What the signature says about the body is verified while
//! the body streams (`body`), except where only the body itself tells its digest: such a body is
//! held first (`held`).

mod body;
mod held;

use http::header::HOST;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use hyper::body::{Body as _, Incoming};
use interceptor_policy::{
    AwsScope, CanonicalPath, CredentialId, Deny, Filter, Form, Policy, Reason, Strip,
};
use jiff::Timestamp;

pub(super) use self::body::Seal;
use super::address::authority;
use super::flight::Flight;
use super::refuse::Unsent;
use super::refuse::deny::refusal;
use crate::credential::RealKey;
use crate::sigv4::{Claim, Digest, Message, Pair, Payload, Problem, Signed, Verified, check, sign};
use crate::upstream::pool::PoolKey;

/// The header that names what is copied.
const COPY_SOURCE: &str = "x-amz-copy-source";

/// A request whose signature is right, before it is signed again.
#[derive(Debug)]
pub(super) struct Checked {
    verified: Verified,
    /// Its body, if that had to be read.
    held: Option<held::Held>,
}

/// What a request says that its signature is for, if the policy has credentials that sign.
pub(super) fn scope(policy: &Policy, parts: &Parts, query: Option<&str>) -> Option<Claim> {
    let signs = policy.credentials().iter().any(|credential| credential.forms == [Form::SigV4]);
    signs.then(|| Claim::of(&parts.headers, query).ok().flatten()).flatten()
}

/// The path of the object that a request copies, as a path of its own: rules judge it, too.
///
/// # Errors
/// It is written in a way that has no such path.
pub(super) fn copied(headers: &HeaderMap) -> Option<Result<String, Deny>> {
    let mut values = headers.get_all(COPY_SOURCE).iter();
    let first = values.next()?;
    let text = first.to_str().ok().filter(|_| values.next().is_none());
    let path = text.map(|text| text.split('?').next().unwrap_or_default());
    let path = path.map(|path| format!("/{}", path.trim_start_matches('/')));
    let path = path.filter(|path| CanonicalPath::parse(path).is_ok());
    Some(path.ok_or_else(|| {
        let message = format!("`{COPY_SOURCE}` does not name one object in one way");
        refusal(Reason::PathAmbiguous, message)
    }))
}

/// The refusal of a request with that problem.
fn refused(problem: &Problem, id: CredentialId) -> Deny {
    let (reason, filter) = match problem {
        Problem::Malformed(_) => (Reason::RequestMalformed, Filter::Request),
        Problem::Unsupported(_) => (Reason::ProtocolDenied, Filter::Credential),
        _ => (Reason::CredentialMisuse, Filter::Credential),
    };
    let message = format!(
        "the request was refused, because requests with this credential are signed for AWS, \
         verified by the placeholder keys and signed again: {problem}"
    );
    Deny { filter, credential: Some(id), ..refusal(reason, message) }
}

/// The credential of a request, if it signs.
pub(super) fn signer(flight: &Flight<'_>) -> Option<CredentialId> {
    let id = flight.judged.allow.credential?;
    (flight.policy().credential(id).forms == [Form::SigV4]).then_some(id)
}

/// Verifies a request as it came.
///
/// # Errors
/// Why it is not sent.
pub(super) async fn verify(
    flight: &mut Flight<'_>,
    body: &mut Incoming,
    id: CredentialId,
) -> Result<Checked, Box<Unsent>> {
    let problem = |problem: Problem| Box::new(Unsent::from(refused(&problem, id)));
    let claim = Claim::of(&flight.parts.headers, flight.uri().query()).map_err(problem)?;
    let unsigned = Problem::Unsupported(
        "it is not signed by AWS Signature Version 4 with the placeholder keys",
    );
    let claim = claim.ok_or_else(|| problem(unsigned))?;
    left_out(&claim, &flight.parts.headers, flight.uri(), flight.policy().strip(id))
        .map_err(problem)?;
    let (mut digest, mut held) = (None, None);
    if claim.payload(&flight.parts.headers).map_err(problem)? == Payload::Untold {
        if body.is_end_stream() {
            digest = Some(Digest::of(b""));
        } else {
            let whole = held::read(flight, body).await?;
            digest = Some(whole.digest());
            held = Some(whole);
        }
    }
    let parts = &flight.parts;
    let keyring = &flight.judged.rules.keyring;
    let placeholder = keyring.placeholder(id);
    let pair = placeholder.and_then(|placeholder| {
        let secret = placeholder.secret()?.as_str();
        Some(Pair { id: placeholder.as_str(), secret, token: None })
    });
    let pair = pair.ok_or_else(|| problem(Problem::Unwritable))?;
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let message = Message {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        host: host.unwrap_or_default(),
        headers: &parts.headers,
    };
    let verified =
        check(claim, &message, &pair, digest.as_ref(), Timestamp::now()).map_err(problem)?;
    Ok(Checked { verified, held })
}

/// Refuses a request if what it has signed would not be sent.
fn left_out(claim: &Claim, headers: &HeaderMap, uri: &Uri, strip: &Strip) -> Result<(), Problem> {
    if headers.contains_key("x-amz-security-token") {
        return Err(Problem::Token);
    }
    let headers = headers.keys().map(http::HeaderName::as_str);
    let mut headers = headers.filter(|name| *name != "authorization" && claim.covers(name));
    if let Some(name) = headers.find(|name| strip.header(name)) {
        return Err(Problem::LeftOut(format!("the header `{name}`")));
    }
    let query = uri.query().unwrap_or_default();
    let mut parameters = query.split(['&', ';']).filter(|one| !Claim::is_parameter(one));
    match parameters.find(|parameter| strip.parameter(parameter)) {
        Some(parameter) => {
            let name = parameter.split('=').next().unwrap_or_default();
            Err(Problem::LeftOut(format!("the parameter `{name}`")))
        }
        None => Ok(()),
    }
}

impl Checked {
    /// Signs a request that is about to be sent to that origin.
    ///
    /// # Errors
    /// It cannot be signed.
    pub(super) fn sign(
        &self,
        head: &mut Parts,
        query: &str,
        key: &PoolKey,
        real: &RealKey,
        id: CredentialId,
    ) -> Result<Signed, Deny> {
        let unwritable = |_| refused(&Problem::Unwritable, id);
        let pair = real.pair().ok_or(()).map_err(unwritable)?;
        let (method, path) = (head.method.as_str().to_owned(), head.uri.path().to_owned());
        let host = authority(key);
        let message = (method.as_str(), path.as_str(), query, host.as_str());
        let signed = sign(&self.verified, message, &mut head.headers, &pair)
            .map_err(|problem| refused(&problem, id))?;
        let mark = if signed.query.is_empty() { "" } else { "?" };
        let target = zeroize::Zeroizing::new([&path, mark, &signed.query].concat());
        let target = PathAndQuery::try_from(target.as_str()).map_err(|_| unwritable(()))?;
        head.uri = Uri::from(target);
        Ok(signed)
    }

    /// What the body has to be, on its way.
    pub(super) fn seal(&mut self, signed: Signed, headers: &HeaderMap) -> Option<Seal> {
        Seal::new(&self.verified, signed, self.held.take(), headers)
    }
}

/// The text of a scope in records and questions.
pub(super) fn text(scope: AwsScope<'_>) -> String {
    format!("{}/{}", scope.service, scope.region)
}
