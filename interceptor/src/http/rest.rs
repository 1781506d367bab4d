//! An HTTP/1.1 connection between requests: hyper, with 16 KiB of buffers, exists only while the
//! connection is active. After [`REST`] without activity the stream is taken back from it, and lent
//! to a new instance when the next request begins.
//!
//! hyper holds nothing that could be lost if no request is open, everything it wrote is flushed,
//! and its last action was to ask for more after the filter had delivered every byte and before the
//! next message began.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Activity;
use super::body::Download;
use super::redact::BoxError;
use super::strict::Strict;
use crate::wrapped::{Data, Wrapper, write_through};

/// How long the connection must have been idle.
const REST: Duration = Duration::from_millis(250);
/// The longest pause between two checks while a request in progress is not moving.
const MOST_PAUSE: Duration = Duration::from_secs(8);

/// The state of a connection's stream while hyper has it.
#[derive(Debug)]
pub(super) struct Home<S> {
    /// The stream, once it is back.
    stream: Mutex<Option<Box<Strict<S>>>>,
    /// Whether it should come back; otherwise it is dropped with its borrower.
    wanted: AtomicBool,
    /// The last read was between messages, and returned nothing.
    waits: AtomicBool,
    /// Everything written is flushed.
    flushed: AtomicBool,
    requests: Arc<AtomicUsize>,
}

impl<S> Home<S> {
    pub(super) fn new() -> Arc<Home<S>> {
        Arc::new(Home {
            stream: Mutex::default(),
            wanted: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            flushed: AtomicBool::new(true),
            requests: Arc::default(),
        })
    }

    /// Lends the stream out.
    pub(super) fn lend(self: &Arc<Self>, stream: Box<Strict<S>>) -> Lent<S> {
        self.waits.store(false, Ordering::Relaxed);
        Lent { stream: Some(stream), home: self.clone() }
    }

    /// Drops the borrower and takes the stream back from it.
    pub(super) fn take_back(&self, borrower: impl Sized) -> Option<Box<Strict<S>>> {
        self.wanted.store(true, Ordering::Relaxed);
        drop(borrower);
        self.wanted.store(false, Ordering::Relaxed);
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Counts a request as open until the returned value is dropped.
    pub(super) fn open(&self) -> OpenRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self.requests.clone())
    }

    fn rests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
            && self.waits.load(Ordering::Relaxed)
            && self.flushed.load(Ordering::Relaxed)
    }

    /// Returns when the stream may be taken back. This runs in the connection's task, so nothing
    /// changes before the caller does so.
    pub(super) async fn rest(&self, activity: &Activity) {
        let mut pause = REST;
        loop {
            activity.stillness(REST).await;
            if self.rests() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = MOST_PAUSE.min(pause * 2);
        }
    }
}

/// A stream that is lent out.
#[derive(Debug)]
pub(super) struct Lent<S> {
    /// Present until this is dropped.
    stream: Option<Box<Strict<S>>>,
    home: Arc<Home<S>>,
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        if self.home.wanted.load(Ordering::Relaxed) {
            *self.home.stream.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
        }
    }
}

impl<S> Lent<S> {
    fn stream(&mut self) -> io::Result<Pin<&mut Strict<S>>>
    where
        S: Unpin,
    {
        self.stream.as_deref_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = this.stream()?.poll_read(cx, out);
        let between = this.stream.as_deref().is_some_and(Strict::is_between_messages);
        this.home.waits.store(polled.is_pending() && between, Ordering::Relaxed);
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wrapper for Lent<S> {
    type Inner = Strict<S>;

    fn inner(&self) -> Option<&Strict<S>> {
        self.stream.as_deref()
    }

    fn inner_mut(&mut self) -> Option<&mut Strict<S>> {
        self.stream.as_deref_mut()
    }

    fn on_write(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        self.home.flushed.store(false, Ordering::Relaxed);
        data.write(self.stream()?.get_mut(), cx)
    }

    fn on_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.stream()?.poll_flush(cx);
        self.home.flushed.store(matches!(polled, Poll::Ready(Ok(()))), Ordering::Relaxed);
        polled
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.home.flushed.store(false, Ordering::Relaxed);
        self.stream()?.poll_shutdown(cx)
    }
}

write_through!(Lent<S>, S: AsyncRead + AsyncWrite + Unpin);

/// An open request: from its head until its response is passed on completely.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<AtomicUsize>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response, which keeps its request open.
pub(super) struct Counted {
    pub(super) body: Download,
    pub(super) _open: OpenRequest,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::strict::Ceilings;
    use super::*;

    fn ceilings() -> Ceilings {
        Ceilings { head_bytes: 1024, headers: 16, time: Duration::from_secs(10) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_rests_only_between_messages_and_comes_back_on_request() {
        const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (strict, _notes) = Strict::new(ours, bytes::BytesMut::new(), ceilings);
        let (home, activity) = (Home::new(), Activity::default());
        let rests = async || tokio::time::timeout(REST * 64, home.rest(&activity)).await.is_ok();
        let mut room = [0; 1024];
        let mut lent = home.lend(Box::new(strict));
        assert!(!rests().await, "nobody has asked for more");
        theirs.write_all(REQUEST).await.unwrap();
        assert_eq!(lent.read(&mut room).await.unwrap(), REQUEST.len());
        assert!(!rests().await, "the body is to come");
        assert!(tokio::time::timeout(REST, lent.read(&mut room)).await.is_err());
        assert!(!rests().await, "the body is waited for");
        theirs.write_all(b"body").await.unwrap();
        assert_eq!(lent.read(&mut room).await.unwrap(), 4);
        assert!(!rests().await, "what was read last may wait in hyper");
        assert!(tokio::time::timeout(REST, lent.read(&mut room)).await.is_err());
        let open = home.open();
        assert!(!rests().await, "it is not answered");
        drop(open);
        lent.write_all(b"answer").await.unwrap();
        assert!(!rests().await, "the answer is not flushed");
        lent.flush().await.unwrap();
        assert!(rests().await);

        let mut strict = home.take_back(lent).unwrap();
        theirs.write_all(&REQUEST[..9]).await.unwrap();
        std::future::poll_fn(|cx| strict.poll_begun(cx)).await.unwrap();
        let mut lent = home.lend(strict);
        theirs.write_all(&REQUEST[9..]).await.unwrap();
        assert_eq!(lent.read(&mut room).await.unwrap(), REQUEST.len());
        assert_eq!(&room[..REQUEST.len()], REQUEST);
        drop(lent);
        assert!(home.take_back(()).is_none(), "one that is not wanted ends");
        assert_eq!(theirs.read(&mut room).await.unwrap(), 6);
        assert_eq!(theirs.read(&mut room).await.unwrap(), 0);
    }
}
