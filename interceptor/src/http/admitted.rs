//! Requests that the rules permit, on their way: their record, their place, and what cuts them off.

use http::Response;
use http::request::Parts;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use interceptor_policy::{Deny, Reason};
use tokio_util::sync::CancellationToken;

use super::body::Download;
use super::exchange::Exchange;
use super::flight::{Flight, Judged};
use super::forward::forward;
use super::judge::later;
use super::refuse::deny::refusal;
use super::refuse::{cut_off, too_old};
use crate::proxy::Rules;
use crate::words;

/// Refuses a request beyond those that may be in progress.
pub(super) fn crowded(rules: &Rules) -> Deny {
    let message = format!(
        "this sandbox has reached its limit of {} in progress; wait for one to end, or raise \
         limits.requests",
        words::count(rules.policy.limits().requests, "request")
    );
    refusal(Reason::LimitExceeded, message)
}

/// Records what was judged.
pub(super) fn note(judged: &Judged, parts: &Parts, exchange: &mut Exchange) {
    let Judged { rules, to, allow, .. } = judged;
    exchange.allow(allow);
    exchange.note(|record| {
        record.host = Some(to.host.shared());
        if to.based.is_some() {
            record.port = Some(to.port);
        }
        let path = allow.path.text(to.uri(parts).path());
        if record.path.as_deref() != Some(path) {
            record.path = Some(path.into());
        }
        record.credential = allow.credential.map(|id| rules.policy.shared_name(id));
        record.lease = judged.lease.as_ref().map(|lent| lent.id.clone());
    });
}

/// Forwards a request, unless a new policy that does not permit it cuts it off.
pub(super) async fn until_cut(
    mut flight: Box<Flight<'_>>,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
) -> Response<Download> {
    let later = later(&flight.parts, &flight.judged);
    let live = &flight.context.sandbox.live;
    let alive = live.enter(flight.judged.in_force(), CancellationToken::new(), later);
    let cut = alive.cut();
    flight.exchange.enter(alive);
    let (version, id) = (flight.parts.version, flight.exchange.id());
    let activity = &flight.context.activity;
    // Boxed, so that it is copied once: what awaits this holds, and moves, all that it awaits.
    let forwarded = Box::pin(forward(flight, body, upgrade));
    tokio::select! {
        response = forwarded => response,
        // Dropping it drops its exchange, which is recorded as it stands.
        () = cut.token().cancelled() => cut_off(version, id),
        () = activity.aged() => too_old(version, id),
    }
}
