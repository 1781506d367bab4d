//! The identity of one decision: the same in the HTTP answer, the audit record and the log.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A unique 128-bit id, written as 26 lower-case letters and digits (RFC 4648 base32, no padding).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u128);

/// Two random SipHash keys. An id must be unique and hard to predict, but not secret, and every
/// request needs one: a keyed hash of a counter needs no system call and cannot fail.
static KEYS: LazyLock<[RandomState; 2]> =
    LazyLock::new(|| [RandomState::new(), RandomState::new()]);
static COUNTER: AtomicU64 = AtomicU64::new(0);

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
pub(super) const LENGTH: usize = 26;

impl RequestId {
    /// A new id.
    #[allow(clippy::new_without_default, reason = "two defaults would not be equal")]
    pub fn new() -> RequestId {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // The halves hash different values, in case the keys are related.
        let high = KEYS[0].hash_one((count, 0_u8));
        let low = KEYS[1].hash_one((count, 1_u8));
        RequestId(u128::from(high) << 64 | u128::from(low))
    }

    /// Its characters, in `room`.
    pub(super) fn text(self, room: &mut [u8; LENGTH]) -> &str {
        let mut rest = self.0;
        for place in room.iter_mut().rev() {
            *place = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        str::from_utf8(room).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text(&mut [0; LENGTH]))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_26_lower_case_characters_and_differ() {
        let ids: HashSet<String> = (0..10_000).map(|_| RequestId::new().to_string()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in &ids {
            assert_eq!(id.len(), LENGTH);
            assert!(id.bytes().all(|byte| ALPHABET.contains(&byte)), "{id}");
        }
    }
}
