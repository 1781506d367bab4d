//! One request on its way through the pipeline, as the audit log will tell of it: recorded exactly once, when it is over,
//! however it ends. An exchange that is dropped (the sandbox hung up, a task was cancelled) is recorded as it stands.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::audit::{Audit, Kind, Protocol, Record, RequestId, Verdict};
use crate::policy::{Allow, Deny, Reason};
use crate::proxy::live::Alive;

/// The record of one request, until it is written.
#[derive(Debug)]
pub(crate) struct Exchange {
    audit: Audit,
    /// Taken when it is emitted.
    record: Option<Box<Record>>,
    started: Instant,
    up: Arc<AtomicU64>,
    down: u64,
    /// Its place among the sandbox's requests in progress.
    permit: Option<OwnedSemaphorePermit>,
    /// Its entry among what is open, and what cuts it off when a new policy does not permit it.
    open: Option<(Alive, CancellationToken)>,
    /// Waits for that, made when it is first waited for.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Exchange {
    /// Begins the record of a request. Until a decision is noted it stands as refused: malformed.
    pub(crate) fn new(audit: &Audit, sandbox: &Arc<str>, protocol: Protocol) -> Exchange {
        let record = Record::new(sandbox, RequestId::new(), Kind::Request, Verdict::Deny)
            .reason(Reason::RequestMalformed)
            .protocol(protocol);
        Exchange {
            audit: audit.clone(),
            record: Some(Box::new(record)),
            started: Instant::now(),
            up: Arc::default(),
            down: 0,
            permit: None,
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

    /// Keeps a place among the sandbox's requests in progress until the exchange is over.
    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }

    /// Keeps its entry among what is open until the exchange is over; `cut` cuts it off.
    pub(crate) fn enter(&mut self, alive: Alive, cut: CancellationToken) {
        self.open = Some((alive, cut));
    }

    /// What cuts it off.
    pub(crate) fn cut(&self) -> Option<CancellationToken> {
        self.open.as_ref().map(|(_, cut)| cut.clone())
    }

    /// Ready when it is cut off.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((_, cut)) = &self.open else { return Poll::Pending };
        let waiting = self.cut.get_or_insert_with(|| Box::pin(cut.clone().cancelled_owned()));
        waiting.as_mut().poll(cx)
    }

    /// Where body bytes from the sandbox are counted.
    pub(crate) fn up(&self) -> Arc<AtomicU64> {
        self.up.clone()
    }

    /// Counts body bytes to the sandbox.
    pub(crate) fn add_down(&mut self, bytes: u64) {
        self.down += bytes;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.bytes_up = Some(self.up.load(Ordering::Relaxed));
            record.bytes_down = Some(self.down);
            record.duration = Some(self.started.elapsed());
            self.audit.emit(*record);
        }
    }
}
