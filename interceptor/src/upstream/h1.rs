//! An HTTP/1.1 connection to an origin that tracks whether any byte arrived since the last request.
//!
//! An origin may close a kept connection at any moment, even while a request is in transit (RFC
//! 9112 section 9.3.1). If it closes before the first byte of a response, a safe request can be
//! retried.
//!
//! A connection has no task of its own: the task that waits for a response drives it, so that an
//! exchange wakes one task, not two. It gets its own task when no reader drives it any more: the
//! request's body outlasts the response's head, protocols are switched, or the connection is
//! dropped and must close in good order.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bell::Bell;
use super::body::Outgoing;
use crate::wrapped::{Wrapper, inner, write_through};

/// A request without a response.
#[derive(Debug)]
pub(crate) struct SendError {
    /// What went wrong.
    pub error: hyper::Error,
    /// The request, if none of it was sent: it can be retried on another connection.
    pub unsent: Option<Request<Outgoing>>,
    /// Whether a new connection may bring a response: a reused one ended before the first byte of
    /// this one.
    pub stale: bool,
}

/// How many header fields a response may have.
const MOST_FIELDS: usize = 256;

/// What moves a connection when it is polled.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is seen of a connection from outside hyper.
#[derive(Debug, Default)]
struct Seen {
    /// Data arrived since the last request.
    heard: AtomicBool,
    /// A request's body is not over.
    sending: AtomicBool,
}

/// A connection.
pub(crate) struct H1 {
    sender: http1::SendRequest<Sent>,
    seen: Arc<Seen>,
    /// `None` once it has ended or has a task of its own.
    driver: Option<Driver>,
    bell: Bell,
}

impl fmt::Debug for H1 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("H1").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl H1 {
    /// Begins HTTP/1.1 on a connection.
    pub(super) async fn handshake<S>(stream: S) -> hyper::Result<H1>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let seen = Arc::new(Seen::default());
        let stream = TokioIo::new(Listening { stream, seen: seen.clone() });
        let (sender, connection) =
            http1::Builder::new().max_headers(MOST_FIELDS).handshake(stream).await?;
        // Ends when the sender is dropped and the response read, or when the origin closes.
        let driver = Box::pin(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(H1 { sender, seen, driver: Some(driver), bell: Bell::new() })
    }

    /// Asks, and drives the connection, until there is an answer. `ask` needs no waker: only the
    /// connection brings an answer.
    pub(super) fn attend<T>(
        &mut self,
        cx: &mut Context<'_>,
        ask: impl FnMut() -> Poll<T>,
    ) -> Poll<T> {
        let driver = &mut self.driver;
        self.bell.attend(cx, ask, |cx| drive(driver, cx))
    }

    /// Whether its user must drive it.
    pub(super) fn is_driven(&self) -> bool {
        self.driver.is_some()
    }

    /// Whether it is known to be closed.
    pub(super) fn has_ended(&self) -> bool {
        self.sender.is_closed()
    }

    /// Gives the connection a task of its own.
    fn release(&mut self) {
        if let Some(driver) = self.driver.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(driver);
        }
    }

    /// Whether it can take a request now. Notices what the origin did while it was idle.
    pub(super) fn is_ready(&mut self) -> bool {
        self.look();
        self.sender.is_ready()
    }

    /// Whether it is closed. Notices what the origin did while it was idle.
    pub(super) fn is_closed(&mut self) -> bool {
        self.look();
        self.sender.is_closed()
    }

    /// Moves it as far as it goes now. Nobody is woken when it could go on.
    fn look(&mut self) {
        self.bell.forget();
        drive(&mut self.driver, &mut Context::from_waker(Waker::noop()));
    }

    /// Waits until the connection accepts a request.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        poll_fn(|cx| {
            drive(&mut self.driver, cx);
            self.sender.poll_ready(cx)
        })
        .await
    }

    /// Sends a request. `used` tells that the connection has carried one before.
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing>,
        used: bool,
    ) -> Result<Response<Incoming>, SendError> {
        self.seen.heard.store(false, Ordering::Relaxed);
        self.seen.sending.store(!request.body().is_end_stream(), Ordering::Relaxed);
        let end = End(self.seen.clone());
        let request = request.map(|body| Sent { body, _end: end });
        let mut sent = pin!(self.sender.try_send_request(request));
        let (driver, bell) = (&mut self.driver, &mut self.bell);
        let response = poll_fn(|cx| {
            if driver.is_none() {
                return sent.as_mut().poll(cx);
            }
            // Only the connection brings a response: to be woken by it is enough.
            let ask = || sent.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            bell.attend(cx, ask, |cx| drive(driver, cx))
        })
        .await;
        match response {
            Ok(response) => {
                if self.seen.sending.load(Ordering::Relaxed)
                    || response.status() == StatusCode::SWITCHING_PROTOCOLS
                {
                    self.release();
                }
                Ok(response)
            }
            Err(mut failed) => {
                let unsent = failed.take_message().map(|request| request.map(|sent| sent.body));
                let error = failed.into_error();
                let stale = used
                    && unsent.is_none()
                    && has_ended(&error)
                    && !self.seen.heard.load(Ordering::Relaxed);
                Err(SendError { error, unsent, stale })
            }
        }
    }
}

impl Drop for H1 {
    fn drop(&mut self) {
        self.release();
    }
}

/// Moves a connection as far as it goes.
fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(connection) = driver
        && connection.as_mut().poll(cx).is_ready()
    {
        *driver = None;
    }
}

/// A request's body that tells when the connection is done with it.
struct Sent {
    body: Outgoing,
    _end: End,
}

/// Tells it when dropped.
struct End(Arc<Seen>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.sending.store(false, Ordering::Relaxed);
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = <Outgoing as Body>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the connection closed, cleanly or by a reset, rather than failed otherwise.
fn has_ended(error: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    if error.is_incomplete_message() {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            let kind = error.kind();
            return matches!(
                kind,
                BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
            );
        }
        source = cause.source();
    }
    false
}

/// A connection that notes when data arrives.
#[derive(Debug)]
struct Listening<S> {
    stream: S,
    seen: Arc<Seen>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, out);
        if out.filled().len() > before {
            this.seen.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Wrapper for Listening<S> {
    inner!(stream: S);
}

write_through!(Listening<S>, S: AsyncWrite + Unpin);

#[cfg(test)]
#[path = "h1_tests.rs"]
mod tests;
