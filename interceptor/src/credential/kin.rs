//! All keys that the answers to one sandbox are searched for: those of the keyring in force, those
//! of the ones before it, as long as a request that was judged by them is open, and what these had
//! until no answer can be expected to hold a living one.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwapOption;
use interceptor_policy::redact::{RedactError, Redactor};

use super::changes;
use super::entry::{KeyringEntry, Keys, lock};
use super::former::Former;
use super::key::{Content, RealKey};
use super::placeholder::Placeholder;
use super::told::Told;
use crate::logging;

/// How many keys of former keyrings are kept.
const MOST_LEFT: usize = 1024;

/// Those of all sandboxes of this process.
static ALL: Mutex<Vec<Weak<Kin>>> = Mutex::new(Vec::new());

/// The entries of all keyrings of a sandbox, and the search for their keys.
#[derive(Debug, Default)]
pub(super) struct Kin {
    entries: Mutex<Vec<Weak<KeyringEntry>>>,
    /// What keyrings left that are gone, and keys that other sandboxes read first; the oldest
    /// first.
    left: Mutex<Vec<Left>>,
    /// Counts changes of their keys, to invalidate the redactor.
    generation: AtomicU64,
    compiled: ArcSwapOption<Compiled>,
    /// Held while building the redactor.
    making: Mutex<()>,
}

/// A key that no entry has.
#[derive(Clone, Debug)]
struct Left {
    former: Former,
    content: Content,
    placeholder: Placeholder,
}

/// The search for all keys, and how old it is.
#[derive(Debug)]
struct Compiled {
    /// The changes in this process that it takes into account.
    changes: u64,
    generation: u64,
    redactor: Option<Redactor>,
}

impl Kin {
    /// For a sandbox, or for a keyring that may join one.
    pub(super) fn new() -> Arc<Kin> {
        let kin = Arc::<Kin>::default();
        let mut all = lock(&ALL);
        if all.len() == all.capacity() {
            all.retain(|kin| kin.strong_count() > 0);
        }
        all.push(Arc::downgrade(&kin));
        kin
    }

    /// Another sandbox has read a key from a file.
    fn hear(&self, path: &Path, content: Content, key: &Arc<RealKey>) {
        for entry in self.entries().iter().filter(|entry| entry.content == content) {
            if entry.reads(path) && !entry.keys.load().hold(key) && entry.fits(key) {
                let former = Former::untold(key.clone());
                let placeholder = entry.placeholder.clone();
                self.leave([Left { former, content, placeholder }]);
                self.generation.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Keeps these keys for as long as they are to be searched for.
    fn leave(&self, more: impl IntoIterator<Item = Left>) {
        let mut left = lock(&self.left);
        for one in more {
            let is_known = |left: &Left| left.former.key().expose() == one.former.key().expose();
            if !left.iter().any(is_known) {
                left.push(one);
            }
        }
        left.retain(|left| left.former.is_kept());
        let surplus = left.len().saturating_sub(MOST_LEFT);
        left.drain(..surplus);
    }

    /// Adds the entries of a keyring. From now on, answers are searched for their keys.
    pub(super) fn admit<'a>(&self, entries: impl Iterator<Item = &'a Arc<KeyringEntry>>) {
        let mut known = lock(&self.entries);
        known.retain(|entry| entry.strong_count() > 0);
        known.extend(entries.map(Arc::downgrade));
        drop(known);
        self.announce();
    }

    /// A keyring with these entries goes. Another may have taken over their keys.
    pub(super) fn dismiss<'a>(&self, entries: impl Iterator<Item = &'a Arc<KeyringEntry>>) {
        let entries: Vec<&Arc<KeyringEntry>> = entries.collect();
        let is_gone = |one: &Arc<KeyringEntry>| entries.iter().any(|gone| Arc::ptr_eq(gone, one));
        let others = self.entries();
        let others = others.iter().filter(|one| !is_gone(one)).map(|one| one.keys.load_full());
        let others: Vec<Arc<Keys>> = others.collect();
        for entry in entries {
            let known = entry.known();
            let lost = known.iter().filter(|one| !others.iter().any(|keys| keys.hold(one.key())));
            let (content, placeholder) = (entry.content, &entry.placeholder);
            self.leave(lost.map(|former| Left {
                former: former.clone(),
                content,
                placeholder: placeholder.clone(),
            }));
        }
        // What was compiled holds keys that may be forgotten now.
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.compiled.store(None);
    }

    /// Counts changes of the keys.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The redactor for every key; `None` without keys. Built once per change.
    ///
    /// # Errors
    /// [`RedactError::TooManyKeys`]
    pub(super) fn redactor(&self) -> Result<Option<Redactor>, RedactError> {
        let changes = changes::counted();
        if let Some(made) = &*self.compiled.load()
            && made.changes == changes
        {
            return Ok(made.redactor.clone());
        }
        let entries = self.entries();
        entries.iter().for_each(|entry| self.catch_up(entry));
        let _making = lock(&self.making);
        let generation = self.generation();
        let made = self.compiled.load_full().filter(|made| made.generation == generation);
        let redactor = match made {
            Some(made) => made.redactor.clone(),
            None => self.build(None)?,
        };
        let compiled = Compiled { changes, generation, redactor: redactor.clone() };
        self.compiled.store(Some(Arc::new(compiled)));
        Ok(redactor)
    }

    /// Compiles every key there is, and this one of an entry.
    pub(super) fn build(
        &self,
        more: Option<(&KeyringEntry, &RealKey)>,
    ) -> Result<Option<Redactor>, RedactError> {
        let (entries, left) = (self.entries(), lock(&self.left).clone());
        if entries.is_empty() && left.is_empty() {
            return Ok(None);
        }
        let keys: Vec<(Arc<Keys>, &KeyringEntry)> =
            entries.iter().map(|entry| (entry.keys.load_full(), &**entry)).collect();
        let known = keys
            .iter()
            .flat_map(|(keys, entry)| keys.searched().map(|key| (*entry, &**key)))
            .chain(more);
        let known = known.map(|(entry, key)| (entry.content, &entry.placeholder, key));
        let left = left.iter().map(|left| (left.content, &left.placeholder, &**left.former.key()));
        let pairs = known.chain(left).flat_map(|(content, placeholder, key)| {
            let texts = key.searched(content).into_iter().enumerate();
            texts.map(move |(part, text)| (text, placeholder.of_part(part).as_str().as_bytes()))
        });
        let pairs: Vec<(Cow<'_, [u8]>, &[u8])> = pairs.collect();
        Redactor::of(pairs.iter().map(|(text, place)| (&text[..], *place))).map(Some)
    }

    /// Has an entry take the keys that its living source has by now.
    pub(super) fn catch_up(&self, entry: &KeyringEntry) {
        let caught_up = entry.catch_up(self);
        if let Ok(true) = caught_up {
            logging::changed();
        }
        if let Err(problem) = caught_up {
            let credential = &entry.name;
            tracing::warn!(credential, %problem, "keeping the previous key");
        }
    }

    fn entries(&self) -> Vec<Arc<KeyringEntry>> {
        lock(&self.entries).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Told for Kin {
    /// Whichever sandbox is first to send the key, the answers to the others are searched for it
    /// too.
    fn tell(&self, path: &Path, content: Content, key: &Arc<RealKey>) {
        let all: Vec<Arc<Kin>> = lock(&ALL).iter().filter_map(Weak::upgrade).collect();
        let others = all.iter().filter(|kin| !std::ptr::eq(&***kin, self));
        others.for_each(|kin| kin.hear(path, content, key));
    }

    fn announce(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        changes::count();
    }
}
