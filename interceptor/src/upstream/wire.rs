//! A connection to an origin, below the origin's TLS: TCP, or a tunnel inside TLS to an upstream
//! proxy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The size of the read-ahead buffer.
const EARLY: usize = 4096;

/// The connection.
#[derive(Debug)]
pub(crate) enum Wire {
    /// TCP, to the origin or through a plaintext proxy.
    Tcp(TcpStream),
    /// A tunnel through a proxy that speaks TLS.
    Tls(Box<Wrapped>),
}

/// A tunnel inside TLS to a proxy.
#[derive(Debug)]
pub(crate) struct Wrapped {
    stream: TlsStream<TcpStream>,
    /// Bytes already read.
    early: BytesMut,
}

impl Wire {
    /// A connection inside TLS to a proxy.
    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Wire {
        Wire::Tls(Box::new(Wrapped { stream, early: BytesMut::new() }))
    }

    /// Waits until there is something to read, or the connection has ended or failed. Cancel-safe.
    pub(crate) async fn readable(&mut self) {
        match self {
            Wire::Tcp(stream) => drop(stream.readable().await),
            Wire::Tls(wrapped) if wrapped.early.is_empty() => {
                wrapped.early.reserve(EARLY);
                drop(wrapped.stream.read_buf(&mut wrapped.early).await);
            }
            Wire::Tls(_) => {}
        }
    }

    /// Reads up to and including the first `end`, and nothing after it. `None` if it is not within
    /// `most` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` if the connection ends first.
    pub(super) async fn read_through(
        &mut self,
        end: &[u8],
        most: usize,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut read = Vec::new();
        let mut ahead = [0; 1024];
        while read.len() < most {
            let known = read.len();
            let count = match self {
                // Bytes after the end stay in the socket.
                Wire::Tcp(stream) => stream.peek(&mut ahead).await?,
                Wire::Tls(wrapped) => usize::from(wrapped.stream.read(&mut ahead[..1]).await? > 0),
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read.extend_from_slice(&ahead[..count]);
            let from = known.saturating_sub(end.len() - 1);
            let found = memchr::memmem::find(&read[from..], end).map(|at| from + at + end.len());
            read.truncate(found.unwrap_or(read.len()));
            if let Wire::Tcp(stream) = self {
                stream.read_exact(&mut ahead[..read.len() - known]).await?;
            }
            if found.is_some() {
                return Ok(Some(read));
            }
        }
        Ok(None)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_read(cx, out),
            Wire::Tls(wrapped) if !wrapped.early.is_empty() => {
                let count = wrapped.early.len().min(out.remaining());
                out.put_slice(&wrapped.early[..count]);
                wrapped.early.advance(count);
                Poll::Ready(Ok(()))
            }
            Wire::Tls(wrapped) => Pin::new(&mut wrapped.stream).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(wrapped) => Pin::new(&mut wrapped.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Wire::Tls(wrapped) => Pin::new(&mut wrapped.stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Wire::Tcp(stream) => stream.is_write_vectored(),
            Wire::Tls(wrapped) => wrapped.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(wrapped) => Pin::new(&mut wrapped.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(wrapped) => Pin::new(&mut wrapped.stream).poll_shutdown(cx),
        }
    }
}
