//! Reads an upgraded connection through its [`StreamGuard`], which decides what may be passed on.
//!
//! Bytes held by the guard wait for what follows, but no longer than [`PAUSE`]. A protocol unknown
//! to the guard is relayed only to hosts that get no key (`super::super::offers`).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use interceptor_policy::redact::{Ended, LateKey, StreamGuard};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::credential::KeyWatch;

/// Bytes per read from the origin.
const PIECE: usize = 16 * 1024;
/// How long bytes of an unknown protocol wait for what follows. The pieces of a single write arrive
/// within it, and no one notices it while typing. It starts at the last byte and does not depend on
/// the bytes.
const PAUSE: Duration = Duration::from_millis(20);

/// The origin's half of an upgraded connection behind a [`StreamGuard`]. When the guard ends it,
/// reading fails with [`Ended`] as [`io::ErrorKind::InvalidData`].
#[derive(Debug)]
pub struct Guarded<R> {
    origin: R,
    guard: StreamGuard,
    /// Tells of keys that become known meanwhile.
    watch: Option<KeyWatch>,
    ready: Bytes,
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
    /// Why it must end, once everything passed before has been read.
    failed: Option<Ended>,
}

impl<R: AsyncRead + Unpin> Guarded<R> {
    /// Guards what is read from `origin`.
    pub fn new(origin: R, guard: StreamGuard) -> Guarded<R> {
        Guarded {
            origin,
            guard,
            watch: None,
            ready: Bytes::new(),
            pause: None,
            ended: false,
            failed: None,
        }
    }

    /// Has it searched for the keys that become known meanwhile, too.
    #[must_use]
    pub(crate) fn following(self, watch: KeyWatch) -> Guarded<R> {
        Guarded { watch: Some(watch), ..self }
    }
}

impl<R> Guarded<R> {
    /// Takes the keys that have become known. Whatever holds one was read after that.
    fn renew(&mut self) -> Result<(), Ended> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        match watch.changed() {
            Ok(None) => Ok(()),
            Ok(Some(redactor)) => self.guard.renew(&redactor),
            Err(_) => Err(LateKey.into()),
        }
    }

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
            // On the stack, so that an idle connection holds no buffer.
            let mut scratch = [const { MaybeUninit::<u8>::uninit() }; PIECE];
            let mut scratch = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut this.origin).poll_read(context, &mut scratch) {
                Poll::Ready(result) => {
                    this.pause = None;
                    result?;
                    let read = scratch.filled();
                    let end = read.is_empty();
                    let passed = this.renew().and_then(|()| {
                        if end {
                            this.guard.finish()
                        } else {
                            this.guard.push(Bytes::copy_from_slice(read))
                        }
                    });
                    this.ended = end && passed.is_ok();
                    this.take(passed);
                }
                Poll::Pending if this.guard.waits() => {
                    let until = Instant::now() + PAUSE;
                    let pause =
                        this.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                    ready!(pause.as_mut().poll(context));
                    this.pause = None;
                    let passed = this.renew().and_then(|()| this.guard.pause());
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

/// The origin's half of an upgraded connection of a sandbox without keys. Nothing searches it, so
/// the first key ends it: reading fails as with [`Guarded`].
#[derive(Debug)]
pub(crate) struct Unguarded<R> {
    origin: R,
    watch: KeyWatch,
}

impl<R> Unguarded<R> {
    pub(crate) fn new(origin: R, watch: KeyWatch) -> Unguarded<R> {
        Unguarded { origin, watch }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Unguarded<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.origin).poll_read(context, buffer))?;
        if matches!(this.watch.changed(), Ok(None)) {
            return Poll::Ready(Ok(()));
        }
        buffer.set_filled(before);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Ended::from(LateKey))))
    }
}

#[cfg(test)]
mod tests {
    use interceptor_policy::redact::Redactor;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const KEY: &[u8] = b"sk-real0123456789abcdefgh";

    #[tokio::test]
    async fn an_upgraded_connection_is_read_through_its_guard() {
        let keys = [(KEY, &b"sk-proxy-managed-01234567"[..])];
        let redactor = Redactor::of(keys.into_iter()).unwrap();
        for make in [Redactor::unknown_protocol, Redactor::web_socket] {
            let (mut origin, proxy) = tokio::io::duplex(1024);
            let mut guarded = Guarded::new(proxy, make(&redactor));
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
