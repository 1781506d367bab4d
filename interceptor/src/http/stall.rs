//! A stream whose peer must read: a write that stays blocked for the idle limit fails (attack X3).
//! A sandbox that sends requests and never reads keeps its connection and the pending output no
//! longer than that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use interceptor_policy::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::activity::Activity;
use crate::tls::alert::certificate_alert;
use crate::wrapped::{Data, Wrapper, inner, write_through};

/// The stream.
#[derive(Debug)]
pub(crate) struct Stall<S> {
    stream: S,
    idle: Duration,
    /// Told about activity and the end of the stream.
    activity: Arc<Activity>,
    beats: bool,
    /// Something was written since the last flush.
    unflushed: bool,
    /// Present only while a write is blocked.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Stall<S> {
    /// Fails writes to `stream` that stay blocked for `idle`.
    pub(crate) fn new(stream: S, idle: Duration, activity: Arc<Activity>) -> Stall<S> {
        Stall { stream, idle, activity, beats: false, unflushed: false, timer: None }
    }

    /// Counts writes as activity of the connection. Not for HTTP/2, where PING acknowledgements are
    /// written while its streams are idle.
    pub(crate) fn beating(mut self) -> Stall<S> {
        self.beats = true;
        self
    }

    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            // A flush of nothing moves nothing.
            if self.beats && self.unflushed {
                self.activity.beat();
            }
            self.timer = None;
            return polled;
        }
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        timer.as_mut().poll(cx).map(|()| {
            self.activity.end(Reason::IdleTimeout);
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stall<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, out);
        match &polled {
            Poll::Ready(Ok(())) if out.filled().len() == before && out.remaining() > 0 => {
                this.activity.closed(None);
            }
            // A client may check the certificate after the handshake, and send its alert then.
            Poll::Ready(Err(error)) => this.activity.closed(certificate_alert(error)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> Wrapper for Stall<S> {
    inner!(stream: S);

    fn on_write(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        let polled = data.write(&mut self.stream, cx);
        self.unflushed = true;
        self.watched(cx, polled)
    }

    fn on_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        let polled = self.watched(cx, polled);
        self.unflushed &= polled.is_pending();
        polled
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watched(cx, polled)
    }
}

write_through!(Stall<S>, S: AsyncWrite + Unpin);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test(start_paused = true)]
    async fn x3_a_reader_that_never_reads_is_given_up_and_a_slow_one_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut stalled = Stall::new(ours, Duration::from_millis(200), Arc::default());
        let slowly = tokio::spawn(async move {
            let mut sink = [0; 1024];
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut sink).await.unwrap();
            }
            theirs
        });
        stalled.write_all(&[0; 8192]).await.unwrap();
        let _held = slowly.await.unwrap();
        let ended = stalled.write_all(&[0; 8192]).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
