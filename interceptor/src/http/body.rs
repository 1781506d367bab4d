//! The body of a response on its way to the sandbox: counted and limited, never buffered whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use interceptor_policy::Reason;
use interceptor_policy::redact::{LateKey, MessageError};
use tokio::time::{Instant, Sleep};

use super::activity::{Unread, Waiting};
use super::exchange::{Exchange, TooManyEchoes};
use super::redact::{self, BoxError, RedactedBody};
use crate::credential::KeyWatch;
use crate::upstream::pool::Answer;

/// Why a response is cut off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutReason {
    /// Nothing arrived within the timeout of a response frame.
    #[error("nothing was sent for {0:?}")]
    Silent(Duration),
    /// A new policy does not permit the request.
    #[error("a new policy does not permit this request any more")]
    Policy,
}

/// Ends a body that stalls. The timer is set on the first wait. It is reset only if it fires
/// although data came meanwhile, not for each frame.
#[derive(Debug)]
struct Patience {
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// When the current wait began.
    since: Option<Instant>,
}

impl Patience {
    fn new(idle: Duration) -> Patience {
        Patience { idle, timer: None, since: None }
    }

    fn moved(&mut self) {
        self.since = None;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<CutReason> {
        let idle = self.idle;
        let since = *self.since.get_or_insert_with(Instant::now);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        loop {
            ready!(timer.as_mut().poll(cx));
            // If the deadline overflows the clock, the timer never fires, so this is not reached.
            match since.checked_add(idle) {
                Some(end) if end > Instant::now() => timer.as_mut().reset(end),
                _ => return Poll::Ready(CutReason::Silent(idle)),
            }
        }
    }
}

/// Where a response body comes from.
pub(crate) enum BodySource {
    /// The interceptor's own response.
    Own(Option<Bytes>),
    /// The origin, passed through while the sandbox has no keys.
    Origin(Answer, KeyWatch),
    /// The origin, with real keys replaced.
    Redacted(Box<RedactedBody<Answer>>),
}

/// A response body on its way to the sandbox. It owns the exchange, which is recorded when the body
/// is over or dropped.
pub(crate) struct Download {
    source: BodySource,
    exchange: Option<Exchange>,
    patience: Patience,
    /// Present while the origin is waited for.
    waiting: Option<Waiting>,
    /// Present from one frame until the next is polled: the sandbox has not read it yet.
    unread: Option<Unread>,
    /// Whether its trailers may set cookies.
    passes_cookies: bool,
}

/// The older form of `set-cookie` (RFC 2965).
const SET_COOKIE2: HeaderName = HeaderName::from_static("set-cookie2");

/// Removes headers that set cookies.
pub(super) fn remove_cookies(fields: &mut HeaderMap) {
    fields.remove(SET_COOKIE);
    fields.remove(SET_COOKIE2);
}

impl Download {
    /// The interceptor's own response.
    pub(crate) fn own(bytes: Bytes, exchange: Exchange) -> Download {
        let source = BodySource::Own(Some(bytes).filter(|bytes| !bytes.is_empty()));
        let patience = Patience::new(Duration::MAX);
        Download::new(source, Some(exchange), patience)
    }

    /// A response whose exchange is recorded elsewhere.
    pub(crate) fn unrecorded(bytes: Bytes) -> Download {
        let source = BodySource::Own(Some(bytes).filter(|bytes| !bytes.is_empty()));
        let patience = Patience::new(Duration::MAX);
        Download::new(source, None, patience)
    }

    /// The origin's response, with a timeout of `patience` per frame.
    pub(crate) fn origin(source: BodySource, exchange: Exchange, patience: Duration) -> Download {
        let mut body = Download::new(source, Some(exchange), Patience::new(patience));
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    fn new(source: BodySource, exchange: Option<Exchange>, patience: Patience) -> Download {
        Download { source, exchange, patience, waiting: None, unread: None, passes_cookies: true }
    }

    /// Removes trailers that set cookies.
    pub(crate) fn without_cookies(mut self) -> Download {
        self.passes_cookies = false;
        self
    }

    /// The frame as sent to the sandbox.
    fn passed(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        if self.passes_cookies || !frame.is_trailers() {
            return frame;
        }
        match frame.into_trailers() {
            Ok(mut fields) => {
                remove_cookies(&mut fields);
                Frame::trailers(fields)
            }
            Err(frame) => frame,
        }
    }

    /// Records how many keys were found so far.
    fn count_echoes(&mut self) -> Result<(), TooManyEchoes> {
        match (&self.source, &mut self.exchange) {
            (BodySource::Redacted(body), Some(exchange)) => exchange.echoed(body.matches()),
            _ => Ok(()),
        }
    }

    /// The body is complete.
    fn finish(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.complete();
        }
    }
}

/// The next frame of a body that is not searched, because the sandbox had no key when it began. The
/// first key ends it: nothing of what has passed was held back, and what comes may be encoded.
fn poll_unsearched(
    body: &mut Answer,
    watch: &mut KeyWatch,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    let frame = ready!(Pin::new(body).poll_frame(cx));
    Poll::Ready(match watch.changed() {
        Ok(None) => frame.map(|frame| frame.map_err(BoxError::from)),
        // Its end says nothing about a key.
        _ if frame.is_none() => None,
        _ => Some(Err(redact::BodyError::Late(LateKey).into())),
    })
}

impl Body for Download {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        this.unread = None;
        let polled = match &mut this.source {
            BodySource::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodySource::Origin(body, watch) => poll_unsearched(body, watch, cx),
            BodySource::Redacted(body) => {
                Pin::new(body.as_mut()).poll_frame(cx).map_err(BoxError::from)
            }
        };
        let Poll::Ready(frame) = polled else {
            if this.waiting.is_none() {
                this.waiting = this.exchange.as_ref().map(|exchange| exchange.activity().wait());
            }
            if this.exchange.as_mut().is_some_and(|exchange| exchange.poll_cut(cx).is_ready()) {
                this.source = BodySource::Own(None);
                return Poll::Ready(Some(Err(CutReason::Policy.into())));
            }
            let cut = ready!(this.patience.poll_expired(cx));
            if let Some(mut exchange) = this.exchange.take() {
                exchange.ended(Some(Reason::ResponseTimeout));
            }
            this.source = BodySource::Own(None);
            return Poll::Ready(Some(Err(cut.into())));
        };
        this.waiting = None;
        this.patience.moved();
        // Count before the replacement for a key goes to the sandbox.
        let frame = match (frame, this.count_echoes()) {
            (Some(Ok(_)), Err(error)) => Some(Err(BoxError::from(error))),
            (frame, _) => frame.map(|frame| frame.map(|frame| this.passed(frame))),
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(exchange)) = (frame.data_ref(), &mut this.exchange) {
                    exchange.add_down(data.len() as u64);
                    this.unread = Some(exchange.activity().hand_on());
                }
                // hyper does not poll again after the last frame of a sized body.
                if this.is_end_stream() {
                    this.finish();
                }
            }
            Some(Err(error)) => {
                if let Some(mut exchange) = this.exchange.take() {
                    tracing::debug!(parent: exchange.span(), %error, "response broke off");
                    let reason = match error.downcast_ref() {
                        Some(redact::BodyError::Message(MessageError::Key)) => Reason::KeyEchoed,
                        Some(redact::BodyError::Late(_) | redact::BodyError::Keys(_)) => {
                            Reason::KeysChanged
                        }
                        _ => Reason::UpstreamProtocol,
                    };
                    exchange.ended(Some(reason));
                }
                this.source = BodySource::Own(None);
            }
            None => this.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Own(bytes) => bytes.is_none(),
            BodySource::Origin(body, _) => body.is_end_stream(),
            BodySource::Redacted(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            BodySource::Origin(body, _) => body.size_hint(),
            BodySource::Redacted(body) => body.size_hint(),
        }
    }
}
