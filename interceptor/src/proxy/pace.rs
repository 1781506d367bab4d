//! How fast a sandbox is told no. A refusal is made without an origin to wait for, so that a loop of refused requests would
//! run as fast as the processor allows, at the cost of the sandboxes beside it. Beyond the pace each waits for its turn; the
//! number of those who wait is bounded by the sandbox's connections and their streams.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Refusals a second in the long run: far more than a program that reads its answers gets.
const EVERY: Duration = Duration::from_millis(1);
/// How much of that may be used up at once.
const BURST: Duration = Duration::from_secs(2);
/// The longest that one waits.
const LONGEST: Duration = Duration::from_secs(1);

/// The pace of one sandbox's refusals (a "generic cell rate algorithm", ITU-T I.371).
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Instant>);

impl Pace {
    pub(crate) fn new() -> Pace {
        Pace(Mutex::new(Instant::now()))
    }

    /// Takes a turn, and says how long it is until then: mostly nothing.
    pub(crate) fn turn(&self) -> Duration {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Duration {
        // Nothing inside panics; were it to, the number would still be whole.
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
        assert_eq!(pace.turn_at(now + Duration::from_secs(10)), Duration::ZERO, "it is forgiven with time");
    }
}
