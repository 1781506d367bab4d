//! Queries over UDP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DnsServer;
use super::question::MAX_QUERY;

/// Queries answered at the same time; further ones are dropped, as a network would, and counted; the client
/// asks again.
const AT_ONCE: usize = 256;
/// Refusals that wait for their turn at the same time, so that they keep nobody else's place.
const WAITING: usize = 256;
/// How long the first error in a row is waited out, doubling up to the longest.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the answers under way may take when another process is to receive the queries.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

impl DnsServer {
    /// Answers what arrives at `socket`, to where it came from, until the future is dropped. Errors of the socket are
    /// waited out: a resolver that ends would leave its sandbox without names.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        self.serve_udp_until(socket, CancellationToken::new()).await;
    }

    /// As [`Self::serve_udp`], and when `ends` is cancelled: receives no more, so that what arrives waits for whoever receives next,
    /// and returns when the answers under way are sent, or late.
    pub(crate) async fn serve_udp_until(self: Arc<Self>, socket: UdpSocket, ends: CancellationToken) {
        let socket = Arc::new(socket);
        // Dropped with this future, and its tasks with it.
        let mut answering: JoinSet<()> = JoinSet::new();
        let (deciding, waiting) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(WAITING)));
        let telling = Arc::clone(&self);
        let mut telling = std::pin::pin!(telling.tell_unrecorded());
        // A byte more than a query may have: a longer one is cut there, and found too long.
        let mut buffer = vec![0; MAX_QUERY + 1];
        let mut pause = PAUSE;
        loop {
            while answering.try_join_next().is_some() {}
            let received = tokio::select! {
                received = socket.recv_from(&mut buffer) => received,
                () = ends.cancelled() => break,
                () = telling.as_mut() => break, // which never comes
            };
            match received {
                Ok((length, client)) => {
                    pause = PAUSE;
                    let Ok(place) = Arc::clone(&deciding).try_acquire_owned() else {
                        self.count_lost();
                        continue;
                    };
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    let waiting = Arc::clone(&waiting);
                    let query = buffer[..length].to_vec();
                    answering.spawn(async move {
                        let Some(reply) = server.answer_udp(&query).await else { return };
                        drop(place);
                        if !reply.turn.is_zero() {
                            let Ok(_waits) = waiting.try_acquire() else { return };
                            tokio::time::sleep(reply.turn).await;
                        }
                        // Nothing can be done for a client that is no longer there.
                        let _ = socket.send_to(&reply.message, client).await;
                    });
                }
                // An ICMP message about an answer to a client that has gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::warn!("cannot receive DNS queries: {error}; retrying in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        let answered = async { while answering.join_next().await.is_some() {} };
        // Who gets none asks again, and is answered by the next to receive.
        let _ = tokio::time::timeout(LAST_ANSWERS, answered).await;
    }
}
