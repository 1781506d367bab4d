//! The body of a request on its way to the origin: counted and limited, never buffered whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use interceptor_policy::{Limits, Reason};
use tokio::time::Sleep;

use super::activity::Activity;
use super::drain::drain_behind;
use super::exchange::Exchange;
use super::redact::BoxError;
use super::refuse::deny::refusal;
use super::sending::{Broken, Sending, is_malformed};
use super::signing::Seal;
use super::trailers::Trailers;
use crate::metrics::SandboxMetrics;
use crate::proxy::Rules;
use crate::proxy::budget::Allowance;
use crate::upstream::body::{Carriage, RequestBody};

/// A request body on its way to the origin.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Taken once nobody needs it any more.
    inner: Option<Incoming>,
    count: Arc<AtomicU64>,
    most: Option<u64>,
    sending: Arc<Sending>,
    /// How much may still be sent to this host.
    allowance: Option<Allowance>,
    metrics: Arc<SandboxMetrics>,
    activity: Arc<Activity>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    trailers: Trailers,
    /// An error is held back until the data before it is written.
    held: bool,
    /// What the body of a signed request has to be.
    seal: Option<Seal>,
}

impl Upload {
    /// Counts each byte in `exchange` and against `allowance`.
    pub(crate) fn new(
        inner: Incoming,
        exchange: &mut Exchange,
        limits: &Limits,
        allowance: Option<Allowance>,
        trailers: Trailers,
    ) -> Upload {
        let sending = Arc::new(Sending::default());
        if inner.is_end_stream() {
            sending.end();
        }
        exchange.sends(sending.clone());
        Upload {
            inner: Some(inner),
            count: exchange.up(),
            most: limits.body_bytes,
            sending,
            allowance,
            metrics: exchange.metrics().clone(),
            activity: exchange.activity().clone(),
            idle: limits.idle_timeout,
            timer: None,
            trailers,
            held: false,
            seal: None,
        }
    }

    /// An empty body, for a request that is sent again. The first attempt had none either, as
    /// `sending` knows.
    pub(crate) fn empty(
        exchange: &Exchange,
        limits: &Limits,
        sending: Arc<Sending>,
        rules: &Arc<Rules>,
    ) -> Upload {
        sending.end();
        Upload {
            inner: None,
            count: exchange.up(),
            most: limits.body_bytes,
            sending,
            allowance: None,
            metrics: exchange.metrics().clone(),
            activity: exchange.activity().clone(),
            idle: limits.idle_timeout,
            timer: None,
            trailers: Trailers::new(rules.clone(), None, None),
            held: false,
            seal: None,
        }
    }

    /// Says what the body of a signed request has to be.
    pub(super) fn seal(&mut self, seal: Option<Seal>) {
        self.seal = seal;
    }

    /// The shared state of the body.
    pub(crate) fn sending(&self) -> Arc<Sending> {
        self.sending.clone()
    }

    /// Counts bytes to be sent; fails if they exceed a limit.
    fn admit(&self, bytes: u64) -> Result<(), Broken> {
        let sent = self.count.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.sending.pulse.beat();
        self.activity.beat();
        if let Some(most) = self.most.filter(|most| sent > *most) {
            return Err(Broken::too_large(most));
        }
        if let Some(Err(exceeded)) = self.allowance.as_ref().map(|allowance| allowance.take(bytes))
        {
            let deny = refusal(Reason::LimitExceeded, exceeded.to_string());
            return Err(Broken { deny, ends: Reason::LimitExceeded });
        }
        self.metrics.up(bytes);
        Ok(())
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Broken> {
        match frame.into_data() {
            Ok(data) => {
                let data = match &mut self.seal {
                    None => data,
                    Some(seal) => {
                        let data = seal.pass(data)?;
                        // Its end is not sent before all of it was verified.
                        if self.inner.as_ref().is_none_or(Body::is_end_stream) {
                            seal.finish()?;
                        }
                        data
                    }
                };
                self.admit(data.len() as u64).map(|()| Frame::data(data))
            }
            Err(frame) => match frame.into_trailers() {
                Ok(fields) => {
                    let bytes = size(&fields);
                    let fields = self.trailers.kept(fields)?;
                    self.admit(bytes)?;
                    Ok(Frame::trailers(fields))
                }
                Err(frame) => Ok(frame),
            },
        }
    }

    /// The next frame from the sandbox.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(data) = self.seal.as_mut().and_then(Seal::take) {
            return Poll::Ready(Some(self.admit(data.len() as u64).map(|()| Frame::data(data))));
        }
        loop {
            let next = std::task::ready!(self.poll_inner(cx));
            // A chunk that is still incomplete.
            let is_empty = |frame: &Frame<Bytes>| frame.data_ref().is_some_and(Bytes::is_empty);
            let waits = self.seal.is_some() && !self.is_end_stream();
            if !(waits && matches!(&next, Some(Ok(frame)) if is_empty(frame))) {
                return Poll::Ready(next);
            }
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let Poll::Ready(next) = Pin::new(inner).poll_frame(cx) else {
            self.sending.starved.store(true, Ordering::Relaxed);
            loop {
                let idle = self.idle;
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.timer = None;
                // Both sides are active, so the response's own timeout decides which is silent too
                // long.
                if !self.sending.answered.load(Ordering::Relaxed) {
                    return Poll::Ready(Some(Err(Broken::idle(idle))));
                }
            }
        };
        self.sending.starved.store(false, Ordering::Relaxed);
        self.timer = None;
        Poll::Ready(match next {
            Some(Ok(frame)) => Some(self.frame(frame)),
            Some(Err(error)) => Some(Err(Broken::of(&error))),
            None => self.seal.as_ref().and_then(|seal| seal.finish().err()).map(Err),
        })
    }

    /// Reads what the sandbox still sends, within bounds, in the background.
    fn drain(&mut self) {
        if let Some(inner) = self.inner.take() {
            drain_behind(inner);
        }
    }
}

/// The size of trailers, counted as in RFC 9113 section 6.5.2.
fn size(fields: &HeaderMap) -> u64 {
    fields.iter().map(|(name, value)| (name.as_str().len() + value.len() + 32) as u64).sum()
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.held
            && let Some(broken) = this.sending.broken()
        {
            return Poll::Ready(Some(Err(broken.clone().into())));
        }
        let Poll::Ready(next) = this.poll_next(cx) else {
            this.sending.flushed.store(true, Ordering::Relaxed);
            return Poll::Pending;
        };
        match next {
            Some(Ok(frame)) => {
                this.sending.flushed.store(true, Ordering::Relaxed);
                if this.is_end_stream() {
                    this.sending.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(broken)) => {
                let _ = this.sending.broken.set(broken.clone());
                if !this.sending.flushed.load(Ordering::Relaxed) {
                    return Poll::Ready(Some(Err(broken.into())));
                }
                // Data accepted before is written first, because the record says that the origin
                // has it.
                this.held = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                this.sending.end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
            && self.seal.as_ref().is_none_or(|seal| seal.held() == 0)
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(held) = self.seal.as_ref().map(Seal::held).filter(|held| *held > 0) {
            return SizeHint::with_exact(held);
        }
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl RequestBody for Upload {
    fn carried(&mut self, carriage: Carriage) {
        self.trailers.carried(carriage);
    }
}

impl Upload {
    /// Whether it has broken the rules of its protocol, whether or not that was read.
    fn has_broken_rules(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let Some(inner) = &mut self.inner else { return false };
        while !inner.is_end_stream() {
            match Pin::new(&mut *inner).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return is_malformed(&error),
                Poll::Ready(None) | Poll::Pending => return false,
            }
        }
        false
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let malformed = self.has_broken_rules();
        self.drain();
        self.sending.end();
        self.sending.gone(malformed);
    }
}
