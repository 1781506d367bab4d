//! Serves the API on the control socket.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use super::{ControlSocket, router};
use crate::fleet::Fleet;

/// After an accept failed for want of something, so that the loop does not spin.
const BREATHER: Duration = Duration::from_millis(50);
/// How long requests under way may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves until `stop` is cancelled, and then ends in good order. `successors` are the programs
/// that may take over beside this one.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(
    socket: Arc<ControlSocket>,
    fleet: Arc<Fleet>,
    successors: Vec<PathBuf>,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = Peers {
        listener: UnixListener::from_std(socket.listener()?)?,
        handed: socket.handed(),
        fleet: fleet.clone(),
    };
    let service = router(fleet, socket, successors).into_make_service_with_connect_info::<Peer>();
    let ending = stop.clone();
    let server =
        axum::serve(listener, service).with_graceful_shutdown(async move { ending.cancelled().await });
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        ended = server => ended,
        // Those who follow an audit stream would stay for ever.
        () = overdue => Ok(()),
    }
}

/// Accepts only whom the daemon's user may be.
/// After a hand-over nobody: whoever connects is the next daemon's.
struct Peers {
    listener: UnixListener,
    handed: CancellationToken,
    fleet: Arc<Fleet>,
}

impl Listener for Peers {
    type Io = UnixStream;
    type Addr = Peer;

    async fn accept(&mut self) -> (UnixStream, Peer) {
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
                Ok((peer, stream)) if peer.is_owner() => return (stream, peer),
                Ok((peer, _)) => {
                    tracing::warn!(%peer, "refused another user's connection to the control socket")
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the control socket");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Connected<IncomingStream<'_, Peers>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Peers>) -> Peer {
        stream.remote_addr().clone()
    }
}
