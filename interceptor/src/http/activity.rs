//! What happens on one connection from the sandbox, for those who must tell whether it is idle, and
//! how it ended.

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
    /// Whatever moves: requests, their answers, pieces of bodies.
    pulse: Pulse,
    /// How many of its requests wait for an origin: that is no silence of the sandbox's.
    waiting: AtomicUsize,
    /// How many of its answers have a piece that the sandbox does not take.
    unread: AtomicUsize,
    /// Whether a request came, which has a record of its own.
    asked: AtomicBool,
    /// Whether it was recorded itself.
    recorded: AtomicBool,
    /// The limit that ended it.
    limit: OnceLock<Reason>,
    /// Cancelled when its time is up: who waits for an origin is told so.
    aged: CancellationToken,
    /// The sandbox itself ended it; by an alert about the certificate, if that is how.
    closed: AtomicBool,
    alert: OnceLock<&'static str>,
}

impl Activity {
    /// Something moved.
    pub(crate) fn beat(&self) {
        self.pulse.beat();
    }

    /// A request came.
    pub(crate) fn request(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.beat();
    }

    /// It is recorded itself.
    pub(crate) fn record(&self) {
        self.recorded.store(true, Ordering::Relaxed);
    }

    /// Whether anything of it is in the records.
    pub(crate) fn has_record(&self) -> bool {
        self.asked.load(Ordering::Relaxed) || self.recorded.load(Ordering::Relaxed)
    }

    /// A request waits for its origin until the returned value is dropped.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self.clone())
    }

    /// A piece of an answer was handed on, and is not taken until the returned value is dropped.
    pub(crate) fn hand_on(self: &Arc<Self>) -> Unread {
        self.unread.fetch_add(1, Ordering::Relaxed);
        Unread(self.clone())
    }

    /// Whether an origin is waited for. Who leaves so many answers unread that the window of a
    /// connection to an origin is used up waits for itself.
    fn awaits_origin(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
            && self.unread.load(Ordering::Relaxed) < MOST_UNREAD
    }

    /// A limit ends the connection; the first one counts.
    pub(crate) fn end(&self, limit: Reason) {
        let _ = self.limit.set(limit);
    }

    /// Its time is up. Says whether there are requests that can still be answered.
    pub(crate) fn age(&self) -> bool {
        self.end(Reason::TotalTimeout);
        self.aged.cancel();
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Returns when its time is up.
    pub(crate) async fn aged(&self) {
        self.aged.cancelled().await;
    }

    /// The sandbox ended it, if need be with an alert that refuses the certificate.
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

    /// The alert by which the sandbox refused the certificate.
    pub(crate) fn alert(&self) -> Option<&'static str> {
        self.alert.get().copied()
    }

    /// The limit that ended it.
    pub(crate) fn limit(&self) -> Option<Reason> {
        self.limit.get().copied()
    }

    /// Returns when nothing has moved for `time`.
    pub(crate) async fn stillness(&self, time: Duration) {
        self.pulse.silence(time).await;
    }

    /// Returns when nothing has moved for `patience` and nobody waits for an origin.
    pub(crate) async fn silence(&self, patience: Duration) {
        loop {
            self.pulse.silence(patience).await;
            if self.awaits_origin() {
                // The end of the wait is a movement, from which the time is counted anew.
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

/// A piece of an answer that the sandbox has not taken yet.
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
    async fn who_waits_for_an_origin_is_not_idle_and_the_time_counts_from_then() {
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
    async fn who_reads_nothing_waits_for_no_origin() {
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
