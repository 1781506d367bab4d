//! The places of the page's connections: few, and nobody can take those of others. Users who may
//! come in have places that strangers cannot take, and no user gets more than half of either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most connections of users who may come in.
const KNOWN: usize = 48;
/// The most of all others.
const STRANGERS: usize = 16;
/// The most connections.
pub(super) const ALL: usize = KNOWN + STRANGERS;

/// The places of a page.
#[derive(Debug)]
pub(super) struct Places {
    known: Arc<Group>,
    strangers: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    most: usize,
    /// By user; those whose user cannot be told are one.
    taken: Mutex<HashMap<Option<u32>, usize>>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    group: Arc<Group>,
    user: Option<u32>,
}

impl Default for Places {
    fn default() -> Places {
        let group = |most| Arc::new(Group { most, taken: Mutex::default() });
        Places { known: group(KNOWN), strangers: group(STRANGERS) }
    }
}

impl Places {
    /// A place for a user, if there is one.
    pub(super) fn take(&self, user: Option<u32>, is_known: bool) -> Option<Place> {
        let group = if is_known { &self.known } else { &self.strangers };
        let mut taken = group.taken();
        let own = taken.get(&user).copied().unwrap_or_default();
        if own >= group.most / 2 || taken.values().sum::<usize>() >= group.most {
            return None;
        }
        taken.insert(user, own + 1);
        Some(Place { group: group.clone(), user })
    }
}

impl Group {
    /// Every step leaves the counts right.
    fn taken(&self) -> MutexGuard<'_, HashMap<Option<u32>, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.group.taken();
        match taken.get_mut(&self.user) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_and_no_stranger_takes_the_places_of_others() {
        let places = Places::default();
        let all = |user: u32, is_known: bool| -> Vec<Place> {
            std::iter::from_fn(|| places.take(Some(user), is_known)).collect()
        };
        let mut held = vec![all(7, false)];
        assert_eq!(held[0].len(), STRANGERS / 2);
        held.push(all(8, false));
        // However many users somebody has.
        assert!((9..100).all(|user| all(user, false).is_empty()));
        assert!(places.take(None, false).is_none());
        let own = all(0, true);
        assert_eq!(own.len(), KNOWN / 2);
        assert_eq!(all(1, true).len(), KNOWN / 2);
        drop(own);
        assert_eq!(all(0, true).len(), KNOWN / 2, "they are free again");
        held.clear();
        assert!(places.take(None, false).is_some());
        assert!(places.known.taken().is_empty() && places.strangers.taken().is_empty());
    }
}
