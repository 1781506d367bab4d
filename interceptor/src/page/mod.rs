//! The page: what sandboxes do and ask, live, in a browser of this host; and answers to it.
//!
//! HTTP/1.1 at a loopback address. A browser gets in by an address with a one-time token
//! ([`crate::entrance`]); without the session that this opens, everything but the way in is refused
//! ([`gate`]). The files are in `interceptor/page`, written by hand; nothing of them is made from
//! what a sandbox sends, which reaches the browser as JSON and is shown as text.

mod always;
mod assets;
mod events;
mod gate;
mod listen;
mod places;
mod policy;
mod shared;
mod way_in;

use axum::Router;
use axum::middleware;
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;

pub(crate) use listen::serve;
pub(crate) use shared::Page;
use shared::Shared;

use crate::control;
use crate::entrance::WAY_IN;

fn router(page: Page, stop: CancellationToken) -> Router {
    let decides = control::for_page().with_state(page.fleet.clone());
    let shared = Shared::new(page, stop);
    Router::new()
        .route("/", get(assets::index))
        .route("/assets/{name}", get(assets::file))
        .route(WAY_IN, get(way_in::enter))
        .route("/v1/events", get(events::follow))
        .route("/v1/sandboxes/{id}/policy", get(policy::show))
        .route("/v1/sandboxes/{id}/story", post(events::story))
        .route("/v1/approvals/{id}/always", post(always::approve))
        .merge(decides)
        .layer(middleware::from_fn_with_state(shared.clone(), gate::admit))
        .with_state(shared)
}
