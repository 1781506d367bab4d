//! Queries over TCP (RFC 7766): length-prefixed, several in flight, answered out of order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::DnsServer;
use super::question::MAX_QUERY;

/// Queries in flight per connection; reading pauses at the limit.
const AT_ONCE: usize = 16;
/// The maximum number of queries per connection.
const QUERIES: usize = 1000;
/// Idle timeout, and time limit for a client to read a response.
const IDLE: Duration = Duration::from_secs(10);

impl DnsServer {
    /// Answers the queries of one connection until the client closes it, idles, or violates the
    /// protocol.
    pub(crate) async fn serve_tcp<S>(self: Arc<Self>, stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.serve_tcp_with(stream, IDLE).await
    }

    pub(super) async fn serve_tcp_with<S>(
        self: Arc<Self>,
        mut stream: S,
        idle: Duration,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut received = BytesMut::with_capacity(2 + MAX_QUERY);
        // Dropped with this future, and its tasks with it.
        let mut answering: JoinSet<Option<Vec<u8>>> = JoinSet::new();
        let mut asked = 0;
        let mut reading = true;
        loop {
            while reading && answering.len() < AT_ONCE {
                match take_frame(&mut received) {
                    Ok(Some(query)) => {
                        asked += 1;
                        reading = asked < QUERIES;
                        let server = Arc::clone(&self);
                        answering.spawn(async move {
                            let reply = server.answer_tcp(&query).await?;
                            if !reply.turn.is_zero() {
                                tokio::time::sleep(reply.turn).await;
                            }
                            Some(reply.message)
                        });
                    }
                    Ok(None) => break,
                    // Stop reading, but still answer earlier queries.
                    Err(TooLong) => reading = false,
                }
            }
            if !reading && answering.is_empty() {
                return Ok(());
            }
            let more = reading && answering.len() < AT_ONCE;
            tokio::select! {
                Some(done) = answering.join_next() => {
                    // A panic or an ignored message closes the connection.
                    let Ok(Some(answer)) = done else { return Ok(()) };
                    timeout(idle, send(&mut stream, &answer)).await??;
                }
                count = timeout(idle, stream.read_buf(&mut received)), if more => match count {
                    Ok(count) => reading = count? > 0,
                    // The client is waiting while answers are in progress.
                    Err(_) if answering.is_empty() => return Ok(()),
                    Err(_) => {}
                },
            }
        }
    }
}

struct TooLong;

/// The next complete query. The parser rejects an empty one.
fn take_frame(received: &mut BytesMut) -> Result<Option<BytesMut>, TooLong> {
    let Some(&prefix) = received.first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(prefix));
    if length > MAX_QUERY {
        return Err(TooLong);
    }
    if received.len() < 2 + length {
        received.reserve(2 + length - received.len());
        return Ok(None);
    }
    received.advance(2);
    Ok(Some(received.split_to(length)))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, answer: &[u8]) -> io::Result<()> {
    // An answer is made for at most this much.
    let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
    // One write, so that prefix and answer leave in one segment.
    stream.write_all(&[&length.to_be_bytes(), answer].concat()).await?;
    stream.flush().await
}
