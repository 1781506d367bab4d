//! Serves the API on the control socket.
//!
//! Unauthorised peers are dismissed on accept, and the number of others is limited, so that neither
//! can use up the descriptors that sandboxes' connections need.

use std::cell::LazyCell;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::bounds::{ASKED_WITHIN, Door};
use super::peer::{MAY_NOT, Peer, refusal};
use super::{ApiProblem, Controlled, router};
use crate::fleet::Fleet;

/// Pause after a failed accept, so that the loop does not spin.
const BREATHER: Duration = Duration::from_millis(50);
/// How long requests in flight may take at shutdown.
const FAREWELL: Duration = Duration::from_secs(5);
/// The maximum number of connections.
const CONNECTIONS: u32 = 128;

/// Serves until `stop` is cancelled, then shuts down gracefully.
///
/// # Errors
/// If the socket cannot be used.
pub(crate) async fn serve(controlled: Controlled, stop: CancellationToken) -> io::Result<()> {
    let Controlled { fleet, socket, .. } = &controlled;
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let mut peers = Peers {
        listener: UnixListener::from_std(socket.listener()?)?,
        handed: socket.handed(),
        fleet: fleet.clone(),
        places: places.clone(),
        door: Door::new(),
    };
    // Most runs have no visitors.
    let ends = stop.clone();
    let router = LazyCell::new(move || router(controlled, ends));
    loop {
        let (stream, peer, place) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = peers.accept() => accepted,
        };
        let (router, stop) = (router.clone().layer(Extension(ConnectInfo(peer))), stop.clone());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = converse(stream, router, stop).await {
                tracing::debug!(%error, "a connection to the control socket ended early");
            }
        });
    }
    drop(peers);
    // Audit streams would never end by themselves.
    let _ = tokio::time::timeout(FAREWELL, places.acquire_many(CONNECTIONS)).await;
    Ok(())
}

/// Serves one connection until it closes or, once `stop` is cancelled, the current request ends.
async fn converse(
    stream: UnixStream,
    router: Router,
    stop: CancellationToken,
) -> hyper::Result<()> {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKED_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Accepts only authorised peers. After a hand-over, accepts no one; new connections belong to the
/// next daemon.
struct Peers {
    listener: UnixListener,
    handed: CancellationToken,
    fleet: Arc<Fleet>,
    places: Arc<Semaphore>,
    door: Door,
}

impl Peers {
    async fn accept(&mut self) -> (UnixStream, Peer, OwnedSemaphorePermit) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.handed.cancelled() => std::future::pending().await,
                accepted = self.listener.accept() => accepted,
            };
            let accepted = match accepted {
                Ok((stream, _)) => {
                    let fleet = self.fleet.clone();
                    // Immediately, before reading anything it sends.
                    let judging =
                        spawn_blocking(move || Ok((Peer::judge(&stream, &fleet)?, stream)));
                    judging.await.unwrap_or_else(|error| Err(io::Error::other(error)))
                }
                Err(error) => Err(error),
            };
            match accepted {
                Ok((peer, stream)) => match self.admit(&peer) {
                    Ok(place) => return (stream, peer, place),
                    Err(problem) => self.turn_away(stream, &peer, &problem),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the control socket");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    /// Admits an authorised peer if there is room.
    fn admit(&self, peer: &Peer) -> Result<OwnedSemaphorePermit, ApiProblem> {
        peer.found().map_err(|why| refusal(MAY_NOT, why))?;
        let (title, kind) = ("The control socket is busy", "busy");
        let full = |_| {
            let detail = format!("it already has {CONNECTIONS} connections: close some of them");
            ApiProblem::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
        };
        self.places.clone().try_acquire_owned().map_err(full)
    }

    fn turn_away(&mut self, stream: UnixStream, peer: &Peer, problem: &ApiProblem) {
        // One that has gone again asked nothing: so does whoever looks whether a daemon listens.
        if peer.has_ended() {
            tracing::debug!(%peer, why = problem.detail, "a peer of the control socket has gone");
        } else if let Some(times) = self.door.log() {
            tracing::warn!(
                %peer,
                why = problem.detail,
                times,
                "refused a peer of the control socket"
            );
        }
        // Other users get no reason.
        if peer.is_owner() {
            self.door.dismiss(stream, problem);
        }
    }
}
