//! Queries over UDP.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DnsServer;
use super::question::MAX_QUERY;

/// Queries in flight; more are dropped and counted, and the client retries.
const AT_ONCE: usize = 256;
/// Refusals waiting their turn, limited separately from other queries.
const WAITING: usize = 256;
/// The first pause after consecutive errors; doubles up to the maximum.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time limit for queries in flight when another process takes over.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

impl DnsServer {
    /// Answers queries on `socket`. Retries after socket errors: without its resolver, a sandbox
    /// has no names. When `ends` is cancelled, stops receiving, leaving later queries to the next
    /// process, and returns when those in flight are answered or late.
    pub(crate) async fn serve_udp(self: Arc<Self>, socket: UdpSocket, ends: CancellationToken) {
        let socket = Arc::new(socket);
        // Dropped with this future, and its tasks with it.
        let mut answering: JoinSet<()> = JoinSet::new();
        let (deciding, waiting) =
            (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(WAITING)));
        let telling = Arc::clone(&self);
        let mut telling = std::pin::pin!(telling.tell_unrecorded());
        let mut pause = PAUSE;
        loop {
            while answering.try_join_next().is_some() {}
            let received = tokio::select! {
                received = receive(&socket) => received,
                () = ends.cancelled() => break,
                () = telling.as_mut() => break, // which never comes
            };
            match received {
                Ok((query, client)) => {
                    pause = PAUSE;
                    let Ok(place) = Arc::clone(&deciding).try_acquire_owned() else {
                        self.count_lost();
                        continue;
                    };
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    let waiting = Arc::clone(&waiting);
                    answering.spawn(async move {
                        let Some(reply) = server.answer_udp(&query).await else { return };
                        drop(place);
                        if !reply.turn.is_zero() {
                            let Ok(_waits) = waiting.try_acquire() else { return };
                            tokio::time::sleep(reply.turn).await;
                        }
                        // The client may be gone.
                        let _ = socket.send_to(&reply.message, client).await;
                    });
                }
                // An ICMP error for a response to a client that is gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::warn!("cannot receive DNS queries: {error}; retrying in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        let answered = async { while answering.join_next().await.is_some() {} };
        // A client without a response retries, and the next process answers.
        let _ = tokio::time::timeout(LAST_ANSWERS, answered).await;
    }
}

/// The next query. There is no buffer while none comes: most sandboxes are silent most of the time.
async fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    loop {
        socket.readable().await?;
        // One byte beyond the maximum, so that an oversized query is recognised.
        let mut buffer = [0; MAX_QUERY + 1];
        match socket.try_recv_from(&mut buffer) {
            Ok((length, client)) => return Ok((buffer[..length].to_vec(), client)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
