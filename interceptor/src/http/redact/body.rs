//! The body of a response of which every real key is replaced, frame by frame.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::decode::{Coding, Decoding};
use super::scan::{Scanner, Scrub};
use super::{BodyError, BoxError, redact_values};

/// A response body on its way to the sandbox: decoded where it was encoded, every real key replaced, trailers too.
pub struct RedactedBody<B> {
    inner: B,
    decoding: Option<Box<Decoding>>,
    scrub: Scrub,
    scanner: Arc<Scanner>,
    stage: Stage,
}

enum Stage {
    /// Nothing is to be done: empty from the start, or there is nothing to find.
    Untouched,
    Flowing,
    /// The data is out; the trailers, where there are any, come next.
    Trailers(HeaderMap),
    Done,
}

/// Shows where the body stands, never what is in it.
impl<B> fmt::Debug for RedactedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedactedBody")
            .field("decoding", &self.decoding)
            .field("scrub", &self.scrub)
            .finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> RedactedBody<B>
where
    B::Error: Into<BoxError>,
{
    pub(super) fn new(inner: B, scanner: Arc<Scanner>, codings: &[Coding]) -> RedactedBody<B> {
        let stage =
            if scanner.is_empty() || inner.is_end_stream() { Stage::Untouched } else { Stage::Flowing };
        RedactedBody {
            inner,
            decoding: (!codings.is_empty()).then(|| Box::new(Decoding::new(codings))),
            scrub: Scrub::new(Arc::clone(&scanner)),
            scanner,
            stage,
        }
    }

    /// How many occurrences of a key were replaced in the body so far.
    pub fn matches(&self) -> u64 {
        self.scrub.matches()
    }

    /// The next frame with something in it; `None` at the end.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(decoding) = &mut self.decoding
                && let Some(piece) = decoding.next().map_err(BodyError::Coding)?
            {
                let data = self.scrub.push(piece);
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(data)));
                }
                continue;
            }
            let frame = match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(frame) => frame.transpose().map_err(|error| BodyError::Origin(error.into()))?,
                Poll::Pending => return Poll::Pending,
            };
            let mut trailers = HeaderMap::new();
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    let data = match &mut self.decoding {
                        Some(decoding) => {
                            decoding.feed(data);
                            continue;
                        }
                        None => self.scrub.push(data),
                    };
                    if data.is_empty() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Some(Err(other)) => {
                    if let Ok(map) = other.into_trailers() {
                        trailers = map;
                    }
                }
                None => {}
            }
            if let Some(decoding) = &self.decoding {
                decoding.finish().map_err(BodyError::Coding)?;
            }
            redact_values(&self.scanner, &mut trailers);
            self.stage = Stage::Trailers(trailers);
            let last = self.scrub.finish();
            return Poll::Ready((!last.is_empty()).then_some(Ok(last)));
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for RedactedBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Stage::Untouched = this.stage {
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Origin(error.into()))));
        }
        if let Stage::Flowing = this.stage {
            match ready!(this.poll_data(context)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Err(error)) => {
                    this.stage = Stage::Done;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {}
            }
        }
        match std::mem::replace(&mut this.stage, Stage::Done) {
            Stage::Trailers(trailers) if !trailers.is_empty() => {
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            _ => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Untouched => self.inner.is_end_stream(),
            // A sized body is not polled for its end: to say so is how its connection comes to be used again.
            Stage::Flowing => self.decoding.is_none() && self.scrub.owed() == 0 && self.inner.is_end_stream(),
            Stage::Trailers(trailers) => trailers.is_empty(),
            Stage::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stage {
            Stage::Untouched => self.inner.size_hint(),
            Stage::Flowing if self.decoding.is_none() && self.scanner.keeps_length() => {
                let owed = self.scrub.owed() as u64;
                let inner = self.inner.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(inner.lower().saturating_add(owed));
                if let Some(upper) = inner.upper() {
                    hint.set_upper(upper.saturating_add(owed));
                }
                hint
            }
            Stage::Flowing => SizeHint::default(),
            Stage::Trailers(_) | Stage::Done => SizeHint::with_exact(0),
        }
    }
}
