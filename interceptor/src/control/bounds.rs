//! Time limits for peers of the control socket, and how they are dismissed.

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

use super::ApiProblem;

/// Time limit for a request's head, including the idle time before it, and then for its body.
pub(super) const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// How long to read from a dismissed peer: one cut off while sending may never read the reason.
const HEARD_OUT: Duration = Duration::from_secs(1);
/// How many dismissed peers are read from at once.
const HEARD_OUT_AT_ONCE: usize = 16;
/// The most bytes read from a dismissed peer.
const HEARD_BYTES: u64 = 1 << 16;
/// Minimum interval between logged refusals.
const LOGGED_EVERY: Duration = Duration::from_secs(1);

/// A request's body with a time limit.
struct Timely {
    body: Body,
    deadline: Pin<Box<Sleep>>,
}

/// Starts the time limit for a request's body.
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

/// Dismisses peers without blocking on any.
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

    /// The number of refusals to log now; `None` if one was logged recently.
    pub(super) fn log(&mut self) -> Option<u64> {
        self.unlogged += 1;
        if self.logged.is_some_and(|logged| logged.elapsed() < LOGGED_EVERY) {
            return None;
        }
        self.logged = Some(Instant::now());
        Some(std::mem::take(&mut self.unlogged))
    }

    /// Sends the reason and closes the connection; at once if many are being dismissed.
    pub(super) fn dismiss(&self, mut stream: UnixStream, problem: &ApiProblem) {
        let body = serde_json::to_string(problem).unwrap_or_default();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::FORBIDDEN);
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: \
             {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        // Fits the buffer of a fresh socket; otherwise the peer gets no reason.
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
