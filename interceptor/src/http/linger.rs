//! Ends a connection with a response while the client is still sending: reads on for a while, since
//! closing would reset the connection and lose the response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

const MOST_BYTES: usize = 8 * 1024 * 1024;
const MOST_TIME: Duration = Duration::from_secs(2);

/// How much longer to read.
#[derive(Debug)]
pub(super) struct Linger {
    left: usize,
    timer: Pin<Box<Sleep>>,
}

impl Linger {
    pub(super) fn new() -> Linger {
        Linger { left: MOST_BYTES, timer: Box::pin(tokio::time::sleep(MOST_TIME)) }
    }

    /// Ready when the client has closed too, or was given enough time.
    pub(super) fn poll<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        while self.left > 0 && self.timer.as_mut().poll(cx).is_pending() {
            let mut out = ReadBuf::new(&mut scratch);
            match std::task::ready!(Pin::new(&mut *stream).poll_read(cx, &mut out)) {
                Ok(()) if !out.filled().is_empty() => {
                    self.left = self.left.saturating_sub(out.filled().len());
                }
                // Closed or failed: there is nothing more to wait for.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
