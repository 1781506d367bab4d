//! Lets the response to an unfinished request end first.
//!
//! curl 7.88 ends its upload as soon as it reads an error status, with fewer bytes than it
//! announced. h2 then resets the stream (RFC 9113 section 8.1.1), and drops what it has not written
//! of the response. So the end of a request waits for the end of a response that may be an error.
//! Which is one, compression hides: those that begin right after an error was answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

use super::scan::{DATA, END_STREAM, Scan};

/// How long after an error a response may be that error, and how long the end of its request waits,
/// once. While it does, nothing behind it is read, window updates included.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The most streams in `errors`; h2 serves fewer at once.
const MOST: usize = 512;

/// Reads a connection, and keeps back what must wait.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Bytes that were read and not yet passed on, and how many of them were.
    kept: Vec<u8>,
    passed: usize,
    /// Streams with a response in progress that may be an error.
    errors: Vec<u32>,
    /// The one of them that must end first.
    awaited: Option<(u32, Pin<Box<Sleep>>, Waker)>,
}

impl Early {
    /// Waits until nothing must be kept back, then reads from `stream`, or what was kept.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some((awaited, timer, waker)) = &mut self.awaited {
            waker.clone_from(cx.waker());
            ready!(timer.as_mut().poll(cx));
            let overdue = *awaited;
            self.over(overdue);
        }
        if self.kept.is_empty() {
            return Pin::new(stream).poll_read(cx, out);
        }
        let count = out.remaining().min(self.kept.len() - self.passed);
        out.put_slice(&self.kept[self.passed..self.passed + count]);
        self.passed += count;
        if self.passed == self.kept.len() {
            (self.kept, self.passed) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes back the end of a request whose response must end first, and what follows it. `before`
    /// is where the bytes just read begin in `out`. Returns whether nothing is left of them.
    pub(super) fn keep(
        &mut self,
        out: &mut ReadBuf<'_>,
        before: usize,
        from: &Scan,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.errors.is_empty() {
            return false;
        }
        let read = &out.filled()[before..];
        let found = from.find(read, |kind, flags, stream| {
            kind == DATA && flags & END_STREAM != 0 && self.errors.contains(&stream)
        });
        let Some((at, stream)) = found else { return false };
        let rest = self.kept.split_off(self.passed);
        self.kept = [&read[at..], &rest].concat();
        self.passed = 0;
        out.set_filled(before + at);
        let mut timer = Box::pin(tokio::time::sleep(PATIENCE));
        let _ = timer.as_mut().poll(cx); // so that it wakes this task
        self.awaited = Some((stream, timer, cx.waker().clone()));
        at == 0
    }

    /// Notes that a response begins on this stream that may be an error.
    pub(super) fn begins(&mut self, stream: u32) {
        if self.errors.len() < MOST {
            self.errors.push(stream);
        }
    }

    /// Notes that the response on this stream is over.
    pub(super) fn over(&mut self, stream: u32) {
        self.errors.retain(|error| *error != stream);
        if let Some((_, _, waker)) = self.awaited.take_if(|(awaited, ..)| *awaited == stream) {
            waker.wake();
        }
    }
}
