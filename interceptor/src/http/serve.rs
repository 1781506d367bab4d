//! Serves the requests of one connection, judging each on its own (attack H12).

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use tracing::Instrument as _;

use super::admitted::{crowded, note, until_cut};
use super::body::Download;
use super::context::{Context, count};
use super::exchange::Exchange;
use super::flight::{Flight, Judged};
use super::hold::{self, Held};
use super::judge::{judge, stand_in};
use super::metadata;
use super::offers::asks_for_upgrade;
use super::refuse::{Denied, refuse};
use super::strict::Upgrade;
use crate::audit::Protocol;

/// Serves one request, from its head to its recorded response.
pub(super) async fn handle(
    context: Arc<Context>,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    context.activity.request();
    let exchange = Exchange::new(&context.sandbox, context.protocol, &context.activity);
    let span = exchange.span().clone();
    if span.is_none() {
        return Ok(answered(context, request, exchange).await);
    }
    Ok(Box::pin(answered(context, request, exchange).instrument(span)).await)
}

async fn answered(
    context: Arc<Context>,
    mut request: Request<Incoming>,
    mut exchange: Exchange,
) -> Response<Download> {
    // The filter waits for the outcome of exactly these requests.
    let wants_upgrade =
        request.version() == Version::HTTP_11 && asks_for_upgrade(request.headers());
    let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    if metadata::is_there(&context.identity) && body.is_end_stream() {
        let rules = context.sandbox.rules();
        if let Some((id, response)) = metadata::answer(&context, &rules, &parts) {
            metadata::note(&context, &rules, &parts, id, &mut exchange);
            return metadata::told(response, exchange);
        }
    }
    let mut response = match admit(&context, &parts, &mut exchange) {
        Ok(judged) => {
            let flight = Box::new(Flight { context: &context, parts, judged, exchange });
            until_cut(flight, body, upgrade).await
        }
        Err(denied) if hold::may_pass(&context, &denied) => {
            let held = Held { context: &context, parts, exchange };
            Box::pin(held.served(denied, body, upgrade)).await
        }
        Err(denied) => {
            let response = Box::pin(refuse(&context, parts, body, denied, exchange)).await;
            context.activity.beat();
            response
        }
    };
    end_outdated(&context, &mut response);
    if wants_upgrade && let Some(notes) = &context.notes {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        notes.upgrade(if switched { Upgrade::Switched } else { Upgrade::Declined });
    }
    response
}

/// Judges a request, records the verdict, and takes one of the sandbox's places for requests in
/// progress.
fn admit(context: &Context, parts: &Parts, exchange: &mut Exchange) -> Result<Judged, Box<Denied>> {
    let rules = context.sandbox.rules();
    exchange.note(|record| record.port = Some(context.asked.port()));
    let place = context.sandbox.requests.try_take();
    if let Some(denied) = stand_in(&rules, context, parts) {
        return Err(denied);
    }
    exchange.note(|record| {
        record.method = Some(parts.method.as_str().into());
        // A path too long to be judged is too long to be recorded.
        let most = count(rules.policy.limits().header_bytes);
        let path = Some(parts.uri.path()).filter(|path| !path.is_empty() && path.len() <= most);
        record.path = path.map(Into::into);
    });
    let judged =
        judge(rules, &context.identity, parts).inspect_err(|denied| denied.note(exchange))?;
    note(&judged, parts, exchange);
    match place {
        Some(place) => {
            exchange.hold(place);
            Ok(judged)
        }
        None => Err(Denied::to(crowded(&judged.rules), &judged.rules, judged.to).passing(true)),
    }
}

/// Ends a connection whose limits are outdated, or whose successor is served by another process.
fn end_outdated(context: &Context, response: &mut Response<Download>) {
    let is_outdated = context.is_outdated();
    if context.protocol == Protocol::H2 {
        if is_outdated {
            context.outdated.cancel();
        }
    } else if response.version() <= Version::HTTP_11
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
        && (is_outdated || context.sandbox.is_draining())
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}
