//! The body of a response with every real key replaced, frame by frame.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use interceptor_policy::redact::ranges::Cut;
use interceptor_policy::redact::scan::Scanner;
use interceptor_policy::redact::{LateKey, Search, digests, redact_fields};

use super::blocks::DecodedBody;
use super::decode::Coding;
use super::error::{BodyError, BoxError};
use crate::credential::KeyWatch;

/// A response body on its way to the sandbox: decoded if it was encoded, with every real key
/// replaced, in trailers too.
pub struct RedactedBody<B> {
    inner: B,
    decoding: Option<Box<DecodedBody>>,
    search: Search,
    scanner: Arc<Scanner>,
    /// Whether replacements must keep its length.
    fixed: bool,
    /// Tells of keys that become known while it streams.
    watch: Option<KeyWatch>,
    /// The requested range of it.
    cut: Option<PartCut>,
    /// What was read before the head was sent.
    ready: Bytes,
    /// Keys found in the head and the trailers.
    in_fields: u64,
    stage: Stage,
}

/// How a body is searched.
pub(super) struct Searching {
    pub(super) scanner: Arc<Scanner>,
    /// Whether replacements must keep its length.
    pub(super) fixed: bool,
    pub(super) codings: Vec<Coding>,
    pub(super) cut: Option<PartCut>,
    /// Keys found in the head.
    pub(super) in_head: u64,
}

/// What takes a range out of a body, and how much around it was asked for.
pub(super) struct PartCut {
    pub(super) cut: Cut,
    pub(super) margin: u64,
}

enum Stage {
    /// Passed through: empty from the start, or nothing to search for.
    Untouched,
    Flowing,
    /// The data has been sent; trailers, if any, come next.
    Trailers(HeaderMap),
    Done,
}

/// Shows the state, never the content.
impl<B> fmt::Debug for RedactedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedactedBody")
            .field("decoding", &self.decoding)
            .field("search", &self.search)
            .finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> RedactedBody<B>
where
    B::Error: Into<BoxError>,
{
    /// The body of a response with these headers.
    pub(super) fn new(inner: B, headers: &HeaderMap, how: Searching) -> RedactedBody<B> {
        let Searching { scanner, fixed, codings, cut, in_head } = how;
        let stage = if scanner.is_empty() || inner.is_end_stream() {
            Stage::Untouched
        } else {
            Stage::Flowing
        };
        RedactedBody {
            inner,
            decoding: (!codings.is_empty()).then(|| Box::new(DecodedBody::new(&codings))),
            search: Search::of(headers, &scanner),
            scanner,
            fixed,
            watch: None,
            cut,
            ready: Bytes::new(),
            in_fields: in_head,
            stage,
        }
    }

    /// Has it searched for the keys that become known while it streams, too.
    pub(crate) fn follow(&mut self, watch: KeyWatch) {
        self.watch = Some(watch);
    }

    /// Takes the keys that have become known. Whatever holds one was read after that.
    fn renew(&mut self) -> Result<(), BodyError> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let Some(redactor) = watch.changed()? else { return Ok(()) };
        let scanner = if self.fixed { redactor.fitted() } else { redactor.scanner() };
        if Arc::ptr_eq(scanner, &self.scanner) {
            return Ok(());
        }
        if self.cut.as_ref().is_some_and(|part| redactor.reach() > part.margin) {
            return Err(LateKey.into());
        }
        self.search.renew(scanner)?;
        self.scanner = Arc::clone(scanner);
        Ok(())
    }

    /// Searches the next piece.
    fn searched(&mut self, piece: Bytes) -> Result<Bytes, BodyError> {
        self.renew()?;
        Ok(self.search.push(piece)?)
    }

    /// How many keys were found so far: in the head, the body and the trailers.
    pub fn matches(&self) -> u64 {
        self.in_fields + self.search.matches()
    }

    /// Reads the body before its head is sent: to its end, or until it is longer than `most`.
    /// Returns its length if the end was reached. What was read is returned as frames later.
    ///
    /// # Errors
    /// Those of reading the body.
    pub(crate) fn poll_read_ahead(
        &mut self,
        context: &mut Context<'_>,
        read: &mut BytesMut,
        most: usize,
    ) -> Poll<Result<Option<usize>, BodyError>> {
        while let Stage::Flowing = self.stage {
            match ready!(self.poll_part(context)) {
                Some(Ok(data)) => read.extend_from_slice(&data),
                Some(Err(error)) => {
                    self.stage = Stage::Done;
                    return Poll::Ready(Err(error));
                }
                None => {}
            }
            if read.len() > most {
                break;
            }
        }
        let ended = !matches!(self.stage, Stage::Flowing | Stage::Untouched);
        self.ready = read.split().freeze();
        Poll::Ready(Ok(ended.then_some(self.ready.len())))
    }

    /// The next piece of the requested range; `None` at the end.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let data = ready!(self.poll_data(context)).transpose()?;
            let Some(PartCut { cut, .. }) = &mut self.cut else {
                return Poll::Ready(data.map(Ok));
            };
            let wrong = |error| BodyError::Origin(Box::new(error));
            let ended = !matches!(self.stage, Stage::Flowing);
            let mut part = cut.push(data.unwrap_or_default()).map_err(wrong)?;
            if ended {
                let last = cut.finish().map_err(wrong)?;
                // Only one of them is not empty.
                part = if part.is_empty() { last } else { part };
                return Poll::Ready((!part.is_empty()).then_some(Ok(part)));
            }
            if !part.is_empty() {
                return Poll::Ready(Some(Ok(part)));
            }
        }
    }

    /// The next non-empty piece; `None` at the end.
    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(decoding) = &mut self.decoding
                && let Some(piece) = decoding.next().map_err(BodyError::Coding)?
            {
                let data = self.searched(piece)?;
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(data)));
                }
                continue;
            }
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
            let frame = frame.transpose().map_err(|error| BodyError::Origin(error.into()))?;
            let mut trailers = HeaderMap::new();
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    let data = match &mut self.decoding {
                        Some(decoding) => {
                            decoding.feed(data);
                            continue;
                        }
                        None => self.searched(data)?,
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
            let rest = match &mut self.decoding {
                Some(decoding) => decoding.finish().map_err(BodyError::Coding)?,
                None => Bytes::new(),
            };
            let mut last = self.searched(rest)?;
            if self.decoding.is_some() || self.cut.is_some() {
                digests::remove(&mut trailers);
            }
            self.in_fields += redact_fields(&self.scanner, &mut trailers);
            self.stage = Stage::Trailers(trailers);
            let end = self.search.finish();
            if last.is_empty() {
                last = end;
            } else if !end.is_empty() {
                last = [last, end].concat().into();
            }
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
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|error| BodyError::Origin(error.into()))),
            );
        }
        if !this.ready.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.ready)))));
        }
        if let Stage::Flowing = this.stage {
            match ready!(this.poll_part(context)) {
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
        self.ready.is_empty()
            && match &self.stage {
                Stage::Untouched => self.inner.is_end_stream(),
                // hyper does not poll a sized body for its end; its connection is reused only if
                // this says so.
                Stage::Flowing => {
                    self.decoding.is_none()
                        && self.search.owed() == 0
                        && self.cut.as_ref().is_none_or(|part| part.cut.left() == 0)
                        && self.inner.is_end_stream()
                }
                Stage::Trailers(trailers) => trailers.is_empty(),
                Stage::Done => true,
            }
    }

    fn size_hint(&self) -> SizeHint {
        let ready = self.ready.len() as u64;
        match &self.stage {
            Stage::Untouched => self.inner.size_hint(),
            Stage::Flowing => match &self.cut {
                Some(part) => SizeHint::with_exact(ready + part.cut.left()),
                None if self.decoding.is_none() && self.scanner.keeps_length() => {
                    let owed = self.search.owed() as u64 + ready;
                    let inner = self.inner.size_hint();
                    let mut hint = SizeHint::new();
                    hint.set_lower(inner.lower().saturating_add(owed));
                    if let Some(upper) = inner.upper() {
                        hint.set_upper(upper.saturating_add(owed));
                    }
                    hint
                }
                None => SizeHint::default(),
            },
            Stage::Trailers(_) | Stage::Done => SizeHint::with_exact(ready),
        }
    }
}
