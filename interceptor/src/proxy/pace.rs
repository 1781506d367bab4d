//! Paces refusals. A refusal waits for no origin, so a loop of refused requests would run at full
//! processor speed at the other sandboxes' cost. Beyond the pace each refusal waits its turn; the
//! sandbox's connection and stream limits bound the number waiting.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One refusal per interval in the long run: far more than any program that reads its responses
/// gets.
const EVERY: Duration = Duration::from_millis(1);
/// The burst allowance.
const BURST: Duration = Duration::from_secs(2);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(1);

/// The pace of one sandbox's refusals (generic cell rate algorithm, ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Instant>);

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace(Mutex::new(Instant::now()))
    }

    /// Takes a turn; returns how long to wait for it, usually zero.
    pub(crate) fn turn(&self) -> Duration {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Duration {
        // Nothing here panics; if it did, the instant would stay valid.
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(now).min(now + BURST + LONGEST) + EVERY;
        (*next - now).saturating_sub(BURST).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_waits_for_nothing_and_a_flood_more_and_more() {
        let pace = Pace::new();
        let now = Instant::now();
        assert!((0..1999).all(|_| pace.turn_at(now) == Duration::ZERO));
        let waits: Vec<_> = (0..5000).map(|_| pace.turn_at(now)).collect();
        assert!(waits.is_sorted() && waits[200] > Duration::from_millis(150));
        assert_eq!(waits.last(), Some(&LONGEST));
        assert_eq!(
            pace.turn_at(now + Duration::from_secs(10)),
            Duration::ZERO,
            "it is forgiven with time"
        );
    }
}
