//! One request on its way through the pipeline, and its audit record: written exactly once, when
//! the request is over, however it ends. An exchange that is dropped (the sandbox hung up, a task
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

/// How long a body may take to report how it ended after its request was dropped.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The record of one request until it is written. Boxed, because it moves many times.
#[derive(Debug)]
pub(crate) struct Exchange(Box<State>);

#[derive(Debug)]
struct State {
    /// The sandbox it belongs to, with its audit log, echo limit and tasks.
    sandbox: Arc<Sandbox>,
    /// Taken when it is written.
    record: Option<Record>,
    started: Instant,
    up: Arc<AtomicU64>,
    down: u64,
    /// Its place among the sandbox's requests in progress.
    place: Option<Permit>,
    /// Counts it as in progress.
    in_progress: Opened,
    /// Time spent in the proxy itself, and when the current stretch began.
    own: Duration,
    running: Option<Instant>,
    /// Log lines about the request belong to this span.
    span: tracing::Span,
    /// Activity on its connection.
    activity: Arc<Activity>,
    /// Its body, once the request is being sent.
    sending: Option<Arc<Sending>>,
    /// Whether the origin may have received any part of it.
    sent: bool,
    /// Whether its response is complete.
    complete: bool,
    /// Its entry in the list of open requests, which cuts it off when a new policy does not permit
    /// it.
    open: Option<Alive>,
    /// Waits for that cut; created on first use.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// The sandbox has received too many responses that hold a key.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "{MOST} answers with a real key were received within an hour, which is the limit; find out \
     what returns it"
)]
pub(crate) struct TooManyEchoes;

impl Exchange {
    /// Starts the record of a request. Until a decision is noted, it counts as refused: malformed.
    pub(crate) fn new(
        sandbox: &Arc<Sandbox>,
        protocol: Protocol,
        activity: &Arc<Activity>,
    ) -> Exchange {
        let record = Record::new(&sandbox.id, RequestId::new(), Kind::Request, Verdict::Deny)
            .reason(Reason::RequestMalformed)
            .protocol(protocol);
        // A span formats its fields into memory, so it is created only if request lines are logged.
        let span = tracing::info_span!("request", id = %record.id, sandbox = %sandbox.id);
        let now = Instant::now();
        Exchange(Box::new(State {
            sandbox: sandbox.clone(),
            record: Some(record),
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
        }))
    }

    /// The request id, which the response carries too.
    pub(crate) fn id(&self) -> RequestId {
        // The record is taken only on drop.
        self.0.record.as_ref().map(|record| record.id).unwrap_or_else(RequestId::new)
    }

    /// Updates the record.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.0.record {
            change(record);
        }
    }

    /// Records that the request is allowed.
    pub(crate) fn allow(&mut self, allow: &Allow) {
        self.note(|record| {
            record.decision = Some(Verdict::Allow);
            record.reason = None;
            record.filter = Some(allow.filter);
            record.rule = allow.rule.clone();
        });
    }

    /// Records that the request is refused.
    pub(crate) fn deny(&mut self, deny: &Deny) {
        self.note(|record| {
            record.decision = Some(Verdict::Deny);
            record.reason = Some(deny.reason);
            record.filter = Some(deny.filter);
            record.rule = deny.rule.clone();
            record.status = Some(deny.status);
        });
    }

    /// Sets whether the origin may have received any part of the request.
    pub(crate) fn sent(&mut self, sent: bool) {
        self.0.sent = sent;
    }

    /// Follows the body through `sending`.
    pub(crate) fn sends(&mut self, sending: Arc<Sending>) {
        self.0.sending = Some(sending);
    }

    /// Marks the response as complete.
    pub(crate) fn complete(&mut self) {
        self.0.complete = true;
        if let Some(sending) = &self.0.sending {
            sending.answer_over();
        }
    }

    /// Records how it ended, unless already known: what broke its body, or else `reason`.
    pub(crate) fn ended(&mut self, reason: Option<Reason>) {
        let broken = self.0.sending.as_ref().and_then(|sending| sending.broken());
        let reason = broken.map(|broken| broken.ends).or(reason);
        self.0.complete = true;
        self.note(|record| record.reason = record.reason.or(reason));
    }

    /// Records a failure. A request that was already sent stays allowed.
    pub(crate) fn failed(&mut self, deny: &Deny, ends: Reason) {
        if !self.0.sent {
            self.deny(deny);
        }
        self.note(|record| {
            record.reason = Some(ends);
            record.status = Some(deny.status);
        });
    }

    /// Keeps its place among the sandbox's requests in progress until the exchange is over.
    pub(crate) fn hold(&mut self, place: Permit) {
        self.0.place = Some(place);
    }

    /// The span of the request's log lines, which carries its id.
    pub(crate) fn span(&self) -> &tracing::Span {
        &self.0.span
    }

    /// Activity on its connection.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.0.activity
    }

    /// The sandbox's metrics.
    pub(crate) fn metrics(&self) -> &Arc<SandboxMetrics> {
        self.0.in_progress.metrics()
    }

    /// Pauses the proxy's own time: the origin or the sandbox is working now.
    pub(crate) fn pause(&mut self) {
        if let Some(since) = self.0.running.take() {
            self.0.own += since.elapsed();
        }
    }

    /// Resumes the proxy's own time.
    pub(crate) fn resume(&mut self) {
        self.0.running.get_or_insert_with(Instant::now);
    }

    /// The head of the response goes to the sandbox, so the latency the proxy added is known.
    pub(crate) fn forwarded(&mut self) {
        self.pause();
        self.metrics().added(self.0.own);
    }

    /// Keeps its entry in the list of open requests, which may cut it off, until the exchange is
    /// over.
    pub(crate) fn enter(&mut self, alive: Alive) {
        self.0.open = Some(alive);
    }

    /// The token that cuts it off.
    pub(crate) fn cut(&self) -> Option<CancellationToken> {
        self.0.open.as_ref().map(|open| open.token().clone())
    }

    /// Ready once it is cut off.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State { open, cut, .. } = &mut *self.0;
        let Some(open) = open else { return Poll::Pending };
        let waiting = cut.get_or_insert_with(|| Box::pin(open.token().clone().cancelled_owned()));
        waiting.as_mut().poll(cx)
    }

    /// Records how many keys the response has held so far.
    ///
    /// # Errors
    /// The sandbox has received too many such responses, so this one must end.
    pub(crate) fn echoed(&mut self, keys: u64) -> Result<(), TooManyEchoes> {
        let Some(record) = &mut self.0.record else { return Ok(()) };
        let Some(fresh) =
            keys.checked_sub(record.key_echoed.unwrap_or(0)).filter(|fresh| *fresh > 0)
        else {
            return Ok(());
        };
        let first = record.key_echoed.replace(keys).is_none();
        self.metrics().keys_echoed(fresh);
        if first && !self.0.sandbox.echoes.admit() {
            self.note(|record| record.reason = Some(Reason::LimitExceeded));
            return Err(TooManyEchoes);
        }
        Ok(())
    }

    /// How many keys the response has held so far.
    pub(crate) fn keys_echoed(&self) -> u64 {
        self.0.record.as_ref().and_then(|record| record.key_echoed).unwrap_or(0)
    }

    /// The counter of body bytes from the sandbox.
    pub(crate) fn up(&self) -> Arc<AtomicU64> {
        self.0.up.clone()
    }

    /// Adds bytes sent to the sandbox that the metrics already count.
    pub(crate) fn note_down(&mut self, bytes: u64) {
        self.0.down += bytes;
    }

    /// Counts body bytes sent to the sandbox.
    pub(crate) fn add_down(&mut self, bytes: u64) {
        self.0.down += bytes;
        self.metrics().down(bytes);
        self.0.activity.beat();
    }
}

impl Exchange {
    /// Why it ended early.
    fn cause(&self) -> Reason {
        let cut = self.0.open.as_ref().is_some_and(|open| open.token().is_cancelled());
        match self.0.activity.limit() {
            _ if cut => Reason::HostDenied,
            Some(limit) => limit,
            None => Reason::Aborted,
        }
    }
}

/// The outcome of a request in one line: `allowed GET api.openai.com/v1/models 200 45ms`.
struct SummaryLine<'a>(&'a Record);

impl fmt::Display for SummaryLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SummaryLine(record) = self;
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

/// A complete record, except that how the request ended may still be unknown.
struct PendingRecord {
    record: Option<Record>,
    audit: Audit,
    metrics: Arc<SandboxMetrics>,
    span: tracing::Span,
}

impl PendingRecord {
    /// h2 resets a stream whose body breaks the rules and drops its request before anyone has read
    /// why. The body itself reports the reason when it is dropped.
    async fn of(mut self, body: oneshot::Receiver<bool>, stopping: CancellationToken) {
        let is_malformed = tokio::select! {
            malformed = body => malformed.unwrap_or(false),
            () = stopping.cancelled() => false,
            () = tokio::time::sleep(REPORT_TIMEOUT) => false,
        };
        if is_malformed && let Some(record) = &mut self.record {
            record.reason = Some(Reason::RequestMalformed);
        }
    }
}

impl Drop for PendingRecord {
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
            SummaryLine(&record)
        );
        self.audit.emit(record);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let allowed =
            self.0.record.as_ref().is_some_and(|record| record.decision == Some(Verdict::Allow));
        if allowed && !self.0.complete {
            self.ended(Some(self.cause()));
        }
        let sent = self.0.sent;
        self.note(|record| {
            // Only what the origin received is recorded as allowed.
            if allowed && !sent {
                record.decision = Some(Verdict::Deny);
            }
        });
        if let Some(mut record) = self.0.record.take() {
            record.bytes_up = Some(self.0.up.load(Ordering::Relaxed));
            record.bytes_down = Some(self.0.down);
            record.duration = Some(self.0.started.elapsed());
            if record.key_echoed.is_some() {
                record.reason.get_or_insert(Reason::KeyEchoed);
            }
            let unclear =
                record.protocol == Some(Protocol::H2) && record.reason == Some(Reason::Aborted);
            let ending = PendingRecord {
                record: Some(record),
                audit: self.0.sandbox.audit.clone(),
                metrics: self.metrics().clone(),
                span: self.0.span.clone(),
            };
            if unclear
                && let Some(body) = self.0.sending.as_ref().map(|sending| sending.let_go())
                && let Ok(runtime) = tokio::runtime::Handle::try_current()
            {
                let stopping = self.0.sandbox.stopping();
                self.0.sandbox.tasks.spawn_on(ending.of(body, stopping), &runtime);
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
        assert_eq!(
            SummaryLine(&allowed).to_string(),
            "allowed GET api.openai.com/v1/models 200 45ms"
        );
        let refused = record(Verdict::Deny).status(403).reason(Reason::EndpointDenied);
        assert_eq!(
            SummaryLine(&refused).to_string(),
            "refused GET api.openai.com/v1/models 403 45ms: endpoint_denied"
        );
        let bare = Record::new(&"s1".into(), RequestId::new(), Kind::Request, Verdict::Deny);
        assert_eq!(SummaryLine(&bare).to_string(), "refused");
    }
}
