//! Activity on one connection from the sandbox: whether it is idle, and how it ended.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use interceptor_policy::Reason;
use tokio_util::sync::CancellationToken;

use crate::tunnel::pulse::Pulse;
use crate::upstream::pool::MOST_UNREAD;

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Beats on any activity: requests, responses, body frames.
    pulse: Pulse,
    /// How many of its requests wait for an origin; the sandbox is not idle meanwhile.
    waiting: AtomicUsize,
    /// How many responses have a frame that the sandbox has not read yet.
    unread: AtomicUsize,
    /// Whether a request arrived; it has a record of its own.
    asked: AtomicBool,
    /// Whether the connection itself was recorded.
    recorded: AtomicBool,
    /// The limit that ended it.
    limit: OnceLock<Reason>,
    /// Cancelled at its maximum age, so that requests waiting for an origin are answered.
    aged: CancellationToken,
    /// Whether the sandbox ended it, and the TLS alert about the certificate, if it sent one.
    closed: AtomicBool,
    alert: OnceLock<&'static str>,
}

impl Activity {
    /// Notes activity.
    pub(crate) fn beat(&self) {
        self.pulse.beat();
    }

    /// A request arrived.
    pub(crate) fn request(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.beat();
    }

    /// The connection itself is recorded.
    pub(crate) fn record(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// Whether the connection or one of its requests is recorded.
    pub(crate) fn has_record(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.recorded.load(Ordering::Relaxed)
    }

    /// Counts a request as waiting for its origin until the returned value is dropped.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }

    /// Counts a response frame as unread until the returned value is dropped.
    pub(crate) fn hand_on(self: &Arc<Self>) -> Unread {
        self.unread.fetch_add(1, Ordering::Relaxed);
        Unread(self.clone())
    }

    /// Whether it is waiting for an origin. With enough unread responses to fill the window of an
    /// origin's connection, the sandbox is waiting for itself.
    fn awaits_origin(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
            && self.unread.load(Ordering::Relaxed) < MOST_UNREAD
    }

    /// A limit ends the connection; the first one is recorded.
    pub(crate) fn end(&self, limit: Reason) {
        let _ = self.limit.set(limit);
    }

    /// The connection has reached its maximum age. Returns whether requests can still be answered.
    pub(crate) fn age(&self) -> bool {
        self.end(Reason::TotalTimeout);
        self.aged.cancel();
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns once the connection has reached its maximum age.
    pub(crate) async fn aged(&self) {
        self.aged.cancelled().await;
    }

    /// The sandbox ended it, perhaps with an alert that rejects the certificate.
    pub(crate) fn closed(&self, alert: Option<&'static str>) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(alert) = alert {
            let _ = self.alert.set(alert);
        }
    }

    /// Whether the sandbox ended it.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The alert with which the sandbox rejected the certificate.
    pub(crate) fn alert(&self) -> Option<&'static str> {
        self.alert.get().copied()
    }

    /// The limit that ended it.
    pub(crate) fn limit(&self) -> Option<Reason> {
        self.limit.get().copied()
    }

    /// Returns after `time` without any activity.
    pub(crate) async fn stillness(&self, time: Duration) {
        self.pulse.silence(time).await;
    }

    /// Returns after `patience` without activity, unless an origin is waited for.
    pub(crate) async fn silence(&self, patience: Duration) {
        loop {
            self.pulse.silence(patience).await;
            if self.awaits_origin() {
                // The end of the wait counts as activity and restarts the timer.
                tokio::time::sleep(patience).await;
            } else if self.pulse.left(patience).is_none() {
                return;
            }
        }
    }
}

/// A request that waits for its origin.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Activity>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.beat();
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response frame that the sandbox has not read yet.
#[derive(Debug)]
pub(crate) struct Unread(Arc<Activity>);

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.beat();
        self.0.unread.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn waiting_for_an_origin_is_not_idle_and_restarts_the_timer() {
        let activity = Arc::new(Activity::default());
        let began = Instant::now();
        let waiting = activity.wait();
        let origin = async {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            drop(waiting);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = activity.silence(Duration::from_secs(300)) => {}
            () = origin => {}
        }
        let took = began.elapsed().as_secs();
        assert!((1300..1306).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_idle() {
        let activity = Arc::new(Activity::default());
        let began = Instant::now();
        let _waiting = activity.wait();
        let few: Vec<_> = (1..MOST_UNREAD).map(|_| activity.hand_on()).collect();
        let silence = activity.silence(Duration::from_secs(300));
        assert!(tokio::time::timeout(Duration::from_secs(3000), silence).await.is_err());
        let _one_more = activity.hand_on();
        activity.silence(Duration::from_secs(300)).await;
        let took = began.elapsed().as_secs();
        assert!((3000..3306).contains(&took), "{took}");
        drop(few);
        let silence = activity.silence(Duration::from_secs(300));
        assert!(tokio::time::timeout(Duration::from_secs(3000), silence).await.is_err());
    }
}
