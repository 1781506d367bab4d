//! Response bodies of origins. A task sends one frame at a time, so that a gibibyte needs no memory
//! and a stream can wait.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::digest;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A body fed by a task.
#[derive(Debug)]
pub struct Frames {
    frames: mpsc::Receiver<io::Result<Frame<Bytes>>>,
    length: Option<u64>,
}

/// The task's end of a [`Frames`].
#[derive(Debug)]
pub struct Feed(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Frames {
    /// A body whose frames `feeder` sends; with a `length`, HTTP/1.1 announces it instead of
    /// chunking.
    pub fn fed<F>(length: Option<u64>, feeder: impl FnOnce(Feed) -> F) -> Frames
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, frames) = mpsc::channel(2);
        tokio::spawn(feeder(Feed(sender)));
        Frames { frames, length }
    }

    /// No body.
    pub fn none() -> Frames {
        Frames { frames: mpsc::channel(1).1, length: Some(0) }
    }

    /// A body of these bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Frames {
        let bytes = bytes.into();
        Frames::fed(Some(bytes.len() as u64), |feed| async move {
            if !bytes.is_empty() {
                feed.data(bytes).await;
            }
        })
    }

    /// A body of the first `length` bytes of [`pattern`].
    pub fn pattern(length: u64) -> Frames {
        Frames::fed(Some(length), move |feed| async move {
            let block = Bytes::from(pattern());
            let mut left = length;
            while left > 0 {
                let part =
                    block.slice(..block.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                left -= part.len() as u64;
                if !feed.data(part).await {
                    return;
                }
            }
        })
    }
}

impl Feed {
    /// Sends a frame of data. Returns false if nobody reads any more.
    pub async fn data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(bytes.into()))).await.is_ok()
    }

    /// Sends trailer fields.
    pub async fn trailers(&self, fields: http::HeaderMap) {
        let _ = self.0.send(Ok(Frame::trailers(fields))).await;
    }

    /// Aborts the body: HTTP/1.1 closes the connection, HTTP/2 resets the stream.
    pub async fn abort(&self) {
        let _ = self.0.send(Err(io::Error::other("broken off on purpose"))).await;
    }

    /// Waits until nobody reads any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.frames.poll_recv(context)
    }

    fn is_end_stream(&self) -> bool {
        self.length == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// The repeated block of long bodies: 64 KiB with an odd period.
pub fn pattern() -> Vec<u8> {
    (0..65_536_u32).map(|index| (index % 251) as u8).collect()
}

/// The SHA-256, in hex, of the first `length` bytes of repeated [`pattern`].
pub fn pattern_sha256(length: u64) -> String {
    let block = pattern();
    let mut context = digest::Context::new(&digest::SHA256);
    let mut left = length;
    while left > 0 {
        let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        context.update(&block[..part]);
        left -= part as u64;
    }
    hex(context.finish().as_ref())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
