//! Limits how many responses containing a whole key a sandbox may see. Each one confirms that a
//! guess was right; nothing else about a response does. Keys are far too long to guess in so few
//! attempts.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Maximum such responses within [`WITHIN`]. An ordinary client stays below it even if an origin
/// shows a key in every response.
pub(crate) const MOST: usize = 1000;
/// The sliding window.
const WITHIN: Duration = Duration::from_secs(3600);

/// One sandbox's responses that contained a key.
#[derive(Debug, Default)]
pub(crate) struct Echoes(Mutex<VecDeque<Instant>>);

impl Echoes {
    /// Counts one; returns whether it may pass.
    pub(crate) fn admit(&self) -> bool {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> bool {
        // Nothing here panics; if it did, the list would stay valid.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.front().is_some_and(|first| now.saturating_duration_since(*first) >= WITHIN) {
            seen.pop_front();
        }
        let admitted = seen.len() < MOST;
        if admitted {
            seen.push_back(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_an_hour_and_then_again_as_time_goes_by() {
        let (echoes, start) = (Echoes::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!((0..MOST - 1).all(|_| echoes.admit_at(start)));
        assert!(echoes.admit_at(later(1800)) && !echoes.admit_at(later(1801)));
        assert!(!echoes.admit_at(later(3599)) && echoes.admit_at(later(3600)));
        assert!(
            (0..MOST - 2).all(|_| echoes.admit_at(later(3600))) && !echoes.admit_at(later(3600))
        );
    }
}
