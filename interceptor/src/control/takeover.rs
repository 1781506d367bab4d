//! `/v1/takeover`: hands this daemon's sandboxes over to a new one.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::ApiProblem;
use super::peer::{Peer, Successor, refused};
use super::shared::{Control, blocking};
use crate::audit::Record;
use crate::takeover::{PROTOCOL, give};

/// Hands all sandboxes over to the peer, then stops this daemon. The connection switches to a
/// protocol that carries descriptors and keys, which `interceptor serve --takeover` speaks. Only
/// for root, outside every sandbox, running this daemon's program or one named by `serve
/// --successor`.
#[utoipa::path(
    post,
    path = "/v1/takeover",
    tag = "daemon",
    responses(
        (status = 101, description = "The hand-over begins"),
        (status = 403, description = "The peer is not root, or runs another program"),
        (status = 426, description = "`Upgrade: interceptor-takeover` is missing"),
    )
)]
pub(super) async fn take_over(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    let (asking, fleet, named) = (peer.clone(), control.fleet.clone(), control.successors.clone());
    let successor = match blocking(move || asking.may_take_over(&fleet, &named)).await {
        Ok(Ok(successor)) => successor,
        Ok(Err(why)) => {
            return refused(&peer, "This process may not take the sandboxes over", why);
        }
        Err(problem) => return problem.into_response(),
    };
    if request.headers().get(UPGRADE).is_none_or(|asked| asked.as_bytes() != PROTOCOL.as_bytes()) {
        let (title, detail) =
            ("This is no request of its own", format!("ask with `Upgrade: {PROTOCOL}`"));
        return ApiProblem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", title, detail)
            .into_response();
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::warn!(%error, "the hand-over could not start"),
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else {
            return tracing::error!(
                "a hand-over was requested on a connection that is not a unix socket"
            );
        };
        // The peer must not send before it has read the response.
        if !parts.read_buf.is_empty() {
            return tracing::warn!("refused a hand-over: the peer sent data too early");
        }
        let stream = parts.io.into_inner().into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        let given = blocking(move || match stream {
            Ok(stream) => {
                tell(&control, &successor);
                give(stream, &control.fleet, &control.socket, control.entrance.as_deref())
                    .map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        });
        match given.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the hand-over failed; this daemon continues")
            }
            Err(_) => tracing::error!("the hand-over was interrupted"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// Logs and records who is about to receive the sandboxes and their keys, whatever the outcome.
fn tell(control: &Control, successor: &Successor) {
    tracing::info!(%successor, "another daemon asks to take over");
    control.socket.expect(successor.to_string());
    let audit = &control.fleet.runtime().audit;
    for member in control.fleet.list() {
        let record = Record::lifecycle(&member.id, "takeover_begun");
        audit.emit(record.message(&successor.to_string()));
    }
}
