//! The body of a request on its way to the origin: counted, limited, never collected.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use interceptor_policy::{Deny, Limits, Reason};
use tokio::sync::{Notify, oneshot};
use tokio::time::Sleep;

use super::activity::Activity;
use super::body::BodyError;
use super::exchange::Exchange;
use super::refuse::refusal;
use super::trailers::Trailers;
use crate::metrics::SandboxMetrics;
use crate::proxy::Rules;
use crate::proxy::budget::Allowance;
use crate::tunnel::pulse::Pulse;
use crate::upstream::body::{Carriage, RequestBody};
use crate::words;

/// How much of a body that the origin no longer wants is still read, and for how long, so that the
/// answer is not lost to a reset.
pub(crate) const DRAINED: usize = 64 * 1024 * 1024;
const DRAINING: Duration = Duration::from_secs(5);

/// Why the body ends before its end.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", deny.message)]
pub(crate) struct Broken {
    /// What the sandbox is told, where it can still be told.
    pub deny: Deny,
    /// What the record says.
    pub ends: Reason,
}

impl Broken {
    fn new(ends: Reason, deny: Deny) -> Broken {
        Broken { deny, ends }
    }

    /// `limits.body_bytes` was reached.
    pub(crate) fn too_large(most: u64) -> Broken {
        let message = format!(
            "the body goes beyond {}, the most that one request may send; send less, or raise limits.body_bytes",
            words::count(most, "byte")
        );
        let deny = refusal(Reason::LimitExceeded, message);
        Broken::new(Reason::LimitExceeded, Deny { status: 413, ..deny })
    }

    /// The sandbox sent nothing for `limits.idle_timeout_seconds`.
    pub(crate) fn idle(idle: Duration) -> Broken {
        let message = format!(
            "nothing of the request's body came for {idle:?}, which is limits.idle_timeout_seconds; \
             send it without such pauses, or raise the limit"
        );
        let deny = refusal(Reason::LimitExceeded, message);
        Broken::new(Reason::IdleTimeout, Deny { status: 408, ..deny })
    }

    /// It is malformed, or the sandbox closed before its end.
    fn of(error: &hyper::Error) -> Broken {
        let ends = if is_malformed(error) { Reason::RequestMalformed } else { Reason::Aborted };
        let message = "the body of the request is malformed or broke off; it was not sent to its end";
        Broken::new(ends, refusal(Reason::RequestMalformed, message.to_owned()))
    }
}

impl From<Deny> for Broken {
    fn from(deny: Deny) -> Broken {
        Broken::new(deny.reason, deny)
    }
}

/// Whether a body broke the rules of its protocol, rather than off.
fn is_malformed(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            let kind = error.kind();
            return matches!(kind, std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput);
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.is_library();
        }
        source = cause.source();
    }
    error.is_parse()
}

/// What those who wait for the answer must know of the body.
#[derive(Debug, Default)]
pub(crate) struct Sending {
    pulse: Pulse,
    /// Nothing more is to be sent.
    done: AtomicBool,
    ended: Notify,
    /// It is the sandbox that is waited for.
    starved: AtomicBool,
    /// The body was waited for, or began: what came before it is written, or will be.
    flushed: AtomicBool,
    /// The origin answers: from then on its silence, and the sandbox's, are counted there.
    answered: AtomicBool,
    broken: OnceLock<Broken>,
    gone: Mutex<Gone>,
}

/// Whether the body was let go of, and whoever waits for that. What is told is whether it broke the
/// rules of its protocol.
#[derive(Debug)]
enum Gone {
    Not(Option<oneshot::Sender<bool>>),
    Yes(bool),
}

impl Default for Gone {
    fn default() -> Gone {
        Gone::Not(None)
    }
}

impl Sending {
    fn end(&self) {
        self.pulse.beat();
        self.done.store(true, Ordering::Relaxed);
        self.ended.notify_one();
    }

    /// Tells when it is let go of whether it broke the rules of its protocol.
    pub(crate) fn let_go(&self) -> oneshot::Receiver<bool> {
        let (tell, told) = oneshot::channel();
        // Nothing panics while it is held.
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        match *gone {
            Gone::Yes(malformed) => drop(tell.send(malformed)),
            Gone::Not(_) => *gone = Gone::Not(Some(tell)),
        }
        told
    }

    /// It is let go of.
    fn gone(&self, malformed: bool) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Gone::Not(Some(waiting)) = std::mem::replace(&mut *gone, Gone::Yes(malformed)) {
            let _ = waiting.send(malformed);
        }
    }

    /// Why it ended before its end.
    pub(crate) fn broken(&self) -> Option<&Broken> {
        self.broken.get()
    }

    /// The origin began to answer.
    pub(crate) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Its answer is over: what of the body is still to come is the sandbox's to send.
    pub(crate) fn answer_over(&self) {
        self.answered.store(false, Ordering::Relaxed);
    }

    /// Whether the origin can have received the head, if the connection was HTTP/1.1.
    pub(crate) fn head_was_sent(&self) -> bool {
        self.flushed.load(Ordering::Relaxed) || self.broken().is_none()
    }

    /// Waits for `answer` as long as the body moves, then as long as an answer may take.
    ///
    /// # Errors
    /// The limit that is used up, and whether it is the sandbox that stands still.
    pub(crate) async fn patiently<F: Future>(
        &self,
        answer: F,
        limits: &Limits,
    ) -> Result<F::Output, Impatience> {
        let mut answer = std::pin::pin!(answer);
        loop {
            let done = self.done.load(Ordering::Relaxed);
            let patience = if done { limits.response_timeout } else { limits.idle_timeout };
            let Some(left) = self.pulse.left(patience) else {
                return Err(match (done, self.starved.load(Ordering::Relaxed)) {
                    (true, _) => Impatience::Response,
                    (false, true) => Impatience::Sandbox,
                    (false, false) => Impatience::Origin,
                });
            };
            tokio::select! {
                answer = answer.as_mut() => return Ok(answer),
                () = self.ended.notified(), if !done => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

/// What an answer was waited for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Impatience {
    /// The origin, which has the whole request.
    Response,
    /// The origin, which does not take the body.
    Origin,
    /// The sandbox, which does not send the body.
    Sandbox,
}

/// A request body on its way to the origin.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Taken when nobody wants it any more.
    inner: Option<Incoming>,
    count: Arc<AtomicU64>,
    most: Option<u64>,
    sending: Arc<Sending>,
    /// What may still be sent to this host.
    allowance: Option<Allowance>,
    metrics: Arc<SandboxMetrics>,
    activity: Arc<Activity>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    trailers: Trailers,
    /// An error that waits until what came before it is written.
    held: bool,
}

impl Upload {
    /// `exchange` learns of every byte, and so does `allowance`.
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
        }
    }

    /// None, for a request that is sent again. `sending` told that there was none the first time.
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
            trailers: Trailers::new(rules.clone(), None, Vec::new()),
            held: false,
        }
    }

    /// What others know of it.
    pub(crate) fn sending(&self) -> Arc<Sending> {
        self.sending.clone()
    }

    /// Counts what is to be sent; an error when it may not be.
    fn admit(&self, bytes: u64) -> Result<(), Broken> {
        let sent = self.count.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.sending.pulse.beat();
        self.activity.beat();
        if let Some(most) = self.most.filter(|most| sent > *most) {
            return Err(Broken::too_large(most));
        }
        if let Some(Err(exceeded)) = self.allowance.as_ref().map(|allowance| allowance.take(bytes)) {
            let deny = refusal(Reason::LimitExceeded, exceeded.to_string());
            return Err(Broken::new(Reason::LimitExceeded, deny));
        }
        self.metrics.up(bytes);
        Ok(())
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Broken> {
        match frame.into_data() {
            Ok(data) => self.admit(data.len() as u64).map(|()| Frame::data(data)),
            Err(frame) => match frame.into_trailers() {
                Ok(fields) => {
                    let bytes = size(&fields);
                    let fields = self.trailers.kept(fields).map_err(|deny| Broken::new(deny.reason, deny))?;
                    self.admit(bytes)?;
                    Ok(Frame::trailers(fields))
                }
                Err(frame) => Ok(frame),
            },
        }
    }

    /// The next piece from the sandbox.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
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
                // Both sides talk: who of them is silent for too long, the answer's own time says.
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
            None => None,
        })
    }

    /// Takes what the sandbox sends anyway, within bounds and without anybody waiting for it.
    fn drain(&mut self) {
        if let Some(inner) = self.inner.take() {
            drain_behind(inner);
        }
    }
}

/// Trailers as they count: RFC 9113 section 6.5.2.
fn size(fields: &HeaderMap) -> u64 {
    fields.iter().map(|(name, value)| (name.as_str().len() + value.len() + 32) as u64).sum()
}

impl RequestBody for Upload {
    fn carried(&mut self, carriage: Carriage) {
        self.trailers.carried(carriage);
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
                // What was accepted before is written first: the record says that the origin has it.
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
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Upload {
    /// Whether it has ended by breaking the rules of its protocol, read or not.
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

/// Takes the rest of a body, within bounds, in a task of its own: closing under it, or resetting its
/// stream, would lose the answer for clients that send before they read (RFC 9113 section 8.1).
pub(crate) fn drain_behind(body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(drain(body, 0));
    }
}

/// Takes the rest of a body, within bounds, and returns it as far as no more than `kept` came.
pub(crate) async fn drain(mut body: Incoming, kept: usize) -> Vec<u8> {
    let mut call = Vec::new();
    let drained = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(data) = frame.data_ref() else { continue };
            taken += data.len();
            if taken <= kept {
                call.extend_from_slice(data);
            }
            if taken > DRAINED {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DRAINING, drained).await;
    call
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const IDLE: Duration = Duration::from_secs(300);
    const RESPONSE: Duration = Duration::from_secs(1800);

    fn limits() -> Limits {
        Limits { idle_timeout: IDLE, response_timeout: RESPONSE, ..Limits::default() }
    }

    /// What is given up on, and when, while `during` happens to the body.
    async fn given_up<F: Future>(during: impl FnOnce(Arc<Sending>) -> F) -> (Impatience, Duration) {
        let (sending, began) = (Arc::new(Sending::default()), Instant::now());
        let happening = async {
            during(sending.clone()).await;
            std::future::pending::<()>().await
        };
        let never = std::future::pending::<()>();
        let limits = limits();
        let ended = tokio::select! {
            ended = sending.patiently(never, &limits) => ended.unwrap_err(),
            () = happening => unreachable!("it never ends"),
        };
        (ended, began.elapsed())
    }

    fn about(took: Duration, expected: Duration) -> bool {
        took >= expected && took < expected + expected / 50
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_is_given_up_by_the_own_limit_and_on_time() {
        let (who, took) = given_up(|sending| async move { sending.end() }).await;
        assert!(who == Impatience::Response && about(took, RESPONSE), "{who:?} {took:?}");
        let (who, took) = given_up(|_| async {}).await;
        assert!(who == Impatience::Origin && about(took, IDLE), "{who:?} {took:?}");
        let starved = |sending: Arc<Sending>| async move {
            sending.starved.store(true, Ordering::Relaxed);
        };
        let (who, took) = given_up(starved).await;
        assert!(who == Impatience::Sandbox && about(took, IDLE), "{who:?} {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_counts_from_the_last_movement() {
        let slow = |sending: Arc<Sending>| async move {
            for _ in 0..10 {
                tokio::time::sleep(IDLE * 9 / 10).await;
                sending.pulse.beat();
            }
            sending.end();
        };
        let (who, took) = given_up(slow).await;
        let expected = IDLE * 9 + RESPONSE;
        assert!(who == Impatience::Response && about(took, expected), "{who:?} {took:?}");
    }
}
