//! Every "no" that a client is told over HTTP, and its record.
//!
//! - [`deny`]: refusals for the request's own sake.
//! - [`origin`]: failures of the origin.
//! - `envelope`: the response, in JSON.
//! - here: sends the response, whether nothing was sent to the origin yet ([`refuse`], [`unsent`])
//!   or something was ([`failed`], [`too_many`], [`cut_off`], [`too_old`]).

pub(crate) mod deny;
pub(super) mod envelope;
pub(super) mod origin;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue, TE, UPGRADE, USER_AGENT,
};
use http::request::Parts;
use http::{Response, Uri, Version};
use hyper::body::Incoming;
use interceptor_policy::{Deny, Host, Reason};

use super::body::Download;
use super::context::Context;
use super::dialect;
use super::drain::{DRAINED, drain, drain_behind};
use super::exchange::{Exchange, TooManyEchoes};
use super::flight::{Destination, Flight};
use super::sending::Broken;
use super::strict::REFUSED_METHOD;
use super::strict::head::Refused;
use crate::audit::RequestId;
use crate::proxy::Rules;
use deny::refusal;
pub(super) use envelope::DECISION_HEADER;
use envelope::{About, answer};

/// A refusal, with what is known about the request.
#[derive(Debug)]
pub(crate) struct Denied {
    /// The refusal.
    deny: Deny,
    /// The rules it was judged by.
    rules: Arc<Rules>,
    /// The host, once it is known.
    host: Option<Host>,
    /// The real port and target of a request under a base URL.
    based: Option<(u16, Uri)>,
    /// Whether the same request may succeed a second later.
    retry: bool,
}

impl Denied {
    /// Refuses a request for `host`.
    pub(super) fn new(deny: Deny, rules: &Arc<Rules>, host: Option<Host>) -> Box<Denied> {
        Box::new(Denied { deny, rules: rules.clone(), host, based: None, retry: false })
    }

    /// Refuses a request for that destination.
    pub(super) fn to(deny: Deny, rules: &Arc<Rules>, to: Destination) -> Box<Denied> {
        let Destination { host, port, based, .. } = to;
        let based = based.map(|(_, uri)| (port, uri));
        Box::new(Denied { deny, rules: rules.clone(), host: Some(host), based, retry: false })
    }

    /// Records the real port and path of a request under a base URL.
    pub(super) fn note(&self, exchange: &mut Exchange) {
        if let Some((port, uri)) = &self.based {
            exchange.note(|record| {
                record.port = Some(*port);
                record.path = Some(uri.path().into());
            });
        }
    }

    /// The refusal.
    pub(super) fn deny(&self) -> &Deny {
        &self.deny
    }

    /// The same refusal for another reason, with more to say about it.
    pub(super) fn because(mut self: Box<Self>, reason: Reason, more: &str) -> Box<Denied> {
        self.deny.reason = reason;
        self.deny.status = reason.status();
        self.deny.message = format!("{}; {more}", self.deny.message);
        self
    }

    /// Another refusal of the same request.
    pub(super) fn instead(mut self: Box<Self>, deny: Deny) -> Box<Denied> {
        self.deny = deny;
        self
    }

    /// Records the refusal as it stands, in case the request is abandoned before it is told.
    pub(super) fn pending(&self, exchange: &mut Exchange) {
        self.note(exchange);
        exchange.deny(&self.deny);
        exchange.note(|record| {
            record.status = None;
            record.host = self.host.as_ref().map(Host::shared);
            let id = self.deny.credential;
            record.credential = id.map(|id| self.rules.policy.shared_name(id));
        });
    }

    /// Sets whether the same request may succeed a second later.
    pub(super) fn passing(mut self: Box<Self>, retry: bool) -> Box<Denied> {
        self.retry = retry;
        self
    }
}

/// Why a judged request is not sent.
#[derive(Debug)]
pub(super) struct Unsent {
    /// The refusal.
    pub deny: Deny,
    /// Whether the same request may succeed a second later.
    pub retry: bool,
}

impl From<Deny> for Unsent {
    fn from(deny: Deny) -> Unsent {
        Unsent { deny, retry: false }
    }
}

/// Answers a judged request of which nothing was sent.
pub(super) async fn unsent(flight: Flight<'_>, body: Incoming, why: Unsent) -> Response<Download> {
    let Flight { context, parts, judged, exchange } = flight;
    let denied = Denied::to(why.deny, &judged.rules, judged.to).passing(why.retry);
    refuse(context, parts, body, denied, exchange).await
}

/// Sends a refusal and records it.
pub(super) async fn refuse(
    context: &Context,
    mut parts: Parts,
    body: Incoming,
    denied: Box<Denied>,
    mut exchange: Exchange,
) -> Response<Download> {
    let Denied { deny, rules, host, based, retry } = *denied;
    if let Some((_, uri)) = based {
        parts.uri = uri;
    }
    if deny.status == Refused::TOO_LARGE {
        shed(&mut parts);
    }
    let turn = context.sandbox.refusals.turn();
    if !turn.is_zero() {
        tokio::time::sleep(turn).await;
    }
    let stand_in = context.notes.is_some() && parts.method.as_str() == REFUSED_METHOD;
    let host = host.map(|host| host.to_string());
    let credential = deny.credential.map(|id| rules.policy.credential(id).name.clone());
    exchange.deny(&deny);
    exchange.note(|record| {
        if stand_in && deny.status == Refused::TOO_SLOW {
            record.reason = Some(Reason::HeaderTimeout);
        }
        record.host = host.as_deref().map(Into::into);
        record.credential = credential.as_deref().map(Into::into);
        record.ip.get_or_insert(context.asked.ip());
    });
    let about = About {
        host: host.as_deref(),
        method: (!stand_in).then(|| parts.method.as_str()),
        path: (!stand_in).then(|| parts.uri.path()).filter(|path| !path.is_empty()),
        credential: credential.as_deref(),
        retry,
    };
    // A client that asked to upgrade sends no second request on this connection; Node.js would wait
    // for the connection to end.
    let close = stand_in
        || parts.headers.contains_key(UPGRADE)
        || matches!(
            deny.reason,
            Reason::AuthorityMismatch | Reason::MethodRefused | Reason::RequestMalformed
        );
    let call = take_rest(&parts, body).await;
    let mut response = answer(&deny, about, exchange.id(), parts.version, close);
    let asked = dialect::Asked { headers: &parts.headers, uri: &parts.uri, body: &call };
    dialect::speak(&mut response, &asked, &deny);
    own(response, exchange)
}

/// Frees an oversized head before its refusal waits its turn. Keeps the fields that decide the form
/// of the response.
fn shed(parts: &mut Parts) {
    let told = [USER_AGENT, CONTENT_TYPE, TE, CONTENT_LENGTH, EXPECT, UPGRADE];
    let kept = told.into_iter().filter_map(|name| {
        let value = parts.headers.get(&name).filter(|value| value.len() <= 256)?;
        Some((name, HeaderValue::from_bytes(value.as_bytes()).ok()?))
    });
    parts.headers = kept.collect::<HeaderMap>();
    if parts.uri.path().len() > 1024 {
        parts.uri = Uri::default();
    }
}

/// Reads what the sandbox is still sending, within bounds: closing early would reset the connection
/// and lose the response. Returns the body if it may be a JSON-RPC call, which the response must
/// match.
async fn take_rest(parts: &Parts, body: Incoming) -> Vec<u8> {
    let announced = parts.headers.get(CONTENT_LENGTH).is_none_or(|length| {
        length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: usize| length <= DRAINED)
    });
    let waits_for_continue = parts.headers.contains_key(EXPECT);
    let may_be_a_call = dialect::may_be_a_call(&parts.headers);
    if parts.version >= Version::HTTP_2 && !(may_be_a_call && announced && !waits_for_continue) {
        // An HTTP/2 stream can be answered while the client is still sending.
        drain_behind(body);
        return Vec::new();
    }
    if waits_for_continue || !announced {
        return Vec::new();
    }
    drain(body, if may_be_a_call { dialect::MOST_CALL } else { 0 }).await
}

/// A response of the interceptor itself, with its record.
pub(super) fn own(response: Response<Bytes>, mut exchange: Exchange) -> Response<Download> {
    exchange.note(|record| record.status = Some(response.status().as_u16()));
    response.map(|bytes| Download::own(bytes, exchange))
}

/// Reports the failure of a request that was allowed. The record may be more specific than the
/// response.
pub(super) fn failed(mut flight: Box<Flight<'_>>, failure: Broken) -> Response<Download> {
    let Broken { deny, ends } = failure;
    flight.exchange.failed(&deny, ends);
    told(flight, &deny)
}

/// Reports that too many keys have come back to the sandbox.
pub(super) fn too_many(flight: Box<Flight<'_>>, error: TooManyEchoes) -> Response<Download> {
    let message = format!("the answer from `{}` was not passed on: {error}", flight.host());
    // The policy permits the request and the origin received it, so it stays recorded as allowed.
    told(flight, &refusal(Reason::LimitExceeded, message))
}

/// Tells the sandbox, whatever the record says.
fn told(flight: Box<Flight<'_>>, deny: &Deny) -> Response<Download> {
    let (parts, uri) = (&flight.parts, flight.uri());
    let host = flight.host().to_string();
    let credential =
        flight.judged.allow.credential.map(|id| flight.policy().credential(id).name.as_str());
    let about = About {
        host: Some(&host),
        method: Some(parts.method.as_str()),
        path: Some(uri.path()),
        credential,
        retry: false,
    };
    // As with every refusal, a client that asked to upgrade sends no second request on this
    // connection.
    let close = matches!(deny.reason, Reason::LimitExceeded | Reason::RequestMalformed)
        || parts.headers.contains_key(UPGRADE);
    let mut response = answer(deny, about, flight.exchange.id(), parts.version, close);
    // The body is already on its way to the origin.
    let asked = dialect::Asked { headers: &parts.headers, uri, body: &[] };
    dialect::speak(&mut response, &asked, deny);
    own(response, flight.exchange)
}

/// The response to a request that a new policy cut off before the origin answered.
pub(super) fn cut_off(version: Version, id: RequestId) -> Response<Download> {
    let message = "the policy was replaced during the request, and the new one does not permit \
                   it; the origin may have received it";
    let deny = refusal(Reason::HostDenied, message.to_owned());
    answer(&deny, About::default(), id, version, true).map(Download::unrecorded)
}

/// The response to a request whose connection reached its maximum age before the origin answered.
pub(super) fn too_old(version: Version, id: RequestId) -> Response<Download> {
    let message = "the connection reached limits.total_timeout_seconds before the origin answered; \
                   the origin may have received the request";
    let deny = refusal(Reason::UpstreamTimeout, message.to_owned());
    answer(&deny, About::default(), id, version, true).map(Download::unrecorded)
}
