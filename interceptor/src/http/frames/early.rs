//! Lets the response to an unfinished request end first.
//!
//! curl 7.88 ends its upload as soon as it reads an error status, with fewer bytes than it
//! announced. h2 then resets the stream (RFC 9113 section 8.1.1), and drops what it has not written
//! of the response. So once an error was answered here, the end of a request whose response is in
//! progress waits for the end of that response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::scan::{DATA, END_STREAM, Scan};

/// How long after an error the end of a request may wait, and for how long: while it does, nothing
/// behind it is read, window updates included.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads a connection, and keeps back what must wait.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Bytes that were read and not yet passed on, and how many of them were.
    kept: Vec<u8>,
    passed: usize,
    /// The stream whose response must end first.
    awaited: Option<(u32, Pin<Box<Sleep>>, Waker)>,
    /// The stream that is no longer waited for.
    overdue: Option<u32>,
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
            self.overdue = Some(*awaited);
            self.awaited = None;
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

    /// Takes back the end of a request and what follows it, if one of `answers` must end first.
    /// `before` is where the bytes just read begin in `out`, and `erred` when an error was
    /// answered.
    ///
    /// Returns whether nothing is left of them.
    pub(super) fn keep(
        &mut self,
        out: &mut ReadBuf<'_>,
        before: usize,
        (from, answers): (&Scan, &[u32]),
        erred: Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        if erred.elapsed() >= PATIENCE {
            return false;
        }
        let read = &out.filled()[before..];
        let found = from.find(read, |kind, flags, stream| {
            kind == DATA
                && flags & END_STREAM != 0
                && answers.contains(&stream)
                && self.overdue != Some(stream)
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

    /// Notes that the response on this stream is over.
    pub(super) fn over(&mut self, stream: u32) {
        if let Some((_, _, waker)) = self.awaited.take_if(|(awaited, ..)| *awaited == stream) {
            waker.wake();
        }
    }
}
