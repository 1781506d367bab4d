//! The bodies of a request and its response on their way through: counted, limited, never collected.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::exchange::{Exchange, TooManyEchoes};
use super::inject::strip_trailers;
use super::redact::{self, RedactedBody};
use crate::metrics::SandboxMetrics;
use crate::policy::{Limits, Reason};
use crate::proxy::budget::{Allowance, Exceeded};
use crate::upstream::pool::Lease;

/// An error of either body; its text goes to the log only.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body stalled, or grew beyond its limit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// Nothing moved for the idle limit.
    #[error("nothing was sent for {0:?}")]
    Idle(Duration),
    /// A new policy does not permit the request.
    #[error("a new policy does not permit this request any more")]
    Policy,
    /// `limits.body_bytes` was reached.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// `limits.bytes_up_per_host` was reached.
    #[error(transparent)]
    Spent(#[from] Exceeded),
}

/// Ends a body that stands still. The timer exists only while the body is waited for.
#[derive(Debug)]
struct Patience {
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(idle: Duration) -> Patience {
        Patience { idle, timer: None }
    }

    fn moved(&mut self) {
        self.timer = None;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Cut::Idle(idle))
    }
}

/// What became of a request body, as far as it is the sandbox's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fate {
    /// Nothing is wrong with it.
    Fine,
    /// It went beyond `limits.body_bytes`.
    TooLarge,
    /// It is malformed, or the sandbox closed before its end.
    Broken,
    /// It went beyond `limits.bytes_up_per_host`.
    Spent,
}

impl Fate {
    /// What an [`Upload`] left behind.
    pub(crate) fn of(cell: &AtomicU8) -> Fate {
        match cell.load(Ordering::Relaxed) {
            1 => Fate::TooLarge,
            2 => Fate::Broken,
            3 => Fate::Spent,
            _ => Fate::Fine,
        }
    }
}

/// A request body on its way to the origin.
#[derive(Debug)]
pub(crate) struct Upload {
    inner: Incoming,
    count: Arc<AtomicU64>,
    most: Option<u64>,
    fate: Arc<AtomicU8>,
    /// What may still be sent to this host.
    allowance: Option<Allowance>,
    metrics: Arc<SandboxMetrics>,
    /// Counts whatever moves on the connection.
    progress: Arc<AtomicU64>,
    patience: Patience,
}

impl Upload {
    /// `exchange` learns of every byte, and so does `allowance`; `fate` tells afterwards why it broke off.
    pub(crate) fn new(
        inner: Incoming,
        exchange: &Exchange,
        limits: &Limits,
        fate: Arc<AtomicU8>,
        allowance: Option<Allowance>,
    ) -> Upload {
        let patience = Patience::new(limits.idle_timeout);
        let (count, progress, metrics) =
            (exchange.up(), exchange.progress().clone(), exchange.metrics().clone());
        Upload { inner, count, most: limits.body_bytes, fate, allowance, metrics, progress, patience }
    }

    /// Counts what is to be sent; an error when it may not be.
    fn admit(&self, bytes: u64) -> Result<(), Cut> {
        let sent = self.count.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.fetch_add(1, Ordering::Relaxed);
        if let Some(most) = self.most.filter(|most| sent > *most) {
            self.fate.store(Fate::TooLarge as u8, Ordering::Relaxed);
            return Err(Cut::TooLarge(most));
        }
        if let Some(Err(exceeded)) = self.allowance.as_ref().map(|allowance| allowance.take(bytes)) {
            self.fate.store(Fate::Spent as u8, Ordering::Relaxed);
            return Err(exceeded.into());
        }
        self.metrics.up(bytes);
        Ok(())
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let cut = ready!(this.patience.poll_expired(cx));
            this.fate.store(Fate::Broken as u8, Ordering::Relaxed);
            return Poll::Ready(Some(Err(cut.into())));
        };
        this.patience.moved();
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => match this.admit(data.len() as u64) {
                    Ok(()) => Some(Ok(Frame::data(data))),
                    Err(cut) => Some(Err(cut.into())),
                },
                Err(frame) => match frame.into_trailers() {
                    Ok(mut trailers) => {
                        strip_trailers(&mut trailers);
                        Some(Ok(Frame::trailers(trailers)))
                    }
                    Err(frame) => Some(Ok(frame)),
                },
            },
            Some(Err(error)) => {
                this.fate.store(Fate::Broken as u8, Ordering::Relaxed);
                Some(Err(error.into()))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Where a response body comes from.
pub(crate) enum Source {
    /// The interceptor's own answer.
    Own(Option<Bytes>),
    /// The origin, unread.
    Origin(Incoming),
    /// The origin, with real keys replaced.
    Redacted(Box<RedactedBody<Incoming>>),
}

/// A response body on its way to the sandbox. It owns the exchange: when the body is over, or nobody wants it any more, the
/// exchange is recorded. A connection to the origin goes back to the pool only when its response was read to the end.
pub(crate) struct Download {
    source: Source,
    exchange: Option<Exchange>,
    lease: Option<Lease>,
    patience: Patience,
}

impl Download {
    /// The interceptor's own answer.
    pub(crate) fn own(bytes: Bytes, exchange: Exchange) -> Download {
        let source = Source::Own(Some(bytes).filter(|bytes| !bytes.is_empty()));
        Download { source, exchange: Some(exchange), lease: None, patience: Patience::new(Duration::MAX) }
    }

    /// An answer whose exchange goes on elsewhere.
    pub(crate) fn unrecorded(bytes: Bytes) -> Download {
        let source = Source::Own(Some(bytes).filter(|bytes| !bytes.is_empty()));
        Download { source, exchange: None, lease: None, patience: Patience::new(Duration::MAX) }
    }

    /// The origin's answer.
    pub(crate) fn origin(source: Source, exchange: Exchange, lease: Lease, idle: Duration) -> Download {
        let mut body =
            Download { source, exchange: Some(exchange), lease: Some(lease), patience: Patience::new(idle) };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Notes how many keys were found so far.
    fn count_echoes(&mut self) -> Result<(), TooManyEchoes> {
        match (&self.source, &mut self.exchange) {
            (Source::Redacted(body), Some(exchange)) => exchange.echoed(body.matches()),
            _ => Ok(()),
        }
    }

    /// The body is complete.
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        self.exchange = None;
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Origin(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Source::Redacted(body) => Pin::new(body.as_mut()).poll_frame(cx).map_err(BodyError::from),
        };
        let Poll::Ready(frame) = polled else {
            if this.exchange.as_mut().is_some_and(|exchange| exchange.poll_cut(cx).is_ready()) {
                this.lease = None;
                return Poll::Ready(Some(Err(Cut::Policy.into())));
            }
            let cut = ready!(this.patience.poll_expired(cx));
            return Poll::Ready(Some(Err(cut.into())));
        };
        this.patience.moved();
        // Before what was put in a key's place goes to the sandbox.
        let frame = match (frame, this.count_echoes()) {
            (Some(Ok(_)), Err(error)) => Some(Err(BodyError::from(error))),
            (frame, _) => frame,
        };
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(exchange)) = (frame.data_ref(), &mut this.exchange) {
                    exchange.add_down(data.len() as u64);
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
                        Some(redact::BodyError::KeyInMessage) => Reason::KeyEchoed,
                        _ => Reason::UpstreamProtocol,
                    };
                    exchange.note(|record| record.reason = record.reason.or(Some(reason)));
                }
                this.lease = None;
            }
            None => this.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Origin(body) => body.is_end_stream(),
            Source::Redacted(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Origin(body) => body.size_hint(),
            Source::Redacted(body) => body.size_hint(),
        }
    }
}
