//! When the last activity was and how long ago, for the price of a clock read and a store per
//! activity.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The time of the last activity.
#[derive(Debug)]
pub(crate) struct Pulse {
    base: Instant,
    /// Microseconds from `base` to the last activity.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { base: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// Notes activity.
    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.base.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// How long there has been no activity.
    pub(crate) fn quiet(&self) -> Duration {
        let last = Duration::from_micros(self.last.load(Ordering::Relaxed));
        self.base.elapsed().saturating_sub(last)
    }

    /// What is left of `patience`; `None` if it is used up.
    pub(crate) fn left(&self, patience: Duration) -> Option<Duration> {
        patience.checked_sub(self.quiet()).filter(|left| !left.is_zero())
    }

    /// Returns after `patience` without activity.
    pub(crate) async fn silence(&self, patience: Duration) {
        while let Some(left) = self.left(patience) {
            tokio::time::sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed_on_time_and_not_before() {
        for (patience, moves) in [(4, 0), (300, 7), (7440, 1)] {
            let patience = Duration::from_secs(patience);
            let pulse = Pulse::default();
            let began = Instant::now();
            let moving = async {
                for _ in 0..moves {
                    tokio::time::sleep(patience * 9 / 10).await;
                    pulse.beat();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = pulse.silence(patience) => {}
                () = moving => {}
            }
            let expected = patience * 9 / 10 * moves + patience;
            let late = began.elapsed().saturating_sub(expected);
            assert!(began.elapsed() >= expected, "{patience:?}: too early");
            assert!(late < patience / 50, "{patience:?}: {late:?} late");
        }
    }
}
