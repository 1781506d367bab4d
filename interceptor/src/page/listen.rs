//! Serves the page at its address: few connections, of each user only so many, and each with time
//! limits, so that nobody who merely connects can use up what sandboxes or others need.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::places::{ALL, Places};
use super::router;
use super::shared::Page;
use crate::control::{ASKED_WITHIN, SocketPeer};

/// Pause after a failed accept, so that the loop does not spin.
const BREATHER: Duration = Duration::from_millis(50);
/// How long requests in flight may take at the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// The maximum number of connections.
const CONNECTIONS: u32 = ALL as u32;
/// The largest head of a request, in bytes.
const LARGEST_HEAD: usize = 16 * 1024;
/// How long a browser may leave what it is sent unread.
const UNREAD: Duration = Duration::from_secs(30);

/// Serves until `stop` is cancelled, or another process serves the page instead.
///
/// # Errors
/// If the socket cannot be used.
pub(crate) async fn serve(page: Page, stop: CancellationToken) -> io::Result<()> {
    let served = accept(page, stop).await;
    // Whoever started it may never ask what became of it.
    served.inspect_err(|error| tracing::error!(%error, "the page has failed"))
}

async fn accept(page: Page, stop: CancellationToken) -> io::Result<()> {
    let (entrance, ends) = (page.entrance.clone(), stop.child_token());
    let own = entrance.address();
    let listener = TcpListener::from_std(entrance.listener()?)?;
    let (places, ending) = (Places::default(), Arc::new(Semaphore::new(ALL)));
    let person = page.person;
    let router = router(page, ends.clone());
    let handed = entrance.handed();
    loop {
        let accepted = tokio::select! {
            biased;
            () = handed.cancelled() => break,
            () = ends.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the page");
                tokio::time::sleep(BREATHER).await;
                continue;
            }
        };
        // At once, while the other end is still whose it was.
        let looked = move || (SocketPeer::of(&stream, peer, own), stream);
        let Ok((Some(peer), stream)) = tokio::task::spawn_blocking(looked).await else { continue };
        let uid = peer.uid();
        let is_known = uid.is_some_and(|uid| uid == 0 || person == Some(uid))
            || person.is_none() && uid.is_some_and(|uid| entrance.knows(uid));
        // Whoever comes when it is full is not served; its connection is closed at once.
        let Some(place) = places.take(uid, is_known) else { continue };
        let Ok(last) = ending.clone().try_acquire_owned() else { continue };
        let peer = ConnectInfo(Arc::new(peer));
        let (router, ends) = (router.clone().layer(Extension(peer)), ends.clone());
        tokio::spawn(async move {
            let _held = (place, last);
            if let Err(error) = converse(stream, router, ends).await {
                tracing::debug!(%error, "a connection to the page ended early");
            }
        });
    }
    drop(listener);
    ends.cancel();
    let _ = tokio::time::timeout(FAREWELL, ending.acquire_many(CONNECTIONS)).await;
    Ok(())
}

async fn converse(
    stream: TcpStream,
    router: Router,
    ends: CancellationToken,
) -> anyhow::Result<()> {
    bound(&stream)?;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASKED_WITHIN)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = ends.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// The kernel ends a connection whose peer does not read (tcp(7), TCP_USER_TIMEOUT).
fn bound(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD))
}
