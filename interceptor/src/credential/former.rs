//! Keys that were in use before. Answers are searched for them until no answer can be expected to
//! hold a living one, so that whoever has a key replaced gains nothing from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::key::RealKey;

/// How many a source keeps; it gives no other key while so many have not expired.
pub(crate) const MOST: usize = 64;
/// How many there may be for an origin's refusal to have another key fetched. A sandbox can provoke
/// refusals, and the rest is for keys that are due.
pub(crate) const MOST_REFUSED: usize = MOST / 2;
/// How many a credential keeps, whose source may have been replaced.
const MOST_OF_ONE: usize = 2 * MOST;
/// How long after its end a key may stand in an answer.
const ANSWER: Duration = Duration::from_secs(60 * 60);
/// How long a key is kept at least if its source did not say when it ends.
const UNTOLD: Duration = Duration::from_secs(24 * 60 * 60);
/// How long one is kept whose end cannot be told by the clock.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A key that was in use before.
#[derive(Clone, Debug)]
pub(crate) struct Former {
    pub(super) key: Arc<RealKey>,
    /// When it ends. This clock stands still while the machine sleeps, which only keeps it longer.
    ends: Instant,
    /// Until when it is searched for.
    kept: Instant,
}

impl Former {
    /// A key that lasts for `left`, as its source told, or as it was assumed.
    pub(super) fn of(key: Arc<RealKey>, left: Duration, is_told: bool) -> Former {
        let kept = left.saturating_add(ANSWER);
        Former::lasting(key, left, if is_told { kept } else { kept.max(UNTOLD) })
    }

    /// A key of which nothing is known but that it is in use no more.
    pub(super) fn untold(key: Arc<RealKey>) -> Former {
        Former::of(key, Duration::ZERO, false)
    }

    /// A key that is about to be in use.
    pub(super) fn coming(key: Arc<RealKey>) -> Former {
        Former::lasting(key, UNTOLD, UNTOLD)
    }

    /// A key that ends, and is forgotten, so long from now.
    pub(super) fn lasting(key: Arc<RealKey>, left: Duration, kept: Duration) -> Former {
        let now = Instant::now();
        let end = |left: Duration| now.checked_add(left.min(LONGEST)).unwrap_or(now);
        Former { key, ends: end(left), kept: end(kept) }
    }

    /// The key itself.
    pub(super) fn key(&self) -> &Arc<RealKey> {
        &self.key
    }

    /// Whether it is still searched for.
    pub(super) fn is_kept(&self) -> bool {
        self.kept > Instant::now()
    }

    /// For how long it lasts and is kept, from now on.
    pub(super) fn left(&self) -> (Duration, Duration) {
        let now = Instant::now();
        (self.ends.saturating_duration_since(now), self.kept.saturating_duration_since(now))
    }
}

/// Keys that were in use before, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Formers(Vec<Former>);

impl Formers {
    /// Every key.
    pub(super) fn keys(&self) -> impl DoubleEndedIterator<Item = &Arc<RealKey>> {
        self.0.iter().map(|former| &former.key)
    }

    /// Every key with its end.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Former> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is among them.
    pub(super) fn holds(&self, key: &RealKey) -> bool {
        self.keys().any(|known| known.expose() == key.expose())
    }

    /// Whether they are the same keys.
    pub(super) fn are(&self, others: &Formers) -> bool {
        self.len() == others.len() && self.keys().all(|key| others.holds(key))
    }

    /// Adds one. Of the same key, the later end counts.
    pub(crate) fn add(&mut self, former: Former) {
        match self.0.iter_mut().find(|known| known.key.expose() == former.key.expose()) {
            Some(known) => {
                known.ends = known.ends.max(former.ends);
                known.kept = known.kept.max(former.kept);
            }
            None => self.0.push(former),
        }
    }

    /// Adds all of these.
    pub(crate) fn extend(&mut self, others: Formers) {
        others.0.into_iter().for_each(|former| self.add(former));
    }

    /// Forgets those whose time is over.
    pub(crate) fn prune(&mut self) {
        let now = Instant::now();
        self.0.retain(|former| former.kept > now);
    }

    /// Forgets the key that is in use, those whose time is over, and those that do not fit.
    pub(super) fn settle(&mut self, current: &RealKey, fits: impl Fn(&RealKey) -> bool) {
        self.0.retain(|former| former.key.expose() != current.expose() && fits(&former.key));
        self.prune();
        self.shorten(MOST_OF_ONE);
    }

    /// As [`Formers::settle`], for those of a source.
    pub(crate) fn settle_source(&mut self, current: &RealKey) {
        self.settle(current, |_| true);
        self.shorten(MOST);
    }

    /// Whether another fits without forgetting one that has not expired.
    pub(crate) fn have_room(&mut self) -> bool {
        self.prune();
        self.len() < MOST || self.expired().is_some()
    }

    fn expired(&self) -> Option<usize> {
        let now = Instant::now();
        self.0.iter().position(|former| former.ends <= now)
    }

    /// Forgets the oldest, of those that have expired as long as there are any.
    fn shorten(&mut self, most: usize) {
        while self.len() > most {
            self.0.remove(self.expired().unwrap_or(0));
        }
    }
}
