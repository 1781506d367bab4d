//! Watches a stream that is no longer HTTP messages (a WebSocket, or whatever else a 101 began) for real keys.
//!
//! Inside foreign framing nothing can be replaced without breaking it, so a key that comes back ends the connection
//! before its last byte has passed. What was passed by then is no more than the scanner gives away elsewhere: what key and
//! placeholder have in common, and after a pause at most three bytes more. WebSocket frames of one message can cut a key
//! in two with a header between: [`StreamGuard`] looks at the bytes of the stream as they are, so that is found only where
//! the key stands in one frame. `permessage-deflate` is never negotiated on a governed host (`inject` removes the offer).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};

use super::scan::{Scanner, Scrub};

/// How much is read from the origin at once, bytes.
const PIECE: usize = 16 * 1024;

/// A real key was in the stream: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the origin sent a real key through an upgraded connection")]
pub struct Leak;

/// One direction, origin to sandbox, of an upgraded connection.
#[derive(Debug)]
pub struct StreamGuard {
    scrub: Scrub,
}

impl StreamGuard {
    pub(super) fn new(scanner: Arc<Scanner>) -> StreamGuard {
        StreamGuard { scrub: Scrub::new(scanner) }
    }

    /// Takes what the origin sent and gives what may be passed on now.
    ///
    /// # Errors
    /// A key was found. Nothing further may be passed on.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, Leak> {
        let passed = self.scrub.push(chunk);
        self.checked(passed)
    }

    /// The origin has ended its direction: gives what was held.
    ///
    /// # Errors
    /// A key was found. Nothing further may be passed on.
    pub fn finish(&mut self) -> Result<Bytes, Leak> {
        let passed = self.scrub.finish();
        self.checked(passed)
    }

    fn checked(&self, passed: Bytes) -> Result<Bytes, Leak> {
        if self.scrub.matches() == 0 { Ok(passed) } else { Err(Leak) }
    }
}

/// The origin's half of an upgraded connection behind a [`StreamGuard`]: reading it fails with [`Leak`] as
/// [`io::ErrorKind::InvalidData`] where a key comes back.
#[derive(Debug)]
pub struct Guarded<R> {
    origin: R,
    guard: StreamGuard,
    ready: Bytes,
    scratch: Vec<u8>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Guarded<R> {
    /// Watches what is read from `origin`.
    pub fn new(origin: R, guard: StreamGuard) -> Guarded<R> {
        Guarded { origin, guard, ready: Bytes::new(), scratch: vec![0; PIECE], ended: false }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Guarded<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let leak = |leak| io::Error::new(io::ErrorKind::InvalidData, leak);
        while this.ready.is_empty() && !this.ended {
            let mut scratch = ReadBuf::new(&mut this.scratch);
            match Pin::new(&mut this.origin).poll_read(context, &mut scratch) {
                Poll::Ready(result) => {
                    result?;
                    let read = scratch.filled();
                    this.ended = read.is_empty();
                    this.ready = if this.ended {
                        this.guard.finish().map_err(leak)?
                    } else {
                        this.guard.push(Bytes::copy_from_slice(read)).map_err(leak)?
                    };
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        let length = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready[..length]);
        this.ready.advance(length);
        Poll::Ready(Ok(()))
    }
}
