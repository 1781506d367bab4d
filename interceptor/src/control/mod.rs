//! The daemon's control API: HTTP/1.1 with JSON over a unix socket. It serves its own OpenAPI
//! document.
//!
//! One file per resource. Every error is a problem document (RFC 9457), and no response contains a
//! key. Only the owner can open the socket, peers are identified by their credentials, and a peer
//! inside a sandbox is refused (attack P1).

mod always;
#[allow(unused_qualifications, reason = "in the description that is generated from the parameters")]
mod approvals;
#[allow(unused_qualifications, reason = "in the description that is generated from the parameters")]
mod audit;
mod bounds;
pub(crate) mod catalogue;
mod events;
mod health;
mod leases;
pub(crate) mod model;
mod model_approvals;
mod openapi;
mod params;
mod peer;
#[allow(unused_qualifications, reason = "in the description that is generated from the parameters")]
mod policy;
mod problem;
mod process;
mod sandboxes;
mod server;
mod shared;
mod socket_peer;
mod sse;
mod story;
mod takeover;
mod way_in;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{delete, get, post};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use always::decide as approve_for_good;
pub(crate) use approvals::{answer_of, question_text};
pub(crate) use bounds::{ASKED_WITHIN, timely};
pub(crate) use events::answer as answer_with_events;
pub(crate) use model_approvals::ApprovalWritten;
pub(crate) use params::{Id, Text};
pub(crate) use peer::{is_in_sandbox, outside_sandboxes};
pub(crate) use problem::ApiProblem;
pub(crate) use process::Process;
pub(crate) use server::serve;
use shared::Control;
pub(crate) use shared::{Reader, Speaker, Stories, blocking};
pub(crate) use socket_peer::SocketPeer;
pub(crate) use story::story_of;
use tokio_util::sync::CancellationToken;

use crate::entrance::Entrance;
use crate::fleet::{Fleet, PolicyFiles};
use crate::ipc::ControlSocket;

/// The default path of the control socket.
pub(crate) const DEFAULT_SOCKET: &str = "/run/interceptor/control.sock";

/// What a control socket is for.
#[derive(Debug)]
pub(crate) enum Scope {
    /// A daemon: sandboxes come and go, and another daemon may take them over, also if it runs one
    /// of these programs.
    Daemon {
        /// Other programs that may take over.
        successors: Vec<PathBuf>,
    },
    /// A `run`, which has one sandbox until its command ends.
    Run {
        /// How its policy's file is edited.
        files: Arc<dyn PolicyFiles>,
    },
}

/// What a control socket controls.
#[derive(Debug)]
pub(crate) struct Controlled {
    /// The socket.
    pub(crate) socket: Arc<ControlSocket>,
    /// The sandboxes.
    pub(crate) fleet: Arc<Fleet>,
    /// What the socket is for.
    pub(crate) scope: Scope,
    /// The page, if there is one.
    pub(crate) entrance: Option<Arc<Entrance>>,
}

/// The API. `stop` ends its streams.
pub(crate) fn router(controlled: Controlled, stop: CancellationToken) -> Router {
    let Controlled { fleet, socket, scope, entrance } = controlled;
    let (router, described) = described(&scope);
    let (successors, files) = match scope {
        Scope::Daemon { successors } => (successors.into(), None),
        Scope::Run { files } => (Arc::default(), Some(files)),
    };
    let openapi = openapi::document(described).into();
    let stories = Stories::default();
    let control = Control { fleet, socket, openapi, entrance, successors, files, stories, stop };
    router
        .route("/openapi.json", get(openapi::serve))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(middleware::from_fn_with_state(control.clone(), peer::admit))
        .with_state(control)
}

/// What the page asks and decides of the API. Whoever serves it admits nobody else, and says who
/// speaks.
pub(crate) fn for_page() -> Router<Arc<Fleet>> {
    Router::new()
        .route("/v1/approvals/{id}", post(approvals::decide))
        .route("/v1/sandboxes/{id}/leases", post(leases::give))
        .route("/v1/sandboxes/{id}/leases/{lease}", delete(leases::revoke))
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
}

fn described(scope: &Scope) -> (Router<Control>, utoipa::openapi::OpenApi) {
    let router = match scope {
        Scope::Daemon { .. } => OpenApiRouter::new()
            .routes(routes!(sandboxes::create, sandboxes::list))
            .routes(routes!(sandboxes::show, sandboxes::remove))
            .routes(routes!(policy::reload))
            .routes(routes!(takeover::take_over)),
        Scope::Run { .. } => OpenApiRouter::new()
            .routes(routes!(sandboxes::list))
            .routes(routes!(sandboxes::show))
            .routes(routes!(always::approve)),
    };
    router
        .routes(routes!(policy::replace))
        .routes(routes!(audit::follow))
        .routes(routes!(events::follow))
        .routes(routes!(story::tell))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::follow))
        .routes(routes!(approvals::decide))
        .routes(routes!(leases::list, leases::give))
        .routes(routes!(leases::revoke))
        .routes(routes!(way_in::show, way_in::invite))
        .routes(routes!(catalogue::profiles))
        .routes(routes!(catalogue::services))
        .routes(routes!(health::alive))
        .routes(routes!(health::metrics))
        .split_for_parts()
}
