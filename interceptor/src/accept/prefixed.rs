//! A stream whose first bytes were already read to recognise its protocol.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::wrapped::{Wrapper, inner, write_through};

/// A stream whose first bytes were already read.
pub(super) struct Prefixed {
    pub(super) first: BytesMut,
    pub(super) stream: TcpStream,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, out);
        }
        let count = this.first.len().min(out.remaining());
        out.put_slice(&this.first[..count]);
        this.first.advance(count);
        if this.first.is_empty() {
            // Free its memory before the connection ends.
            this.first = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl Wrapper for Prefixed {
    inner!(stream: TcpStream);
}

write_through!(Prefixed);
