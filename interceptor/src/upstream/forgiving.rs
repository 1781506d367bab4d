//! A connection to an origin that may respond and close before reading the whole request: failed
//! writes are discarded, so that the response can still be read.
//!
//! hyper abandons a connection at the first failed write, leaving the response unread in the
//! socket's buffer. Here the reading side decides: it yields the response, or fails soon after.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wrapped::{Data, Wrapper, inner, write_through};

/// The connection.
#[derive(Debug)]
pub(super) struct Forgiving<S> {
    stream: S,
    /// Whether a write has failed.
    broken: bool,
}

impl<S> Forgiving<S> {
    pub(super) fn new(stream: S) -> Forgiving<S> {
        Forgiving { stream, broken: false }
    }

    fn forgive(&mut self, written: io::Result<usize>, all: usize) -> io::Result<usize> {
        match written {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) =>
            {
                self.broken = true;
                Ok(all)
            }
            other => other,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Forgiving<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, out)
    }
}

impl<S: AsyncWrite + Unpin> Wrapper for Forgiving<S> {
    inner!(stream: S);

    fn on_write(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(data.len()));
        }
        let polled = data.write(&mut self.stream, cx);
        polled.map(|written| self.forgive(written, data.len()))
    }

    fn on_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

write_through!(Forgiving<S>, S: AsyncWrite + Unpin);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_was_said_before_a_reset_is_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut stream, mut origin) = (Forgiving::new(client.unwrap()), server.unwrap().0);
        stream.write_all(&[0; 1000]).await.unwrap();
        origin.write_all(b"no").await.unwrap();
        // Closing with unread bytes resets the connection.
        drop(origin);
        for _ in 0..100 {
            stream.write_all(&[0; 1000]).await.unwrap();
        }
        assert!(stream.broken);
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"no");
    }
}
