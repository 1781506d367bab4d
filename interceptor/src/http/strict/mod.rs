//! A filter between the sandbox and hyper on HTTP/1.1 connections (RFC 9112): it lets complete,
//! well-formed messages through unchanged, and nothing else.
//!
//! hyper is lenient where a proxy must not be: it drops a fragment from the target, and it answers
//! a malformed head with an empty 400 that nobody can act on and no record mentions. Here every
//! head is held until it is complete and has passed [`head::check`], and a body is followed to its
//! end, so that the next head is known to be one (attack H1, H3, H5). A refused message is replaced
//! by a request that only this module can make. So its refusal is handled like any other: in order,
//! explained, and recorded once; then the connection closes.
//!
//! It decides nothing: hyper parses what is judged and forwarded. This filter can only refuse.

pub(crate) mod head;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use memchr::memmem::Finder;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::linger::Linger;
use crate::wrapped::{Wrapper, inner, write_through};
pub(crate) use head::REFUSED_METHOD;
use head::{Framing, Refused};

/// The end of a head. Made once, because making it costs more than looking for it.
static HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

const STAND_IN: &[u8] = b"INTERCEPTOR-REFUSED / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// What the pipeline and the filter of one connection tell each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    refused: Option<Refused>,
    upgrade: Upgrade,
    waiting: Option<Waker>,
    /// A head has begun and is incomplete.
    unfinished: bool,
}

/// The outcome of a request to upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Not known yet: nothing is read.
    #[default]
    Pending,
    /// The origin switched protocols: the bytes are no longer HTTP.
    Switched,
    /// It did not: the next request follows.
    Declined,
}

impl Notes {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing panics while the lock is held, and each field is valid at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the message behind the stand-in was refused.
    pub(crate) fn refused(&self) -> Option<Refused> {
        self.lock().refused.clone()
    }

    /// Whether a head has begun and is incomplete.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.lock().unfinished
    }

    /// Sets the outcome of the current request's upgrade.
    pub(crate) fn upgrade(&self, outcome: Upgrade) {
        let mut inner = self.lock();
        inner.upgrade = outcome;
        if let Some(waker) = inner.waiting.take() {
            waker.wake();
        }
    }
}

/// Limits on a request head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceilings {
    /// Bytes of the head, including the request line.
    pub head_bytes: usize,
    /// Number of header fields.
    pub headers: usize,
    /// Time from the first byte of a head to its last.
    pub time: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Collects a head in the buffer. `scanned` bytes are known to hold no end; `skipped` says that
    /// the empty line allowed before a head has come.
    Head { scanned: usize, skipped: bool },
    /// Delivers `count` checked bytes from the front of the buffer, then continues with `next`.
    Deliver { count: usize, next: Next },
    /// Passes `left` body bytes, then continues with `next`.
    Body { left: u64, next: Next },
    /// Collects a line of a chunked body (RFC 9112 section 7.1) in the buffer.
    Line(ChunkLine),
    /// A request to upgrade was delivered; its outcome decides what follows.
    AwaitUpgrade,
    /// Another protocol.
    Raw,
    /// After a refusal: nothing more is delivered.
    Closed,
}

impl State {
    /// The start of a head.
    const HEAD: State = State::Head { scanned: 0, skipped: false };
}

#[derive(Clone, Copy, Debug)]
enum Next {
    Head,
    Body(u64),
    ChunkData(u64),
    Line(ChunkLine),
    AwaitUpgrade,
    Closed,
}

#[derive(Clone, Copy, Debug)]
enum ChunkLine {
    /// `SIZE CRLF`.
    ChunkSize,
    /// The CRLF after a chunk's data.
    ChunkEnd,
    /// A trailer field, or the empty line that ends the message, after this many bytes of trailers.
    Trailer(usize),
}

/// Bytes per read of a head or a line.
const PIECE: usize = 4096;
/// A chunk size line is at most 16 hexadecimal digits and CRLF; extensions are refused (attack H1).
const MOST_CHUNK_LINE: usize = 18;
/// Maximum bytes of a request's trailers.
const MOST_TRAILERS: usize = 8 * 1024;

/// Returns the limits now in force.
struct Current(Box<dyn Fn() -> Ceilings + Send>);

impl fmt::Debug for Current {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0().fmt(formatter)
    }
}

/// A stream whose reading side is filtered.
#[derive(Debug)]
pub(crate) struct Strict<S> {
    stream: S,
    buffer: BytesMut,
    state: State,
    notes: Notes,
    ceilings: Current,
    /// Runs while a head is incomplete (slowloris, attack X3).
    patience: Option<Pin<Box<Sleep>>>,
    /// Reads on after a refusal, while the connection closes.
    linger: Option<Linger>,
}

impl<S> Strict<S> {
    /// Filters `stream`; `first` holds bytes already read from it. `ceilings` returns the limits
    /// now in force; it is called for each head.
    pub(crate) fn new(
        stream: S,
        first: BytesMut,
        ceilings: impl Fn() -> Ceilings + Send + 'static,
    ) -> (Strict<S>, Notes) {
        let notes = Notes::default();
        let ceilings = Current(Box::new(ceilings));
        let strict = Strict {
            stream,
            buffer: first,
            state: State::HEAD,
            notes: notes.clone(),
            ceilings,
            patience: None,
            linger: None,
        };
        (strict, notes)
    }

    fn refuse(&mut self, refused: Refused) -> State {
        self.notes.lock().refused = Some(refused);
        self.buffer.clear();
        self.buffer.extend_from_slice(STAND_IN);
        State::Deliver { count: STAND_IN.len(), next: Next::Closed }
    }

    /// Looks for a complete head in the buffer. Returns the next state, or `None` if more bytes are
    /// needed.
    fn head(&mut self, mut scanned: usize, mut skipped: bool) -> Option<State> {
        // A client may send one empty line before a request line (RFC 9112 section 2.2), in any
        // pieces.
        if !skipped && scanned < 2 && self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
            (scanned, skipped) = (0, true);
        }
        let ceilings = self.ceilings.0();
        let from = scanned.saturating_sub(3).min(self.buffer.len());
        if let Some(at) = HEAD_END.find(&self.buffer[from..]) {
            let end = from + at + 4;
            if end > ceilings.head_bytes {
                return Some(self.refuse(Refused::head_too_large(ceilings.head_bytes)));
            }
            return Some(match head::check(&self.buffer[..end], ceilings.headers) {
                Ok(framing) => {
                    let next = match framing {
                        Framing::None => Next::Head,
                        Framing::Length(bytes) => Next::Body(bytes),
                        Framing::Chunked => Next::Line(ChunkLine::ChunkSize),
                        Framing::Upgrade => {
                            self.notes.lock().upgrade = Upgrade::Pending;
                            Next::AwaitUpgrade
                        }
                    };
                    State::Deliver { count: end, next }
                }
                Err(refused) => self.refuse(refused),
            });
        }
        if self.buffer.len() > ceilings.head_bytes {
            return Some(self.refuse(Refused::head_too_large(ceilings.head_bytes)));
        }
        // Refuse now what cannot become a head, instead of waiting for the client to give up.
        if let Some(refused) = head::cannot_be_head(&self.buffer) {
            return Some(self.refuse(refused));
        }
        self.state = State::Head { scanned: self.buffer.len(), skipped };
        None
    }

    /// Looks for a complete line of a chunked body in the buffer. `None` if more bytes are needed.
    fn line(&self, line: ChunkLine) -> io::Result<Option<State>> {
        let most = match line {
            ChunkLine::ChunkSize => MOST_CHUNK_LINE,
            ChunkLine::ChunkEnd => 2,
            ChunkLine::Trailer(before) => MOST_TRAILERS.saturating_sub(before),
        };
        let Some(end) = memchr::memchr(b'\n', &self.buffer).map(|at| at + 1) else {
            return if self.buffer.len() >= most {
                Err(malformed("a line of a chunked body is too long"))
            } else {
                Ok(None)
            };
        };
        let Some(text) = self.buffer[..end].strip_suffix(b"\r\n").filter(|_| end <= most) else {
            return Err(malformed("a line of a chunked body does not end in CRLF, or is too long"));
        };
        let next = match line {
            ChunkLine::ChunkSize => {
                match head::chunk_size(text)
                    .ok_or_else(|| malformed("a chunk size is malformed"))?
                {
                    0 => Next::Line(ChunkLine::Trailer(0)),
                    size => Next::ChunkData(size),
                }
            }
            ChunkLine::ChunkEnd if text.is_empty() => Next::Line(ChunkLine::ChunkSize),
            ChunkLine::ChunkEnd => return Err(malformed("a chunk is longer than its size")),
            ChunkLine::Trailer(_) if text.is_empty() => Next::Head,
            ChunkLine::Trailer(before) => {
                head::field(text).map_err(|_| malformed("a trailer is malformed"))?;
                Next::Line(ChunkLine::Trailer(before + end))
            }
        };
        Ok(Some(State::Deliver { count: end, next }))
    }
}

impl Next {
    fn state(self) -> State {
        match self {
            Next::Head | Next::Body(0) => State::HEAD,
            Next::Body(left) => State::Body { left, next: Next::Head },
            Next::ChunkData(left) => State::Body { left, next: Next::Line(ChunkLine::ChunkEnd) },
            Next::Line(line) => State::Line(line),
            Next::AwaitUpgrade => State::AwaitUpgrade,
            Next::Closed => State::Closed,
        }
    }
}

fn malformed(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Moves up to `most` bytes from the front of `buffer` to `out`; returns how many.
fn give(buffer: &mut BytesMut, out: &mut ReadBuf<'_>, most: usize) -> usize {
    let count = most.min(buffer.len()).min(out.remaining());
    out.put_slice(&buffer[..count]);
    buffer.advance(count);
    count
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// Reads more into the buffer; `false` at the end of the stream. Reads through the stack, so
    /// that the buffer is only as long as its content and an idle connection holds none.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut piece = [const { MaybeUninit::<u8>::uninit() }; PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut piece);
        if polled.is_pending() && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        ready!(polled)?;
        self.buffer.extend_from_slice(piece.filled());
        Poll::Ready(Ok(!piece.filled().is_empty()))
    }

    /// Ready when an incomplete head has taken too long. No timeout applies between messages.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.buffer.is_empty() {
            return Poll::Pending;
        }
        let begin = || {
            self.notes.lock().unfinished = true;
            Box::pin(tokio::time::sleep(self.ceilings.0().time))
        };
        self.patience.get_or_insert_with(begin).as_mut().poll(cx)
    }

    /// Whether every byte was delivered and the next message has not begun.
    pub(crate) fn is_between_messages(&self) -> bool {
        matches!(self.state, State::Head { .. }) && self.buffer.is_empty()
    }

    /// Ready when the next message begins, or the stream ends or fails. Call it between messages.
    pub(crate) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_between_messages() {
            ready!(self.poll_fill(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The head is complete or refused.
    fn whole(&mut self) {
        if self.patience.take().is_some() {
            self.notes.lock().unfinished = false;
        }
    }

    /// Reads at most `most` bytes into `out`: from the buffer first, then directly from the stream.
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
        most: u64,
    ) -> Poll<io::Result<u64>> {
        if !self.buffer.is_empty() {
            let count = give(&mut self.buffer, out, usize::try_from(most).unwrap_or(usize::MAX));
            return Poll::Ready(Ok(count as u64));
        }
        let before = out.filled().len();
        let mut limited = (&mut self.stream).take(most);
        ready!(Pin::new(&mut limited).poll_read(cx, out))?;
        Poll::Ready(Ok((out.filled().len() - before) as u64))
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// One step through a head: checks what has arrived, or reads more.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        scanned: usize,
        skipped: bool,
    ) -> Poll<io::Result<()>> {
        if self.buffer.len() > scanned
            && let Some(state) = self.head(scanned, skipped)
        {
            self.state = state;
            self.whole();
            return Poll::Ready(Ok(()));
        }
        let Poll::Ready(filled) = self.poll_fill(cx)? else {
            ready!(self.poll_patience(cx));
            self.whole();
            let slow = Refused::head_too_slow(self.ceilings.0().time);
            self.state = self.refuse(slow);
            return Poll::Ready(Ok(()));
        };
        // The stream ended inside a head: there is no message, so nothing is passed on.
        if !filled {
            self.notes.lock().unfinished = !self.buffer.is_empty();
            self.state = State::Closed;
        }
        Poll::Ready(Ok(()))
    }

    /// What follows a request to upgrade.
    fn poll_upgrade(&self, cx: &Context<'_>) -> Poll<State> {
        let mut notes = self.notes.lock();
        match notes.upgrade {
            Upgrade::Pending => {
                notes.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            Upgrade::Switched => Poll::Ready(State::Raw),
            Upgrade::Declined => Poll::Ready(State::HEAD),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // Each iteration returns, consumes bytes, or moves to a state that does.
        loop {
            match this.state {
                State::Deliver { count, next } => {
                    let given = give(&mut this.buffer, out, count);
                    this.state = match count - given {
                        0 => next.state(),
                        count => State::Deliver { count, next },
                    };
                    return Poll::Ready(Ok(()));
                }
                State::Head { scanned, skipped } => {
                    ready!(this.poll_head(cx, scanned, skipped))?;
                    if let State::Closed = this.state {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Line(line) => {
                    if let Some(state) = this.line(line)? {
                        this.state = state;
                    } else if !ready!(this.poll_fill(cx))? {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                State::Body { left, next } => {
                    let count = ready!(this.poll_through(cx, out, left))?;
                    this.state = match left - count {
                        0 => next.state(),
                        left => State::Body { left, next },
                    };
                    return Poll::Ready(Ok(()));
                }
                State::AwaitUpgrade => this.state = ready!(this.poll_upgrade(cx)),
                State::Raw => {
                    ready!(this.poll_through(cx, out, u64::MAX))?;
                    return Poll::Ready(Ok(()));
                }
                // Input is read and dropped, because a reset on close could lose the response.
                State::Closed => {
                    this.buffer.clear();
                    if !ready!(this.poll_fill(cx))? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wrapper for Strict<S> {
    inner!(stream: S);

    fn on_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if self.notes.lock().refused.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
        self.linger.get_or_insert_with(Linger::new).poll(&mut self.stream, cx)
    }
}

write_through!(Strict<S>, S: AsyncRead + AsyncWrite + Unpin);
