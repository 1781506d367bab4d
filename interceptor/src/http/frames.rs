//! Watches an HTTP/2 connection: how many request heads arrived completely, and what h2 answers on
//! its own. It reads frame headers (RFC 9113 section 4.1) and a few payload bytes, changes nothing,
//! and uses constant memory.
//!
//! When h2 resets a stream because of its head, or answers an oversized head with 431, it does not
//! tell the server. The number of such heads is the number of complete heads minus the number of
//! requests served, taken at a moment when none is in between.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD: usize = 9;
/// How much of a payload is read: the numbers of a GOAWAY, or a head with only a status.
const SEEN: usize = 24;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What was seen on a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// Complete heads, and the requests made from them.
    whole: u64,
    served: u64,
    /// Heads already reported as not served.
    told: u64,
    /// A head has begun and is incomplete.
    begun: bool,
    /// Bare 431s and refused streams not yet reported.
    too_large: u64,
    refused: u64,
    /// A write is blocked by the sandbox; until it proceeds, h2 may not read further frames.
    blocked: bool,
    /// From the GOAWAY: the last stream that counts, and the error code.
    last: Option<u32>,
    code: u32,
}

/// Heads that became no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unserved {
    /// Their streams were reset because they violate HTTP.
    pub malformed: u64,
    /// Answered with 431.
    pub too_large: u64,
    /// Beyond h2's limits on number or size.
    pub refused: u64,
    /// The connection ended before they were read or complete.
    pub unread: u64,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing panics while the lock is held, and each field is valid at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was made from a head.
    pub(super) fn served(&self) {
        self.lock().served += 1;
    }

    /// Heads not served since the last call. Call this when h2 has done all it can for now: every
    /// complete head it has read is then served or answered.
    pub(super) fn settle(&self) -> Unserved {
        let mut counts = self.lock();
        if counts.blocked || counts.whole == counts.served + counts.told {
            return Unserved::default();
        }
        counts.take()
    }

    /// Heads not served by the end of the connection.
    pub(super) fn rest(&self) -> Unserved {
        let mut counts = self.lock();
        let (code, begun) = (counts.code, std::mem::take(&mut counts.begun));
        let mut rest = counts.take();
        match code {
            // A regular end: heads that h2 did not finish reading broke no rule.
            0 => {
                rest.unread = rest.malformed + u64::from(begun);
                rest.malformed = 0;
            }
            ENHANCE_YOUR_CALM => {
                rest.refused += rest.malformed + u64::from(begun);
                rest.malformed = 0;
            }
            _ => rest.malformed += u64::from(begun),
        }
        rest
    }
}

impl Counts {
    fn take(&mut self) -> Unserved {
        let all = self.whole.saturating_sub(self.served + self.told);
        self.told += all;
        let too_large = all.min(std::mem::take(&mut self.too_large));
        let refused = (all - too_large).min(std::mem::take(&mut self.refused));
        Unserved { malformed: all - too_large - refused, too_large, refused, unread: 0 }
    }
}

/// A frame.
#[derive(Clone, Copy, Debug)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
    /// The beginning of its payload.
    seen: &'a [u8],
}

/// Parses the frames of one direction.
#[derive(Debug)]
struct Scan {
    /// Bytes before the first frame.
    skip: usize,
    head: [u8; HEAD],
    /// How much of the frame's head was read, and how much of its payload is still to come.
    read: usize,
    left: usize,
    seen: [u8; SEEN],
    kept: usize,
}

impl Scan {
    fn new(skip: usize) -> Scan {
        Scan { skip, head: [0; HEAD], read: 0, left: 0, seen: [0; SEEN], kept: 0 }
    }

    /// The stream of an incomplete frame of this kind.
    fn within(&self, kind: u8) -> Option<u32> {
        (self.read == HEAD && self.head[3] == kind).then(|| self.stream())
    }

    /// Takes bytes and calls `each` for each frame that ends in them.
    fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            if self.read < HEAD {
                let count = (HEAD - self.read).min(bytes.len());
                self.head[self.read..self.read + count].copy_from_slice(&bytes[..count]);
                self.read += count;
                bytes = &bytes[count..];
                if self.read < HEAD {
                    return;
                }
                self.left = self.length();
                self.kept = 0;
            }
            let count = self.left.min(bytes.len());
            let keep = count.min(SEEN - self.kept);
            self.seen[self.kept..self.kept + keep].copy_from_slice(&bytes[..keep]);
            self.kept += keep;
            self.left -= count;
            bytes = &bytes[count..];
            if self.left == 0 {
                self.read = 0;
                each(Frame {
                    kind: self.head[3],
                    flags: self.head[4],
                    stream: self.stream(),
                    length: self.length(),
                    seen: &self.seen[..self.kept],
                });
            }
        }
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff
    }

    fn length(&self) -> usize {
        usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2])
    }
}

/// A stream that is watched.
#[derive(Debug)]
pub(super) struct Frames<S> {
    stream: S,
    tally: Tally,
    from: Scan,
    to: Scan,
    /// The last stream that the sandbox opened, and whether its head counts.
    opened: u32,
    counts: bool,
}

impl<S> Frames<S> {
    pub(super) fn new(stream: S) -> (Frames<S>, Tally) {
        let tally = Tally::default();
        let (from, to) = (Scan::new(PREFACE), Scan::new(0));
        (Frames { stream, tally: tally.clone(), from, to, opened: 0, counts: false }, tally)
    }

    fn came(&mut self, bytes: &[u8]) {
        let (opened, counts) = (&mut self.opened, &mut self.counts);
        let mut tally = self.tally.lock();
        self.from.take(bytes, |frame| {
            match frame.kind {
                // On a stream that is already open, these are trailers.
                HEADERS => {
                    *counts = frame.stream > *opened
                        && tally.last.is_none_or(|last| frame.stream <= last);
                    *opened = (*opened).max(frame.stream);
                }
                CONTINUATION => {}
                _ => return,
            }
            let whole = frame.flags & END_HEADERS != 0;
            tally.whole += u64::from(whole && *counts);
            tally.begun = !whole && *counts;
        });
        // An incomplete frame counts as begun, too.
        let partial = self.from.within(HEADERS).filter(|stream| *stream > self.opened);
        tally.begun |= partial.is_some_and(|stream| tally.last.is_none_or(|last| stream <= last));
    }

    fn went(&mut self, bytes: &[u8]) {
        let mut tally = self.tally.lock();
        tally.blocked = false;
        self.to.take(bytes, |frame| match frame.kind {
            HEADERS if frame.flags & (END_STREAM | END_HEADERS) == END_STREAM | END_HEADERS => {
                // hyper's own responses have a date at least.
                tally.too_large += u64::from(frame.length <= SEEN && is_one_field(frame.seen));
            }
            RST_STREAM if number(frame.seen, 0) == Some(REFUSED_STREAM) => tally.refused += 1,
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
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether a header block is a single field (RFC 7541 section 6), either indexed or a literal with
/// a name from the static table. A head with only a status is one.
fn is_one_field(mut block: &[u8]) -> bool {
    // Dynamic table size updates may precede it.
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
    {
        block = after_number(*first, 0x1f, rest).unwrap_or_default();
    }
    match block {
        [first, rest @ ..] if first & 0x80 != 0 => after_number(*first, 0x7f, rest) == Some(&[]),
        [first, rest @ ..] => {
            let prefix = if first & 0x40 != 0 { 0x3f } else { 0x0f };
            let Some([length, value @ ..]) = after_number(*first, prefix, rest) else {
                return false;
            };
            first & prefix != 0 && usize::from(length & 0x7f) == value.len()
        }
        [] => false,
    }
}

/// What follows an integer (RFC 7541 section 5.1) with this first byte and prefix.
fn after_number(first: u8, prefix: u8, rest: &[u8]) -> Option<&[u8]> {
    if first & prefix != prefix {
        return Some(rest);
    }
    let last = rest.iter().position(|byte| byte & 0x80 == 0)?;
    Some(&rest[last + 1..])
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, out);
        if out.filled().len() > before {
            this.came(&out.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            this.went(&bytes[..count]);
        }
        this.wrote(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut left)) = polled {
            for slice in slices {
                let count = left.min(slice.len());
                this.went(&slice[..count]);
                left -= count;
            }
        }
        this.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_flush(cx);
        this.wrote(polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        [head, payload.to_vec()].concat()
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [vec![b'P'; PREFACE], frames.concat()].concat()
    }

    fn after(
        came: &[Vec<u8>],
        went: &[Vec<u8>],
        served: u64,
        pieces: usize,
    ) -> (Frames<()>, Tally) {
        let (mut frames, tally) = Frames::new(());
        connection(came).chunks(pieces).for_each(|piece| frames.came(piece));
        went.concat().chunks(pieces).for_each(|piece| frames.went(piece));
        (0..served).for_each(|_| tally.served());
        (frames, tally)
    }

    const BARE: &[u8] = &[0x48, 0x82, 0x68, 0x01];

    #[test]
    fn unserved_heads_are_reported_once() {
        let came: Vec<_> =
            (0..5).map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, b"xyz")).collect();
        let went = [
            frame(RST_STREAM, 0, 1, &1_u32.to_be_bytes()),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, BARE),
            frame(RST_STREAM, 0, 5, &REFUSED_STREAM.to_be_bytes()),
            frame(HEADERS, END_HEADERS | END_STREAM, 7, b"\x88\x61\x01a"),
        ];
        for pieces in [1, 7, 1000] {
            let (_, tally) = after(&came, &went, 2, pieces);
            let expected = Unserved { malformed: 1, too_large: 1, refused: 1, unread: 0 };
            assert_eq!(tally.settle(), expected, "{pieces}");
            assert_eq!(tally.settle(), Unserved::default());
            assert_eq!(tally.rest(), Unserved::default());
        }
    }

    #[test]
    fn trailers_and_frames_after_goaway_open_no_stream() {
        let came = [
            frame(HEADERS, END_HEADERS, 1, b"x"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b"x"),
        ];
        let (mut frames, tally) = after(&came, &[], 1, 1000);
        frames.went(&frame(GOAWAY, 0, 0, &[1_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat()));
        frames.came(&frame(HEADERS, END_HEADERS, 3, b"x"));
        assert_eq!(tally.rest(), Unserved::default());
    }

    #[test]
    fn nothing_is_settled_while_a_write_is_blocked() {
        let (frames, tally) = after(&[frame(HEADERS, END_HEADERS, 1, b"x")], &[], 0, 1000);
        let _ = frames.wrote::<()>(Poll::Pending);
        assert_eq!(tally.settle(), Unserved::default());
        let _ = frames.wrote(Poll::Ready(Ok(())));
        assert_eq!(tally.settle().malformed, 1);
    }

    #[test]
    fn an_incomplete_head_is_reported_at_the_end() {
        let halves = [
            vec![frame(HEADERS, 0, 1, b"x")],
            vec![frame(HEADERS, END_HEADERS, 1, b"xxxxxxxx")[..12].to_vec()],
            vec![frame(HEADERS, 0, 1, b"x"), frame(CONTINUATION, 0, 1, b"y")],
        ];
        for half in halves {
            for (code, expected) in [
                (0, Unserved { unread: 1, ..Unserved::default() }),
                (1, Unserved { malformed: 1, ..Unserved::default() }),
                (ENHANCE_YOUR_CALM, Unserved { refused: 1, ..Unserved::default() }),
            ] {
                let went = frame(GOAWAY, 0, 0, &[9_u32.to_be_bytes(), code.to_be_bytes()].concat());
                let (_, tally) = after(&half, &[went], 0, 5);
                assert_eq!(tally.settle(), Unserved::default());
                assert_eq!(tally.rest(), expected, "{code}");
            }
        }
        let whole = [frame(HEADERS, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, b"y")];
        assert_eq!(after(&whole, &[], 1, 3).1.rest(), Unserved::default());
    }

    #[test]
    fn a_status_alone_is_one_field() {
        for one in [
            BARE,
            b"\x48\x03431",
            b"\x08\x03431",
            b"\xbe",
            b"\x20\xbe",
            b"\x3f\xe1\x1f\xbe",
            b"\xff\x01",
        ] {
            assert!(is_one_field(one), "{one:x?}");
        }
        for other in [
            &b""[..],
            b"\x88\xbe",
            b"\x48\x03431\xbe",
            b"\x40\x01a\x01b",
            b"\x48",
            b"\xff",
            b"\x20",
        ] {
            assert!(!is_one_field(other), "{other:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..400), pieces in 1_usize..50,
        ) {
            let (mut frames, tally) = Frames::new(());
            bytes.chunks(pieces).for_each(|piece| { frames.came(piece); frames.went(piece); });
            let _ = (tally.settle(), tally.rest());
        }
    }
}
