//! `/v1/takeover`: where a new daemon takes the sandboxes of this one over.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::peer::{Peer, Successor, refused};
use super::{Control, Problem};
use crate::audit::Record;
use crate::takeover::{PROTOCOL, give};

/// Hands all sandboxes over to the process at the other end, and ends this daemon when that one serves them. The connection switches to
/// a protocol of its own, in which descriptors and keys travel: `interceptor serve --takeover`
/// speaks it. For root alone, outside every sandbox, and for this daemon's own program or one that
/// it was told of (`serve --successor`).
#[utoipa::path(
    post,
    path = "/v1/takeover",
    tag = "daemon",
    responses(
        (status = 101, description = "The hand-over begins"),
        (status = 403, description = "The peer is not root, or runs another program", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "`Upgrade: interceptor-takeover` is missing", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn take_over(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Response {
    let (asking, fleet, named) = (peer.clone(), control.fleet.clone(), control.successors.clone());
    let successor = match super::blocking(move || asking.may_take_over(&fleet, &named)).await {
        Ok(Ok(successor)) => successor,
        Ok(Err(why)) => {
            return refused(&peer, "This process may not take the sandboxes over", why);
        }
        Err(problem) => return problem.into_response(),
    };
    if request.headers().get(UPGRADE).is_none_or(|asked| asked.as_bytes() != PROTOCOL.as_bytes()) {
        let (title, detail) = ("This is no request of its own", format!("ask with `Upgrade: {PROTOCOL}`"));
        return Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", title, detail).into_response();
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::warn!(%error, "a hand-over was not begun"),
        };
        let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else {
            return tracing::error!("a hand-over was asked for over something that is no unix socket");
        };
        // The other end speaks when it has read the answer, not before.
        if !parts.read_buf.is_empty() {
            return tracing::warn!("a hand-over was begun out of turn");
        }
        let stream = parts.io.into_inner().into_std().and_then(|stream| {
            stream.set_nonblocking(false)?;
            Ok(stream)
        });
        let given = super::blocking(move || match stream {
            Ok(stream) => {
                tell(&control, &successor);
                give(stream, &control.fleet, &control.socket).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        });
        match given.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the hand-over failed; this daemon goes on"),
            Err(_) => tracing::error!("the hand-over broke off"),
        }
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    response
}

/// Says who is about to be given the sandboxes with their keys, whatever comes of it.
fn tell(control: &Control, successor: &Successor) {
    tracing::info!(%successor, "another daemon asks to take over");
    control.socket.expect(successor.to_string());
    let audit = &control.fleet.runtime().audit;
    for member in control.fleet.list() {
        let record = Record::lifecycle(&member.id, "takeover_begun");
        audit.emit(record.message(&successor.to_string()));
    }
}
