//! How many answers with a whole key a sandbox may see. Each tells that what stands there is the key, and so says whether a guess was
//! right; nothing else about an answer does. A key is far too long to be guessed in so few.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many such answers there may be within [`WITHIN`]. An origin that shows a key in each answer of an ordinary client
/// stays below it.
pub(crate) const MOST: usize = 1000;
/// The time that counts.
const WITHIN: Duration = Duration::from_secs(3600);

/// The answers of one sandbox that held a key.
#[derive(Debug, Default)]
pub(crate) struct Echoes(Mutex<VecDeque<Instant>>);

impl Echoes {
    /// Counts one; whether it may be passed on.
    pub(crate) fn admit(&self) -> bool {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> bool {
        // Nothing inside panics; were it to, the list would still be one.
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
        assert!((0..MOST - 2).all(|_| echoes.admit_at(later(3600))) && !echoes.admit_at(later(3600)));
    }
}
