//! Time limits for peers of the control socket, and how they are dismissed.

use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use super::ApiProblem;

/// Time limit for a request's head, including the idle time before it, and then for its body.
pub(crate) const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// How long to read from a dismissed peer: one cut off while sending may never read the reason.
const HEARD_OUT: Duration = Duration::from_secs(1);
/// The most bytes of a request's body that are read after its answer is known.
const DRAINED: usize = 8 << 20;
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
    /// Gets what nobody has read.
    unread: Arc<Mutex<Option<Body>>>,
}

/// The rest of a request's body, once the handler has dropped it.
pub(crate) struct Unread(Arc<Mutex<Option<Body>>>);

/// Starts the time limit for a request's body.
pub(crate) fn timely(body: Body) -> (Body, Unread) {
    let unread = Unread(Arc::default());
    if body.is_end_stream() {
        return (body, unread);
    }
    let deadline = Box::pin(sleep(ASKED_WITHIN));
    (Body::new(Timely { body, deadline, unread: unread.0.clone() }), unread)
}

impl Drop for Timely {
    fn drop(&mut self) {
        if !self.body.is_end_stream() {
            *lock(&self.unread) = Some(std::mem::take(&mut self.body));
        }
    }
}

impl Unread {
    /// Reads the rest: the kernel resets a connection that is closed with bytes unread, and the
    /// peer may then never see the answer. Not without a limit, in bytes and in time.
    pub(crate) async fn drain(self) {
        let rest = lock(&self.0).take();
        if let Some(rest) = rest {
            drain(rest).await;
        }
    }
}

/// Reads and forgets a body, within limits.
pub(super) async fn drain(body: Body) {
    let read = async {
        let mut left = DRAINED;
        let mut body = body;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    let _ = timeout(HEARD_OUT, read).await;
}

/// What is behind the lock is only replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::convert::Infallible;

    use super::*;

    struct Never;

    struct Parts(tokio::sync::mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

    impl http_body::Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx)
        }
    }

    impl http_body::Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_fails_in_time() {
        let read = axum::body::to_bytes(timely(Body::new(Never)).0, 100);
        timeout(ASKED_WITHIN * 2, read).await.unwrap().unwrap_err();
        let read = axum::body::to_bytes(timely(Body::from("whole")).0, 100).await;
        assert_eq!(read.unwrap(), "whole");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_read_of_a_body_is_read_within_limits() {
        let (sender, parts) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let stream = Parts(parts);
        let (body, unread) = timely(Body::new(stream));
        drop(body);
        let fed = tokio::spawn(async move {
            let mut fed = 0;
            while sender.send(Ok(Frame::data(Bytes::from(vec![0; 1 << 20])))).await.is_ok() {
                fed += 1;
            }
            fed
        });
        unread.drain().await;
        let fed: usize = fed.await.unwrap();
        assert!((DRAINED >> 20..=(DRAINED >> 20) + 2).contains(&fed), "{fed}");
        // One that never comes ends too, and one that was read has no rest.
        let (body, unread) = timely(Body::new(Never));
        drop(body);
        unread.drain().await;
        let (body, unread) = timely(Body::from("whole"));
        axum::body::to_bytes(body, 100).await.unwrap();
        assert!(lock(&unread.0).is_none());
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
