//! Watches an HTTP/2 connection, and explains what h2 answers on its own.
//!
//! h2 answers an oversized head with a bare 431, and one far beyond its limit by closing the
//! connection, without telling the server. Here both become an ordinary refusal: the explaining
//! fields are appended to h2's own status, with a body if the client's flow control permits one, or
//! a complete response is sent before a GOAWAY with NO_ERROR.
//!
//! - `scan`: parses frames.
//! - `tally`: what became of each head.
//! - `early`: lets a response end before its request.
//! - `reply`, `window`: a response, and the flow-control window for it.
//! - `unfinished`: limits what incomplete heads cost.

mod early;
mod reply;
mod scan;
mod tally;
#[cfg(test)]
mod tests;
mod unfinished;
mod window;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::linger::Linger;
use crate::wrapped::{Data, Wrapper, inner, write_through};

use early::Early;
use scan::{
    COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame,
    GOAWAY, HEAD, HEADERS, PREFACE, REFUSED_STREAM, RST_STREAM, SETTINGS, Scan, WINDOW_UPDATE,
    is_one_field, number, whole_frame,
};
use tally::Counts;
pub(super) use tally::{Tally, Unserved};
pub(super) use unfinished::Unfinished;
use window::Window;

/// The debug data of h2's GOAWAY when a head is the reason.
const TOO_LARGE: [&[u8]; 2] = [b"too_many_continuations", b"header_list_way_too_large"];
/// Maximum streams in `answers`; h2 serves fewer at once.
const MOST_ANSWERS: usize = 512;

/// Records an oversized head. Returns the response, and how long to wait before reading more.
pub(super) type Explain = Box<dyn FnMut() -> (Response<Bytes>, Duration) + Send>;

/// A stream that is watched.
pub(super) struct Frames<S> {
    stream: S,
    tally: Tally,
    from: Scan,
    to: Scan,
    /// The last stream that the sandbox opened, and whether its head counts.
    opened: u32,
    counts: bool,
    /// Streams with a response in progress; a further head on one of them is its trailers.
    answers: Vec<u32>,
    early: Early,
    unfinished: Unfinished,
    window: Window,
    explain: Explain,
    /// Our own frames, to be written before anything else, and how much of them was written.
    own: Vec<u8>,
    written: usize,
    /// The stream that was answered here last.
    explained: Option<u32>,
    /// A response of ours ends the connection.
    is_last: bool,
    linger: Option<Linger>,
}

/// How to change a frame that h2 is about to write.
enum Change {
    /// Append the explanation to a 431 on this stream.
    Explained(u32),
    /// Reset this answered stream with NO_ERROR.
    NoMore(u32),
    /// Send a response, and a GOAWAY that lets the client accept it.
    Farewell,
}

impl<S> Frames<S> {
    /// Watches `stream`.
    pub(super) fn new(
        stream: S,
        tally: Tally,
        unfinished: Unfinished,
        explain: Explain,
    ) -> Frames<S> {
        Frames {
            stream,
            tally,
            from: Scan::new(PREFACE),
            to: Scan::new(0),
            opened: 0,
            counts: false,
            answers: Vec::new(),
            early: Early::default(),
            unfinished,
            window: Window::new(),
            explain,
            own: Vec::new(),
            written: 0,
            explained: None,
            is_last: false,
            linger: None,
        }
    }

    fn came(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        if self.window.is_short() {
            self.withhold(bytes);
        }
        let Frames { tally, from, opened, counts, answers, early, unfinished, window, .. } = self;
        let mut tally = tally.lock();
        let mut result = Ok(());
        from.take(bytes, |frame| {
            match frame.kind {
                // On a stream that is already open, these are trailers.
                HEADERS => {
                    *counts = frame.stream > *opened
                        && tally.last.is_none_or(|last| frame.stream <= last);
                    *opened = (*opened).max(frame.stream);
                }
                CONTINUATION => {}
                RST_STREAM => {
                    early.over(frame.stream);
                    return answers.retain(|stream| *stream != frame.stream);
                }
                SETTINGS if frame.flags & END_STREAM == 0 => return window.settings(frame),
                WINDOW_UPDATE if frame.stream == 0 => return window.granted(frame),
                _ => return,
            }
            let whole = frame.flags & END_HEADERS != 0;
            tally.whole += u64::from(whole && *counts);
            tally.begun = !whole && *counts;
            if let Err(error) = unfinished.came(frame.length, whole) {
                result = Err(error);
            }
        });
        // An incomplete frame counts as begun, too.
        let partial = self.from.within(HEADERS).filter(|stream| *stream > self.opened);
        tally.begun |= partial.is_some_and(|stream| tally.last.is_none_or(|last| stream <= last));
        result
    }

    /// Withholds from h2 the window that our own responses need.
    fn withhold(&mut self, bytes: &mut [u8]) {
        let Some(mut at) = self.from.next_frame(bytes) else { return };
        while let Some(frame) = whole_frame(bytes, at) {
            let payload = at + HEAD;
            at = payload + frame.length;
            if frame.kind == WINDOW_UPDATE
                && frame.stream == 0
                && let Some(increment) = bytes[payload..at].as_mut_array()
            {
                self.window.withhold(increment);
            }
        }
    }

    fn went(&mut self, bytes: &[u8]) {
        let Frames { tally, to, answers, early, window, .. } = self;
        let mut tally = tally.lock();
        tally.blocked = false;
        let over = |answers: &mut Vec<u32>, early: &mut Early, stream| {
            answers.retain(|answer| *answer != stream);
            early.over(stream);
        };
        to.take(bytes, |frame| match frame.kind {
            DATA => {
                window.spent(frame.length);
                if frame.flags & END_STREAM != 0 {
                    over(answers, early, frame.stream);
                }
            }
            HEADERS => {
                tally.too_large += u64::from(is_bare(answers, frame));
                if frame.flags & END_STREAM != 0 {
                    over(answers, early, frame.stream);
                } else if !answers.contains(&frame.stream) {
                    if answers.len() == MOST_ANSWERS {
                        answers.remove(0);
                    }
                    answers.push(frame.stream);
                    if tally.erred.is_some_and(|at| at.elapsed() < early::PATIENCE) {
                        early.begins(frame.stream);
                    }
                }
            }
            RST_STREAM => {
                let is_refused = number(frame.seen, 0) == Some(REFUSED_STREAM);
                tally.refused += u64::from(is_refused);
                over(answers, early, frame.stream);
            }
            GOAWAY => {
                tally.last = number(frame.seen, 0).map(|last| last & 0x7fff_ffff);
                tally.code = number(frame.seen, 4).unwrap_or_default();
            }
            _ => {}
        });
    }

    fn wrote<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.tally.lock().blocked = polled.is_pending();
        polled
    }

    /// Whether h2's next write may need a change.
    fn may_change(&self) -> bool {
        let counts = self.tally.lock();
        counts.has_unserved() || counts.begun || self.explained.is_some()
    }

    /// The first frame to change in h2's next write: its offset, its length, and the change.
    fn change(&self, bytes: &[u8]) -> Option<(usize, usize, Change)> {
        let counts = self.tally.lock();
        let mut at = self.to.next_frame(bytes)?;
        while let Some(frame) = whole_frame(bytes, at) {
            let length = HEAD + frame.length;
            let change = match frame.kind {
                HEADERS if counts.has_unserved() && is_bare(&self.answers, frame) => {
                    Some(Change::Explained(frame.stream))
                }
                RST_STREAM if self.explained == Some(frame.stream) => {
                    Some(Change::NoMore(frame.stream))
                }
                GOAWAY if !self.is_last && blames_a_head(&counts, frame) => Some(Change::Farewell),
                _ => None,
            };
            if let Some(change) = change {
                return Some((at, length, change));
            }
            at += length;
        }
        None
    }

    /// Queues our own frames instead of h2's frame.
    fn put(&mut self, frame: &[u8], change: &Change) {
        self.own = match change {
            Change::Explained(stream) => {
                self.explained = Some(*stream);
                self.answer(*stream, frame.get(HEAD..), false)
            }
            Change::NoMore(stream) => {
                self.explained = None;
                reply::no_more(*stream)
            }
            Change::Farewell => {
                self.is_last = true;
                let mut own = self.answer(self.opened, None, true);
                own.extend(reply::farewell(self.opened));
                own
            }
        };
        self.went(frame);
        self.tally.lock().too_large -= u64::from(matches!(change, Change::Explained(_)));
    }

    fn answer(&mut self, stream: u32, status: Option<&[u8]>, is_last: bool) -> Vec<u8> {
        let (response, turn) = (self.explain)();
        self.tally.answered(turn, is_last);
        let has_room = self.window.take(response.body().len(), is_last);
        reply::frames(stream, &response, status, has_room)
    }
}

/// Whether a frame is a response with only a status, as h2 sends for an oversized head. hyper's own
/// responses have a date at least.
fn is_bare(answers: &[u32], frame: Frame<'_>) -> bool {
    const ENDS: u8 = END_STREAM | END_HEADERS;
    frame.flags & ENDS == ENDS
        && frame.length == frame.seen.len()
        && is_one_field(frame.seen)
        && !answers.contains(&frame.stream)
}

/// Whether a GOAWAY closes the connection because of the latest head.
fn blames_a_head(counts: &Counts, frame: Frame<'_>) -> bool {
    (counts.begun || counts.has_unserved())
        && match number(frame.seen, 4) {
            Some(ENHANCE_YOUR_CALM) => TOO_LARGE.iter().any(|why| frame.seen.get(8..) == Some(why)),
            Some(COMPRESSION_ERROR) => true,
            _ => false,
        }
}

impl<S: AsyncWrite + Unpin> Frames<S> {
    /// Writes our own queued frames.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.own.len() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.own[self.written..]);
            match ready!(self.wrote(polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.own = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes h2's bytes up to the next change, or queues the change.
    fn poll_changed(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut end = bytes.len();
        match self.change(bytes) {
            Some((0, length, change)) => {
                self.put(&bytes[..length], &change);
                return Poll::Ready(Ok(length));
            }
            Some((at, ..)) => end = at,
            None => {}
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, &bytes[..end]);
        if let Poll::Ready(Ok(count)) = polled {
            self.went(&bytes[..count]);
        }
        self.wrote(polled)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unfinished.are_many() {
            let counts = this.tally.lock();
            if counts.has_unserved() {
                // While a write is blocked nothing is settled; its progress wakes the task.
                if !counts.blocked {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            this.unfinished.judged();
        }
        let before = out.filled().len();
        let polled = this.early.poll_read(&mut this.stream, cx, out);
        if out.filled().len() > before {
            if this.early.keep(out, before, &this.from, cx) {
                return Poll::Pending;
            }
            this.came(&mut out.filled_mut()[before..])?;
        } else if polled.is_pending() {
            return this.unfinished.wait(cx);
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wrapper for Frames<S> {
    inner!(stream: S);

    fn on_write(&mut self, cx: &mut Context<'_>, data: Data<'_>) -> Poll<io::Result<usize>> {
        ready!(self.poll_own(cx))?;
        if self.may_change() {
            return self.poll_changed(cx, data.first());
        }
        let polled = data.write(&mut self.stream, cx);
        if let Poll::Ready(Ok(count)) = polled {
            data.each(count, |bytes| self.went(bytes));
        }
        self.wrote(polled)
    }

    fn on_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        if polled.is_ready() {
            // If h2 resets the stream, it does so in the same flush.
            self.explained = None;
        }
        self.wrote(polled)
    }

    fn on_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_own(cx))?;
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.is_last {
                return Poll::Ready(Ok(()));
            }
        }
        self.linger.get_or_insert_with(Linger::new).poll(&mut self.stream, cx)
    }
}

write_through!(Frames<S>, S: AsyncRead + AsyncWrite + Unpin);
