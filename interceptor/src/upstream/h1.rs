//! An HTTP/1.1 connection to an origin that tracks whether any byte arrived since the last request.
//!
//! An origin may close a kept connection at any moment, even while a request is in transit (RFC
//! 9112 section 9.3.1). If it closes before the first byte of a response, a safe request can be
//! retried.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Outgoing;
use crate::wrapped::{Wrapper, inner, write_through};

/// A request without a response.
#[derive(Debug)]
pub(crate) struct SendError {
    /// What went wrong.
    pub error: hyper::Error,
    /// The request, if none of it was sent: it can be retried on another connection.
    pub unsent: Option<Request<Outgoing>>,
    /// Whether a reused connection ended before the first byte of this response.
    pub stale: bool,
}

/// The sending half.
#[derive(Debug)]
pub(super) struct H1 {
    sender: http1::SendRequest<Outgoing>,
    heard: Arc<AtomicBool>,
}

impl H1 {
    /// Begins HTTP/1.1 on a connection.
    pub(super) async fn handshake<S>(stream: S) -> hyper::Result<H1>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let heard = Arc::new(AtomicBool::new(false));
        let stream = TokioIo::new(Listening { stream, heard: heard.clone() });
        let (sender, connection) = http1::Builder::new().max_headers(256).handshake(stream).await?;
        // Ends when the sender is dropped and the response read, or when the origin closes.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(H1 { sender, heard })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until the connection accepts a request.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        self.sender.ready().await
    }

    /// Sends a request. `used` tells that the connection has carried one before.
    pub(super) async fn send(
        &mut self,
        request: Request<Outgoing>,
        used: bool,
    ) -> Result<Response<Incoming>, SendError> {
        self.heard.store(false, Ordering::Relaxed);
        self.sender.try_send_request(request).await.map_err(|mut failed| {
            let unsent = failed.take_message();
            let error = failed.into_error();
            let stale = used
                && unsent.is_none()
                && has_ended(&error)
                && !self.heard.load(Ordering::Relaxed);
            SendError { error, unsent, stale }
        })
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
    heard: Arc<AtomicBool>,
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
            this.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Wrapper for Listening<S> {
    inner!(stream: S);
}

write_through!(Listening<S>, S: AsyncWrite + Unpin);
