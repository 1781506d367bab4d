//! One request on its way through the pipeline, as the audit log will tell of it: recorded exactly
//! once, when it is over, however it ends. An exchange that is dropped (the sandbox hung up, a task
//! was cancelled) is recorded as it stands.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use interceptor_policy::{Allow, Deny, Reason};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::activity::Activity;
use super::sending::Sending;
use crate::audit::{Audit, Kind, Protocol, Record, RequestId, Verdict};
use crate::metrics::{Opened, SandboxMetrics};
use crate::proxy::Sandbox;
use crate::proxy::echoes::MOST;
use crate::proxy::live::Alive;
use crate::proxy::quota::Permit;

/// How long a body may take to say how it ended once its request was dropped.
const LET_GO: Duration = Duration::from_secs(1);

/// The record of one request, until it is written.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Whose it is: its log of records, its echoes, its tasks.
    sandbox: Arc<Sandbox>,
    /// Taken when it is emitted.
    record: Option<Box<Record>>,
    started: Instant,
    up: Arc<AtomicU64>,
    down: u64,
    /// Its place among the sandbox's requests in progress.
    place: Option<Permit>,
    /// Counts it as in progress.
    in_progress: Opened,
    /// How long the proxy itself was at it, and since when it is again.
    own: Duration,
    running: Option<Instant>,
    /// What the log says of it belongs to this.
    span: tracing::Span,
    /// What happens on its connection.
    activity: Arc<Activity>,
    /// Its body, from when the request is sent.
    sending: Option<Arc<Sending>>,
    /// Whether the origin may have received anything of it.
    sent: bool,
    /// Whether its answer came to its end.
    complete: bool,
    /// Its entry among what is open, and what cuts it off when a new policy does not permit it.
    open: Option<Alive>,
    /// Waits for that, made when it is first waited for.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// The sandbox has seen too many answers that hold a key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "{MOST} answers with a real key were seen within an hour, which is the most; find out what \
     sends it back"
)]
pub(crate) struct TooManyEchoes;

impl Exchange {
    /// Begins the record of a request. Until a decision is noted it stands as refused: malformed.
    pub(crate) fn new(
        sandbox: &Arc<Sandbox>,
        protocol: Protocol,
        activity: &Arc<Activity>,
    ) -> Exchange {
        let record = Record::new(&sandbox.id, RequestId::new(), Kind::Request, Verdict::Deny)
            .reason(Reason::RequestMalformed)
            .protocol(protocol);
        // Its fields are text in memory: made only where lines of requests are wanted.
        let span = tracing::info_span!("request", id = %record.id, sandbox = %sandbox.id);
        let now = Instant::now();
        Exchange {
            sandbox: sandbox.clone(),
            record: Some(Box::new(record)),
            started: now,
            up: Arc::default(),
            down: 0,
            place: None,
            in_progress: sandbox.metrics.open_request(),
            own: Duration::ZERO,
            running: Some(now),
            span,
            activity: activity.clone(),
            sending: None,
            sent: false,
            complete: false,
            open: None,
            cut: None,
        }
    }

    /// The identity that the answer carries too.
    pub(crate) fn id(&self) -> RequestId {
        // The record is taken only on drop.
        self.record.as_ref().map(|record| record.id).unwrap_or_else(RequestId::new)
    }

    /// Changes the record.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// Notes that the request is let through.
    pub(crate) fn allow(&mut self, allow: &Allow) {
        self.note(|record| {
            record.decision = Some(Verdict::Allow);
            record.reason = None;
            record.filter = Some(allow.filter);
            record.rule = allow.rule.clone();
        });
    }

    /// Notes that it is refused.
    pub(crate) fn deny(&mut self, deny: &Deny) {
        self.note(|record| {
            record.decision = Some(Verdict::Deny);
            record.reason = Some(deny.reason);
            record.filter = Some(deny.filter);
            record.rule = deny.rule.clone();
            record.status = Some(deny.status);
        });
    }

    /// From here on the origin may have received some of it, or, if none was sent after all, not.
    pub(crate) fn sent(&mut self, sent: bool) {
        self.sent = sent;
    }

    /// Its body is what `sending` tells of.
    pub(crate) fn sends(&mut self, sending: Arc<Sending>) {
        self.sending = Some(sending);
    }

    /// Its answer came to its end.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
        if let Some(sending) = &self.sending {
            sending.answer_over();
        }
    }

    /// Notes how it ended, if that is not noted yet: with `reason`, or with what broke its body.
    pub(crate) fn ended(&mut self, reason: Option<Reason>) {
        let broken = self.sending.as_ref().and_then(|sending| sending.broken());
        let reason = broken.map(|broken| broken.ends).or(reason);
        self.complete = true;
        self.note(|record| record.reason = record.reason.or(reason));
    }

    /// Notes that it failed after it was sent: it stays allowed.
    pub(crate) fn failed(&mut self, deny: &Deny, ends: Reason) {
        if !self.sent {
            self.deny(deny);
        }
        self.note(|record| {
            record.reason = Some(ends);
            record.status = Some(deny.status);
        });
    }

    /// Keeps a place among the sandbox's requests in progress until the exchange is over.
    pub(crate) fn hold(&mut self, place: Permit) {
        self.place = Some(place);
    }

    /// What the log says of the request belongs to this span, which carries its id.
    pub(crate) fn span(&self) -> &tracing::Span {
        &self.span
    }

    /// What happens on its connection.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// What counts for the sandbox.
    pub(crate) fn metrics(&self) -> &Arc<SandboxMetrics> {
        self.in_progress.metrics()
    }

    /// From here on the time is the origin's, or the sandbox's.
    pub(crate) fn wait(&mut self) {
        if let Some(since) = self.running.take() {
            self.own += since.elapsed();
        }
    }

    /// From here on the time is the proxy's own again.
    pub(crate) fn go_on(&mut self) {
        self.running.get_or_insert_with(Instant::now);
    }

    /// The head of the origin's answer goes to the sandbox: what the proxy added to it is known.
    pub(crate) fn forwarded(&mut self) {
        self.wait();
        self.metrics().added(self.own);
    }

    /// Keeps its entry among what is open until the exchange is over, or cut off by that.
    pub(crate) fn enter(&mut self, alive: Alive) {
        self.open = Some(alive);
    }

    /// What cuts it off.
    pub(crate) fn cut(&self) -> Option<CancellationToken> {
        self.open.as_ref().map(|open| open.token().clone())
    }

    /// Ready when it is cut off.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(open) = &self.open else { return Poll::Pending };
        let waiting =
            self.cut.get_or_insert_with(|| Box::pin(open.token().clone().cancelled_owned()));
        waiting.as_mut().poll(cx)
    }

    /// Notes how many keys the answer held so far.
    ///
    /// # Errors
    /// The sandbox has seen too many such answers: this one must end.
    pub(crate) fn echoed(&mut self, keys: u64) -> Result<(), TooManyEchoes> {
        let Some(record) = &mut self.record else { return Ok(()) };
        let Some(fresh) =
            keys.checked_sub(record.key_echoed.unwrap_or(0)).filter(|fresh| *fresh > 0)
        else {
            return Ok(());
        };
        let first = record.key_echoed.replace(keys).is_none();
        self.metrics().keys_echoed(fresh);
        if first && !self.sandbox.echoes.admit() {
            self.note(|record| record.reason = Some(Reason::LimitExceeded));
            return Err(TooManyEchoes);
        }
        Ok(())
    }

    /// How many keys the answer held so far.
    pub(crate) fn keys_echoed(&self) -> u64 {
        self.record.as_ref().and_then(|record| record.key_echoed).unwrap_or(0)
    }

    /// Where body bytes from the sandbox are counted.
    pub(crate) fn up(&self) -> Arc<AtomicU64> {
        self.up.clone()
    }

    /// Notes bytes to the sandbox that were counted as they went.
    pub(crate) fn note_down(&mut self, bytes: u64) {
        self.down += bytes;
    }

    /// Counts body bytes to the sandbox.
    pub(crate) fn add_down(&mut self, bytes: u64) {
        self.down += bytes;
        self.metrics().down(bytes);
        self.activity.beat();
    }
}

impl Exchange {
    /// What ended it before it was over.
    fn cause(&self) -> Reason {
        let cut = self.open.as_ref().is_some_and(|open| open.token().is_cancelled());
        match self.activity.limit() {
            _ if cut => Reason::HostDenied,
            Some(limit) => limit,
            None => Reason::Aborted,
        }
    }
}

/// What came of a request, in a line: `allowed GET api.openai.com/v1/models 200 45ms`.
struct Summary<'a>(&'a Record);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary(record) = self;
        f.write_str(if record.decision == Some(Verdict::Allow) { "allowed" } else { "refused" })?;
        if let Some(method) = &record.method {
            write!(f, " {method}")?;
        }
        if record.host.is_some() || record.path.is_some() {
            let host = record.host.as_deref().unwrap_or_default();
            write!(f, " {host}{}", record.path.as_deref().unwrap_or_default())?;
        }
        if let Some(status) = record.status {
            write!(f, " {status}")?;
        }
        if let Some(duration) = record.duration {
            write!(f, " {}ms", duration.as_millis())?;
        }
        match record.reason {
            Some(reason) => write!(f, ": {}", reason.as_str()),
            None => Ok(()),
        }
    }
}

/// A record that is complete but for how the request ended, where that is still found out.
struct Ending {
    record: Option<Box<Record>>,
    audit: Audit,
    metrics: Arc<SandboxMetrics>,
    span: tracing::Span,
}

impl Ending {
    /// HTTP/2's library resets a stream whose body breaks the rules, and its request is dropped
    /// before anybody has read why: the body itself says it, when it is let go of.
    async fn of(mut self, body: oneshot::Receiver<bool>, stopping: CancellationToken) {
        let is_malformed = tokio::select! {
            malformed = body => malformed.unwrap_or(false),
            () = stopping.cancelled() => false,
            () = tokio::time::sleep(LET_GO) => false,
        };
        if is_malformed && let Some(record) = &mut self.record {
            record.reason = Some(Reason::RequestMalformed);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(record) = self.record.take() else { return };
        self.metrics.request(&record);
        tracing::info!(
            parent: &self.span,
            decision = record.decision.map(Verdict::as_str),
            r#type = record.reason.map(Reason::as_str),
            host = record.host.as_deref(),
            method = record.method.as_deref(),
            path = record.path.as_deref(),
            status = record.status,
            up = record.bytes_up,
            down = record.bytes_down,
            "{}",
            Summary(&record)
        );
        self.audit.emit(*record);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let allowed =
            self.record.as_ref().is_some_and(|record| record.decision == Some(Verdict::Allow));
        if allowed && !self.complete {
            self.ended(Some(self.cause()));
        }
        let sent = self.sent;
        self.note(|record| {
            // What the record says was allowed is what the origin received.
            if allowed && !sent {
                record.decision = Some(Verdict::Deny);
            }
        });
        if let Some(mut record) = self.record.take() {
            record.bytes_up = Some(self.up.load(Ordering::Relaxed));
            record.bytes_down = Some(self.down);
            record.duration = Some(self.started.elapsed());
            if record.key_echoed.is_some() {
                record.reason.get_or_insert(Reason::KeyEchoed);
            }
            let unclear =
                record.protocol == Some(Protocol::H2) && record.reason == Some(Reason::Aborted);
            let ending = Ending {
                record: Some(record),
                audit: self.sandbox.audit.clone(),
                metrics: self.metrics().clone(),
                span: self.span.clone(),
            };
            if unclear
                && let Some(body) = self.sending.as_ref().map(|sending| sending.let_go())
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                let stopping = self.sandbox.stopping();
                self.sandbox.tasks.spawn_on(ending.of(body, stopping), &runtime);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_summed_up_in_a_line() {
        let record = |decision| {
            Record::new(&"s1".into(), RequestId::new(), Kind::Request, decision)
                .host("api.openai.com")
                .method("GET")
                .path("/v1/models")
                .duration(Duration::from_micros(45_678))
        };
        let allowed = record(Verdict::Allow).status(200);
        assert_eq!(Summary(&allowed).to_string(), "allowed GET api.openai.com/v1/models 200 45ms");
        let refused = record(Verdict::Deny).status(403).reason(Reason::EndpointDenied);
        assert_eq!(
            Summary(&refused).to_string(),
            "refused GET api.openai.com/v1/models 403 45ms: endpoint_denied"
        );
        let bare = Record::new(&"s1".into(), RequestId::new(), Kind::Request, Verdict::Deny);
        assert_eq!(Summary(&bare).to_string(), "refused");
    }
}
