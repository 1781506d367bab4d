//! The body of an origin's response, which drives its connection while it is read, and gives it
//! back to the pool at its end.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::h1::H1;

/// An HTTP/1.1 connection in use. Dropped before the response is over, it closes.
pub(crate) trait Leased {
    /// The connection, if the reader of its response must drive it.
    fn driven(&mut self) -> Option<&mut H1>;

    /// Returns the connection, after its response was read to the end.
    fn give_back(self);
}

/// A response's body.
#[derive(Debug)]
pub(crate) struct Driving<L> {
    body: Incoming,
    /// `None` for HTTP/2, and once the body is over.
    lease: Option<L>,
}

impl<L: Leased> Driving<L> {
    pub(super) fn new(body: Incoming, lease: Option<L>) -> Driving<L> {
        let mut answer = Driving { body, lease };
        answer.end_if_over();
        answer
    }

    fn end_if_over(&mut self) {
        if self.body.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl<L: Leased + Unpin> Body for Driving<L> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = match this.lease.as_mut().and_then(L::driven) {
            None => Pin::new(&mut this.body).poll_frame(cx),
            Some(connection) => {
                let body = &mut this.body;
                connection.attend(cx, || {
                    Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop()))
                })
            }
        };
        match &polled {
            Poll::Ready(None) => this.end(),
            Poll::Ready(Some(Err(_))) => this.lease = None,
            Poll::Ready(Some(Ok(_))) => this.end_if_over(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
