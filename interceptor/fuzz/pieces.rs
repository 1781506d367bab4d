//! Inputs that come in pieces.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Splits an input into pieces of lengths that it gives itself: the first byte is the number of
/// lengths, the lengths follow and repeat, and the rest is the text.
pub(crate) fn read(data: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let (count, rest) = data.split_first()?;
    let (lengths, text) = rest.split_at_checked(usize::from(count % 5))?;
    let lengths: Vec<usize> = lengths.iter().map(|length| usize::from(*length) + 1).collect();
    Some((if lengths.is_empty() { vec![1] } else { lengths }, text))
}

/// The pieces of a text.
pub(crate) fn cut<'a>(text: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = text;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// A stream that returns one piece per read, and accepts every write.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    pieces: std::vec::IntoIter<&'a [u8]>,
    rest: &'a [u8],
}

impl<'a> Stream<'a> {
    pub(crate) fn new(pieces: Vec<&'a [u8]>) -> Stream<'a> {
        Stream { pieces: pieces.into_iter(), rest: &[] }
    }
}

impl AsyncRead for Stream<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            self.rest = self.pieces.next().unwrap_or_default();
        }
        let (now, later) = self.rest.split_at(self.rest.len().min(out.remaining()));
        out.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A runtime for one input, without threads.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads or I/O")
}
