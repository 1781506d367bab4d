//! Queries over TCP (RFC 7766): length-prefixed, several under way at once, answered as they are ready.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::DnsServer;
use super::question::MAX_QUERY;

/// Queries of one connection answered at the same time; the next are not read before one is done.
const AT_ONCE: usize = 16;
/// Queries that one connection may ask.
const QUERIES: usize = 1000;
/// How long a connection may be silent, and how long a client may take to read an answer.
const IDLE: Duration = Duration::from_secs(10);

impl DnsServer {
    /// Answers the queries of one connection until the client ends it, falls silent, or breaks the rules.
    pub async fn serve_tcp<S>(self: Arc<Self>, stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.serve_tcp_with(stream, IDLE).await
    }

    pub(super) async fn serve_tcp_with<S>(self: Arc<Self>, mut stream: S, idle: Duration) -> io::Result<()>
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
                    // What follows cannot be understood; what was asked before is still answered.
                    Err(TooLong) => reading = false,
                }
            }
            if !reading && answering.is_empty() {
                return Ok(());
            }
            let more = reading && answering.len() < AT_ONCE;
            tokio::select! {
                Some(done) = answering.join_next() => {
                    // Neither a panic nor a message that deserves silence is answered: the connection ends.
                    let Ok(Some(answer)) = done else { return Ok(()) };
                    timeout(idle, send(&mut stream, &answer)).await??;
                }
                count = timeout(idle, stream.read_buf(&mut received)), if more => match count {
                    Ok(count) => reading = count? > 0,
                    // Silence while answers are being made is the client waiting.
                    Err(_) if answering.is_empty() => return Ok(()),
                    Err(_) => {}
                },
            }
        }
    }
}

struct TooLong;

/// The next whole query. An empty one is too short to be one, and is refused by whoever reads it.
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
