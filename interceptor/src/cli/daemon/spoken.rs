//! A connection that is read only once something was sent over it.
//!
//! A daemon that turns a peer away says so at once, perhaps before the request is sent. hyper
//! takes a response that no request preceded for an error of the connection, and the reason would
//! be lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that is not read before the first write.
#[derive(Debug)]
pub(super) struct Spoken<S> {
    stream: S,
    has_spoken: bool,
    reader: Option<Waker>,
}

impl<S> Spoken<S> {
    /// Over this stream.
    pub(super) fn over(stream: S) -> Spoken<S> {
        Spoken { stream, has_spoken: false, reader: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Spoken<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_spoken {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        self.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Spoken<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.has_spoken = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{Request, StatusCode};
    use http_body_util::Full;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_response_that_came_before_the_request_is_read() {
        let (client, mut server) = UnixStream::pair().unwrap();
        server.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let spoken = TokioIo::new(Spoken::over(client));
        let (mut sender, connection) = http1::handshake(spoken).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/healthz").body(Full::new(Bytes::new())).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
}
