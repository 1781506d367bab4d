//! Watches a connection that is no longer HTTP messages, after a 101, for real keys.
//!
//! Inside foreign framing nothing can be replaced without breaking it, so a key that comes back ends the connection before what
//! completes it has passed. In a WebSocket the messages are known (`websocket`). Of another protocol only its bytes are: what could go
//! on as a key waits for what follows, but no longer than [`PAUSE`], whatever it is; then it is passed on like the end of a
//! message. Such a protocol is carried only to hosts that get no key (`super::super::offers`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::scan::{Scanner, Scrub};
use super::seam::Seam;
use super::websocket::Frames;

/// How much is read from the origin at once, bytes.
const PIECE: usize = 16 * 1024;
/// How long bytes of an unknown protocol wait for what follows: the pieces of what was written at once come within that, and nobody
/// who types notices. It begins with the last byte that came and ends whatever the bytes are.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// Why an upgraded connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// A real key was in the stream.
    #[error("the origin sent a real key through an upgraded connection")]
    Key,
    /// The origin broke the rules of the WebSocket.
    #[error("a frame of the origin's WebSocket {0}")]
    Broken(&'static str),
}

/// One direction, origin to sandbox, of an upgraded connection.
#[derive(Debug)]
pub struct StreamGuard(Guarding);

#[derive(Debug)]
enum Guarding {
    WebSocket(Box<Frames>),
    Unknown { scrub: Scrub, seam: Seam },
}

impl StreamGuard {
    pub(super) fn web_socket(scanner: &Arc<Scanner>) -> StreamGuard {
        StreamGuard(Guarding::WebSocket(Box::new(Frames::new(scanner))))
    }

    pub(super) fn unknown(scanner: &Arc<Scanner>) -> StreamGuard {
        let (scrub, seam) = (Scrub::new(Arc::clone(scanner)), Seam::new(Arc::clone(scanner)));
        StreamGuard(Guarding::Unknown { scrub, seam })
    }

    /// Takes what the origin sent and gives what may be passed on now.
    ///
    /// # Errors
    /// Nothing further may be passed on, but what `StreamGuard::passed` gives.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, Ended> {
        match &mut self.0 {
            Guarding::WebSocket(frames) => frames.push(chunk),
            Guarding::Unknown { scrub, seam } => {
                if seam.completes(&chunk) {
                    return Err(Ended::Key);
                }
                let passed = scrub.push(chunk);
                checked(scrub, passed)
            }
        }
    }

    /// The origin has ended its direction: gives what was held.
    ///
    /// # Errors
    /// Nothing further may be passed on.
    pub fn finish(&mut self) -> Result<Bytes, Ended> {
        match &mut self.0 {
            Guarding::WebSocket(frames) => frames.finish(),
            Guarding::Unknown { scrub, .. } => {
                let passed = scrub.finish();
                checked(scrub, passed)
            }
        }
    }

    /// What was passed before that which ended the connection.
    fn passed(&mut self) -> Bytes {
        match &mut self.0 {
            Guarding::WebSocket(frames) => frames.passed(),
            Guarding::Unknown { .. } => Bytes::new(),
        }
    }

    /// Whether something is held that [`StreamGuard::pause`] gives.
    fn waits(&self) -> bool {
        matches!(&self.0, Guarding::Unknown { scrub, .. } if scrub.owed() > 0)
    }

    /// Nothing more has come for [`PAUSE`]: gives what was held.
    fn pause(&mut self) -> Result<Bytes, Ended> {
        match &mut self.0 {
            Guarding::WebSocket(_) => Ok(Bytes::new()),
            Guarding::Unknown { scrub, seam } => {
                let passed = scrub.boundary();
                seam.end();
                checked(scrub, passed)
            }
        }
    }
}

fn checked(scrub: &Scrub, passed: Bytes) -> Result<Bytes, Ended> {
    if scrub.matches() == 0 { Ok(passed) } else { Err(Ended::Key) }
}

/// The origin's half of an upgraded connection behind a [`StreamGuard`]: reading it fails with [`Ended`] as
/// [`io::ErrorKind::InvalidData`] where it must end.
#[derive(Debug)]
pub struct Guarded<R> {
    origin: R,
    guard: StreamGuard,
    ready: Bytes,
    scratch: Vec<u8>,
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
    /// Why it must end, once what was passed before is out.
    failed: Option<Ended>,
}

impl<R: AsyncRead + Unpin> Guarded<R> {
    /// Watches what is read from `origin`.
    pub fn new(origin: R, guard: StreamGuard) -> Guarded<R> {
        Guarded {
            origin,
            guard,
            ready: Bytes::new(),
            scratch: vec![0; PIECE],
            pause: None,
            ended: false,
            failed: None,
        }
    }
}

impl<R> Guarded<R> {
    fn take(&mut self, passed: Result<Bytes, Ended>) {
        self.ready = passed.unwrap_or_else(|ended| {
            self.failed = Some(ended);
            self.guard.passed()
        });
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Guarded<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.ready.is_empty() && !this.ended {
            if let Some(failed) = this.failed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, failed)));
            }
            let mut scratch = ReadBuf::new(&mut this.scratch);
            match Pin::new(&mut this.origin).poll_read(context, &mut scratch) {
                Poll::Ready(result) => {
                    this.pause = None;
                    result?;
                    let read = scratch.filled();
                    let end = read.is_empty();
                    let passed =
                        if end { this.guard.finish() } else { this.guard.push(Bytes::copy_from_slice(read)) };
                    this.ended = end && passed.is_ok();
                    this.take(passed);
                }
                Poll::Pending if this.guard.waits() => {
                    let until = Instant::now() + PAUSE;
                    let pause = this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                    ready!(pause.as_mut().poll(context));
                    this.pause = None;
                    let passed = this.guard.pause();
                    this.take(passed);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const KEY: &[u8] = b"sk-real0123456789abcdefgh";

    fn guard(make: fn(&Arc<Scanner>) -> StreamGuard) -> StreamGuard {
        let keys = [(KEY, &b"sk-proxy-managed-01234567"[..])];
        make(&Arc::new(Scanner::new(keys.into_iter())))
    }

    #[test]
    fn what_could_go_on_as_a_key_in_another_protocol_waits_for_a_pause() {
        let mut guard = guard(StreamGuard::unknown);
        for text in [&b"sk-re"[..], &KEY[..KEY.len() - 1]] {
            assert_eq!(&guard.push(Bytes::from_static(b". ")).unwrap()[..], b". ");
            assert!(!guard.waits());
            let passed = guard.push(Bytes::copy_from_slice(text)).unwrap();
            assert!(guard.waits());
            assert_eq!([passed, guard.pause().unwrap()].concat(), text);
            assert!(!guard.waits());
        }
    }

    #[test]
    fn a_key_ends_the_stream_before_it_is_whole_also_over_a_pause() {
        for pause in [false, true] {
            for at in 1..KEY.len() {
                let mut guard = guard(StreamGuard::unknown);
                guard.push(Bytes::copy_from_slice(&KEY[..at])).unwrap();
                if pause {
                    guard.pause().unwrap();
                }
                let rest = guard.push(Bytes::copy_from_slice(&KEY[at..]));
                let ended = rest.and_then(|_| guard.finish()).unwrap_err();
                assert!(ended == Ended::Key && !ended.to_string().contains("real01"), "{at} {pause}");
            }
        }
    }

    #[tokio::test]
    async fn an_upgraded_connection_is_read_through_its_guard() {
        for make in [StreamGuard::unknown, StreamGuard::web_socket] {
            let (mut origin, proxy) = tokio::io::duplex(1024);
            let mut guarded = Guarded::new(proxy, guard(make));
            let mut got = vec![0; 7];
            origin.write_all(b"\x81\x05hello").await.unwrap();
            guarded.read_exact(&mut got).await.unwrap();
            assert_eq!(got, b"\x81\x05hello");
            origin.write_all(b"\x81\x19sk-real0123456789abcdefgh").await.unwrap();
            let error = guarded.read_to_end(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(!error.to_string().contains("real01"));
        }
    }
}
