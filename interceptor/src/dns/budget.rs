//! Limits a sandbox's queries to real name servers.
//!
//! A rule like `*.example.com` lets a sandbox choose labels, and each queried label can carry data
//! out. The budget is far above what programs need and far below what a tunnel needs.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A token bucket.
pub(super) struct TokenBucket {
    burst: f64,
    per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl TokenBucket {
    /// A bucket of `burst`, refilled at `per_second`.
    pub(super) fn new(burst: u32, per_second: u32) -> TokenBucket {
        let burst = f64::from(burst);
        TokenBucket {
            burst,
            per_second: f64::from(per_second),
            state: Mutex::new((burst, Instant::now())),
        }
    }

    /// Takes a token; `false` if none is left.
    pub(super) fn spend(&self) -> bool {
        self.spend_at(Instant::now())
    }

    fn spend_at(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, last) = &mut *state;
        let passed: Duration = now.saturating_duration_since(*last);
        *tokens = (*tokens + passed.as_secs_f64() * self.per_second).min(self.burst);
        *last = now.max(*last);
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x4_a_flood_gets_the_burst_and_then_the_rate() {
        let budget = TokenBucket::new(10, 2);
        let start = Instant::now();
        let spent = |seconds: u64| {
            (0..100).filter(|_| budget.spend_at(start + Duration::from_secs(seconds))).count()
        };
        assert_eq!(spent(1), 10);
        assert_eq!(spent(1), 0);
        assert_eq!(spent(4), 6);
        assert_eq!(spent(3), 0, "time never runs backwards");
        assert_eq!(spent(1000), 10, "the burst is the most that gathers");
    }
}
