//! The first steps of a connection: accepted, its original destination read, its protocol
//! recognised by its first bytes, and handed on to TLS, HTTP or a tunnel.

pub(crate) mod arrival;
mod classify;
mod connection;
mod distrust;
mod native;
mod prefixed;
mod raw;
mod tls;
mod tunnelled;

use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::proxy::Sandbox;
use crate::seam::{Destinations, SELF_TEST};

/// After an accept failed for want of something (EMFILE, ENOMEM), so that the loop does not spin
/// (attack X4).
const BREATHER: Duration = Duration::from_millis(50);

/// `listen`, to be handed to whoever has the listeners: [`crate::proxy::Accept`].
pub fn accept(
    sandbox: Arc<Sandbox>,
    listener: TcpListener,
    destinations: Arc<dyn Destinations>,
    token: Arc<str>,
    ends: CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(listen(sandbox, listener, destinations, token, ends))
}

/// Accepts connections until the sandbox stops or `ends` is cancelled; what is not accepted then
/// waits in the listener's backlog for whoever accepts next. Each is served in a task of its own,
/// within the sandbox's limit: beyond it, one connection a listener waits for its turn, the others
/// in the listener's backlog. (A turn is taken only for a connection that is there: a listener of
/// the other family must not sit on one.)
pub(crate) async fn listen(
    sandbox: Arc<Sandbox>,
    listener: TcpListener,
    destinations: Arc<dyn Destinations>,
    token: Arc<str>,
    ends: CancellationToken,
) {
    let stop = sandbox.stopping();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ends.cancelled() => return,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(BREATHER).await;
                continue;
            }
        };
        let quota = sandbox.connections.clone();
        let mut turn = Box::pin(async move { quota.take().await });
        let place = tokio::select! {
            place = turn.as_mut() => Some(place),
            // This one is accepted: it waits for its turn beside whoever accepts the others.
            () = ends.cancelled() => None,
            () = stop.cancelled() => return,
        };
        let open = sandbox.metrics.open_connection();
        let (sandbox, destinations, token) = (sandbox.clone(), destinations.clone(), token.clone());
        let stop = stop.clone();
        sandbox.tasks.clone().spawn(async move {
            let place = match place {
                Some(place) => place,
                None => tokio::select! {
                    place = turn => place,
                    () = stop.cancelled() => return,
                },
            };
            let _counted = (place, open);
            tokio::select! {
                () = accepted_one(sandbox, stream, &*destinations, &token) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn accepted_one(
    sandbox: Arc<Sandbox>,
    mut stream: TcpStream,
    destinations: &dyn Destinations,
    token: &str,
) {
    // No record: it was not redirected, so that nobody knows where it was going (attack K12, K14).
    // It is closed.
    let asked = match destinations.original(stream.as_fd()) {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            tracing::debug!("closed a connection that was not redirected");
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot read the original destination; closing the connection");
            return;
        }
    };
    let asked = std::net::SocketAddr::new(asked.ip().to_canonical(), asked.port());
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    if asked == SELF_TEST {
        let _ = stream.write_all(format!("{token}\n").as_bytes()).await;
        let _ = stream.shutdown().await;
        return;
    }
    if asked.port() == 53 {
        if let Err(error) = sandbox.dns.clone().serve_tcp(stream).await {
            tracing::debug!(%error, "DNS connection ended");
        }
        return;
    }
    connection::serve(sandbox, stream, asked).await;
}
