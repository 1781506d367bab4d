//! Caches what is known and recorded of a name, so that neither is repeated for every query.
//!
//! Only an optimisation: a forgotten name is queried, or recorded, again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use interceptor_policy::Reason;
use lru::LruCache;

use crate::audit::Verdict;
use crate::upstream::Existence;

/// The number of names remembered.
const NAMES: usize = 4096;
/// A decision on a name is recorded at most once in this time.
const RECORD_AGAIN: Duration = Duration::from_secs(60);
/// How long to cache that a name exists.
const KEEP_YES: Duration = Duration::from_secs(60);
/// How long to cache that a name does not exist or could not be resolved.
const KEEP_NO: Duration = Duration::from_secs(5);

/// The parts of a decision that distinguish its records.
type Decided = (Verdict, Option<Reason>);

#[derive(Default)]
struct KnownName {
    existence: Option<(Existence, Instant)>,
    recorded: Option<(Decided, Instant)>,
}

pub(super) struct Recall(Mutex<LruCache<Box<str>, KnownName>>);

impl Recall {
    pub(super) fn new() -> Recall {
        // With a capacity, it would make room for all of them now.
        Recall(Mutex::new(LruCache::unbounded()))
    }

    /// What is cached about the name.
    pub(super) fn existence(&self, name: &str) -> Option<Existence> {
        self.with(name, |known| {
            let (existence, at) = known.existence?;
            let keep = if existence == Existence::Yes { KEEP_YES } else { KEEP_NO };
            (at.elapsed() < keep).then_some(existence)
        })
    }

    pub(super) fn found(&self, name: &str, existence: Existence) {
        self.with(name, |known| known.existence = Some((existence, Instant::now())));
    }

    /// Whether to record this decision on the name now.
    pub(super) fn is_news(&self, name: &str, decided: Decided) -> bool {
        self.with(name, |known| {
            let old = known
                .recorded
                .is_some_and(|(last, at)| last == decided && at.elapsed() < RECORD_AGAIN);
            if !old {
                known.recorded = Some((decided, Instant::now()));
            }
            !old
        })
    }

    fn with<T>(&self, name: &str, look: impl FnOnce(&mut KnownName) -> T) -> T {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get_mut(name) {
            return look(known);
        }
        if names.len() >= NAMES {
            names.pop_lru();
        }
        look(names.get_or_insert_mut(name.into(), KnownName::default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_names_are_remembered_and_the_least_recently_used_goes_first() {
        let recall = Recall::new();
        for number in 0..NAMES {
            recall.found(&format!("n{number}.test"), Existence::Yes);
        }
        assert_eq!(recall.existence("n0.test"), Some(Existence::Yes));
        recall.found("one-more.test", Existence::No);
        assert_eq!(recall.existence("n0.test"), Some(Existence::Yes));
        assert_eq!(recall.existence("n1.test"), None);
        assert_eq!(recall.0.lock().unwrap().len(), NAMES);
    }
}
