//! The daemon's control API: HTTP/1.1 with JSON over a unix socket, described by the OpenAPI document that it serves.
//!
//! One file a resource; every error is a problem document (RFC 9457); no answer holds a key. The socket is the owner's alone, a peer
//! is known by its credentials, and one that lives in a sandbox is refused (attack P1).

#[allow(unused_qualifications, reason = "in the description that is generated from the parameters")]
mod audit;
mod bounds;
pub(crate) mod catalogue;
mod health;
pub(crate) mod model;
mod openapi;
mod params;
mod peer;
#[allow(unused_qualifications, reason = "in the description that is generated from the parameters")]
mod policy;
mod problem;
mod process;
mod sandboxes;
mod server;
mod sse;
mod takeover;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ipc::ControlSocket;
pub(crate) use problem::Problem;
pub(crate) use server::serve;

use crate::fleet::Fleet;

/// Where the daemon listens unless it is told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/interceptor/control.sock";

/// What every handler has.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    fleet: Arc<Fleet>,
    socket: Arc<ControlSocket>,
    openapi: Arc<str>,
    /// The programs that may take over beside this one.
    successors: Arc<[PathBuf]>,
}

/// The API.
pub(crate) fn router(fleet: Arc<Fleet>, socket: Arc<ControlSocket>, successors: Vec<PathBuf>) -> Router {
    let (router, described) = described();
    let (openapi, successors) = (openapi::document(described).into(), successors.into());
    let control = Control { fleet, socket, openapi, successors };
    router
        .route("/openapi.json", get(openapi::serve))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(middleware::from_fn_with_state(control.clone(), peer::admit))
        .with_state(control)
}

fn described() -> (Router<Control>, utoipa::openapi::OpenApi) {
    OpenApiRouter::new()
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::show, sandboxes::remove))
        .routes(routes!(policy::replace))
        .routes(routes!(audit::follow))
        .routes(routes!(catalogue::profiles))
        .routes(routes!(catalogue::services))
        .routes(routes!(health::alive))
        .routes(routes!(health::metrics))
        .routes(routes!(takeover::take_over))
        .split_for_parts()
}

/// Runs what waits for other processes and for the kernel where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "request failed");
        Problem::internal("it broke off; the log says more")
    })
}
