//! Server-sent events (HTML Living Standard, section 9.2) as a body filled by a task at its
//! reader's pace.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use tokio::sync::mpsc;

/// Events buffered for the reader.
const WAITING: usize = 32;

/// The sending end for a task.
#[derive(Clone, Debug)]
pub(crate) struct EventSender(mpsc::Sender<Bytes>);

/// The reader is gone.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl EventSender {
    /// The response and its sending end.
    pub(crate) fn answer() -> (EventSender, Response) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let headers =
            [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
        (EventSender(sender), (headers, Body::new(EventBody(receiver))).into_response())
    }

    /// Sends an event; `data` is one line.
    pub(crate) async fn event(
        &self,
        name: &str,
        id: Option<&str>,
        data: &str,
    ) -> Result<(), ReaderGone> {
        let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
        self.send(format!("event: {name}\n{id}data: {data}\n\n")).await
    }

    /// Sends a comment as a heartbeat.
    pub(crate) async fn heartbeat(&self) -> Result<(), ReaderGone> {
        self.send(":\n\n".to_owned()).await
    }

    /// Completes when the reader is gone.
    pub(crate) async fn gone(&self) {
        self.0.closed().await;
    }

    async fn send(&self, text: String) -> Result<(), ReaderGone> {
        self.0.send(text.into()).await.map_err(|_| ReaderGone)
    }
}

struct EventBody(mpsc::Receiver<Bytes>);

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}
