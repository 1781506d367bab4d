//! The first steps of a connection: accepts it, reads its original destination, recognises its
//! protocol by its first bytes, and passes it on to TLS, HTTP or a tunnel.

pub(crate) mod arrival;
mod classify;
mod connection;
mod corked;
mod distrust;
mod in_memory;
mod native;
mod prefixed;
mod raw;
mod reset;
mod serve;
mod tls;
mod tunnelled;
mod way;

use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub use self::in_memory::serve_in_memory;
use crate::proxy::Sandbox;
use crate::seam::{Destinations, SELF_TEST};

/// The pause after a failed accept (EMFILE, ENOMEM), so that the loop does not spin (attack X4).
const BREATHER: Duration = Duration::from_millis(50);

/// `listen` as a [`crate::proxy::Accept`], for the owner of the listeners.
pub fn accept(
    sandbox: Arc<Sandbox>,
    listener: TcpListener,
    destinations: Arc<dyn Destinations>,
    token: Arc<str>,
    ends: CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(listen(sandbox, listener, destinations, token, ends))
}

/// Accepts connections until the sandbox stops or `ends` is cancelled. Connections not accepted by
/// then stay in the listener's backlog for the next process. Each connection is served in a task of
/// its own, within the sandbox's limit. Beyond the limit, each listener accepts one more, which
/// waits for a place; the rest wait in the backlog. (A place is taken only for an accepted
/// connection, so that an idle listener of the other address family holds none.)
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
            // This connection is already accepted, so it waits for a place while the next process
            // accepts others.
            () = ends.cancelled() => None,
            () = stop.cancelled() => return,
        };
        let open = sandbox.metrics.open_connection();
        let (sandbox, destinations, token) = (sandbox.clone(), destinations.clone(), token.clone());
        let (stop, tidy) = (stop.clone(), sandbox.tidy.clone());
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
            tidy.rested();
        });
    }
}

async fn accepted_one(
    sandbox: Arc<Sandbox>,
    mut stream: TcpStream,
    destinations: &dyn Destinations,
    token: &str,
) {
    // Not recorded: it was not redirected, so its destination is unknown (attack K12, K14).
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
        if let Err(error) = Box::pin(sandbox.dns.clone().serve_tcp(stream)).await {
            tracing::debug!(%error, "DNS connection ended");
        }
        return;
    }
    connection::serve(sandbox, stream, asked).await;
}
