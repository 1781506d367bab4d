//! Counts the heads on an HTTP/2 connection, and what became of them.
//!
//! When h2 resets a stream because of its head, it does not tell the server. The number of such
//! heads is the number of complete heads minus the number of requests served or answered here,
//! taken at a moment when none is in between.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::scan::ENHANCE_YOUR_CALM;

/// What was seen on a connection.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Tally(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Complete heads, and the requests made from them.
    pub(super) whole: u64,
    served: u64,
    /// Heads already reported as not served.
    told: u64,
    /// A head has begun and is incomplete.
    pub(super) begun: bool,
    /// Bare 431s and refused streams not yet reported.
    pub(super) too_large: u64,
    pub(super) refused: u64,
    /// A write is blocked by the sandbox; until it proceeds, h2 may not read further frames.
    pub(super) blocked: bool,
    /// From the GOAWAY: the last stream that counts, and the error code.
    pub(super) last: Option<u32>,
    pub(super) code: u32,
    /// How long the latest refusal here said to wait.
    turn: Duration,
    /// When a request was last answered with an error.
    pub(super) erred: Option<Instant>,
}

/// Heads that became no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Unserved {
    /// Their streams were reset because they violate HTTP.
    pub malformed: u64,
    /// Answered with 431.
    pub too_large: u64,
    /// Beyond h2's limits on number or size.
    pub refused: u64,
    /// The connection ended before they were read or complete.
    pub unread: u64,
}

impl Tally {
    pub(super) fn lock(&self) -> MutexGuard<'_, Counts> {
        // Nothing panics while the lock is held, and each field is valid at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was made from a head.
    pub(in crate::http) fn served(&self) {
        self.lock().served += 1;
    }

    /// A request is about to be answered with an error.
    pub(in crate::http) fn errs(&self) {
        self.lock().erred = Some(Instant::now());
    }

    /// Notes that a head was answered and recorded here, and how long to wait before reading more.
    /// `is_last` means the latest head, which may be incomplete.
    pub(super) fn answered(&self, turn: Duration, is_last: bool) {
        let mut counts = self.lock();
        counts.turn = turn;
        if is_last && counts.begun {
            counts.begun = false;
        } else {
            counts.told += 1;
        }
    }

    /// How long to wait before reading more. Reported once.
    pub(in crate::http) fn turn(&self) -> Duration {
        std::mem::take(&mut self.lock().turn)
    }

    /// Heads not served since the last call. Call this when h2 has done all it can for now: every
    /// complete head it has read is then served or answered.
    pub(in crate::http) fn settle(&self) -> Unserved {
        let mut counts = self.lock();
        if counts.blocked || !counts.has_unserved() {
            return Unserved::default();
        }
        counts.take()
    }

    /// Heads not served by the end of the connection.
    pub(in crate::http) fn rest(&self) -> Unserved {
        let mut counts = self.lock();
        let (code, begun) = (counts.code, std::mem::take(&mut counts.begun));
        let mut rest = counts.take();
        match code {
            // A regular end: heads that h2 did not finish reading broke no rule.
            0 => {
                rest.unread = rest.malformed + u64::from(begun);
                rest.malformed = 0;
            }
            ENHANCE_YOUR_CALM => {
                rest.refused += rest.malformed + u64::from(begun);
                rest.malformed = 0;
            }
            _ => rest.malformed += u64::from(begun),
        }
        rest
    }
}

impl Counts {
    /// Whether there are complete heads that were neither served nor reported.
    pub(super) fn has_unserved(&self) -> bool {
        self.whole > self.served + self.told
    }

    fn take(&mut self) -> Unserved {
        let all = self.whole.saturating_sub(self.served + self.told);
        self.told += all;
        let too_large = all.min(std::mem::take(&mut self.too_large));
        let refused = (all - too_large).min(std::mem::take(&mut self.refused));
        Unserved { malformed: all - too_large - refused, too_large, refused, unread: 0 }
    }
}
