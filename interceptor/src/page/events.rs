//! What the page follows and asks of sandboxes: the same as the control API tells.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::shared::{Peer, STREAMS, Shared};
use crate::control::{ApiProblem, Id, Reader, Text, answer_with_events, blocking, story_of};
use crate::entrance::KnownSession;
use crate::fleet::Fleet;

/// A browser, and its place among the streams.
struct Browser {
    shared: Shared,
    peer: Peer,
    session: KnownSession,
    _place: OwnedSemaphorePermit,
}

impl Reader for Browser {
    async fn lasts(&self, fleet: &Arc<Fleet>) -> bool {
        let (fleet, peer) = (fleet.clone(), self.peer.0.clone());
        let judged = blocking(move || peer.outside(&fleet)).await;
        matches!(judged, Ok(Ok(()))) && self.shared.0.page.entrance.lasts(self.session)
    }
}

/// Follows everything.
pub(super) async fn follow(
    State(shared): State<Shared>,
    peer: Peer,
    Extension(session): Extension<KnownSession>,
) -> Result<Response, ApiProblem> {
    let place = shared.0.streams.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS} pages are open already: close one");
        ApiProblem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "The page is busy", detail)
    })?;
    let (fleet, stop) = (shared.0.page.fleet.clone(), shared.0.stop.clone());
    Ok(answer_with_events(fleet, stop, Browser { shared, peer, session, _place: place }))
}

/// What the policy in force says of a record.
pub(super) async fn story(
    State(shared): State<Shared>,
    Id(id): Id,
    Text(text): Text,
) -> Result<Json<Value>, ApiProblem> {
    story_of(shared.0.page.fleet.clone(), shared.0.stories.clone(), &id, &text).await
}
