//! Serves the API on the control socket.
//!
//! A peer that may not speak is let go when it is accepted, and those that may are not without
//! number: neither takes the descriptors that the sandboxes' connections need.

use std::io;
use std::path::PathBuf;
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
use super::{Problem, router};
use crate::fleet::Fleet;
use crate::ipc::ControlSocket;

/// After an accept failed for want of something, so that the loop does not spin.
const BREATHER: Duration = Duration::from_millis(50);
/// How long requests under way may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Connections at once.
const CONNECTIONS: u32 = 128;

/// Serves until `stop` is cancelled, and then ends in good order. `successors` are the programs
/// that may take over beside this one.
///
/// # Errors
/// When the socket cannot be used.
pub(crate) async fn serve(
    socket: Arc<ControlSocket>,
    fleet: Arc<Fleet>,
    successors: Vec<PathBuf>,
    stop: CancellationToken,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let mut peers = Peers {
        listener: UnixListener::from_std(socket.listener()?)?,
        handed: socket.handed(),
        fleet: fleet.clone(),
        places: places.clone(),
        door: Door::new(),
    };
    let router = router(fleet, socket, successors);
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
    // Those who follow an audit stream would stay for ever.
    let _ = tokio::time::timeout(FAREWELL, places.acquire_many(CONNECTIONS)).await;
    Ok(())
}

/// Serves one connection, until its end or that of the request under way when `stop` is cancelled.
async fn converse(stream: UnixStream, router: Router, stop: CancellationToken) -> hyper::Result<()> {
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

/// Accepts only who may speak.
/// After a hand-over nobody: whoever connects is the next daemon's.
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
                    // At once, and before anything that it sends is read.
                    let judging = spawn_blocking(move || Ok((Peer::judge(&stream, &fleet)?, stream)));
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

    /// A place for a peer that may have one.
    fn admit(&self, peer: &Peer) -> Result<OwnedSemaphorePermit, Problem> {
        peer.found().map_err(|why| refusal(MAY_NOT, why))?;
        let (title, kind) = ("The control socket is busy", "busy");
        let full = |_| {
            let detail = format!("there are {CONNECTIONS} connections already: close some of them");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
        };
        self.places.clone().try_acquire_owned().map_err(full)
    }

    fn turn_away(&mut self, stream: UnixStream, peer: &Peer, problem: &Problem) {
        if let Some(times) = self.door.log() {
            tracing::warn!(%peer, why = problem.detail, times, "refused a peer of the control socket");
        }
        // Another user is told nothing.
        if peer.is_owner() {
            self.door.dismiss(stream, problem);
        }
    }
}
