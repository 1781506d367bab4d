//! How long a peer of the control socket may take, and how it is let go.

use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use super::Problem;

/// How long a request's head may take, also the next one's on a connection, and then its body.
pub(super) const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// How long a peer that is let go is heard out: one that is cut off while it sends may never read
/// why.
const HEARD_OUT: Duration = Duration::from_secs(1);
/// How many are heard out at once.
const HEARD_OUT_AT_ONCE: usize = 16;
/// What is heard of one at most.
const HEARD_BYTES: u64 = 1 << 16;
/// How often refusals are logged at most.
const LOGGED_EVERY: Duration = Duration::from_secs(1);

/// A request's body that fails when it does not come in time.
struct Timely {
    body: Body,
    deadline: Pin<Box<Sleep>>,
}

/// Bounds the time that a request's body may take from now on.
pub(super) fn timely(body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    Body::new(Timely { body, deadline: Box::pin(sleep(ASKED_WITHIN)) })
}

impl http_body::Body for Timely {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let late = || axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut));
        self.deadline.as_mut().poll(cx).map(|()| Some(Err(late())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Lets peers go, without being held up by any.
#[derive(Debug)]
pub(super) struct Door {
    heard_out: Arc<Semaphore>,
    logged: Option<Instant>,
    unlogged: u64,
}

impl Door {
    pub(super) fn new() -> Door {
        Door { heard_out: Arc::new(Semaphore::new(HEARD_OUT_AT_ONCE)), logged: None, unlogged: 0 }
    }

    /// Whether to log a refusal now, with how many there were since the last that was logged.
    pub(super) fn log(&mut self) -> Option<u64> {
        self.unlogged += 1;
        if self.logged.is_some_and(|logged| logged.elapsed() < LOGGED_EVERY) {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.unlogged))
    }

    /// Says why, and closes the connection: at once where many are being let go.
    pub(super) fn dismiss(&self, mut stream: UnixStream, problem: &Problem) {
        let body = serde_json::to_string(problem).unwrap_or_default();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::FORBIDDEN);
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        // The buffer of a fresh socket takes it; where it does not, the peer goes without.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(stream.as_raw_fd(), answer.as_bytes(), flags);
        let Ok(permit) = self.heard_out.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let _ = stream.shutdown().await;
            let _ = timeout(HEARD_OUT, copy(&mut stream.take(HEARD_BYTES), &mut sink())).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Never;

    impl http_body::Body for Never {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_fails_in_time() {
        let read = axum::body::to_bytes(timely(Body::new(Never)), 100);
        timeout(ASKED_WITHIN * 2, read).await.unwrap().unwrap_err();
        let read = axum::body::to_bytes(timely(Body::from("whole")), 100).await;
        assert_eq!(read.unwrap(), "whole");
    }

    #[test]
    fn refusals_are_logged_now_and_then_and_all_counted() {
        let mut door = Door::new();
        assert_eq!(door.log(), Some(1));
        assert_eq!((door.log(), door.log()), (None, None));
        door.logged = None;
        assert_eq!(door.log(), Some(3));
    }
}
