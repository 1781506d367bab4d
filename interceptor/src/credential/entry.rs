//! One secret of a keyring: a credential's key, or a proxy's credential, with its placeholder and
//! the file to reread it from.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use interceptor_policy::{Credential, Form, KeySource, PlaceholderShape};

use super::handed::{HandedKey, Restored};
use super::key::{Content, KeyProblem, RealKey};
use super::placeholder::Placeholder;
use super::seed::Seed;
use super::source::{self, EnvironmentLookup, Loaded, PROXY_AUTH, Stamp};

/// One credential.
#[derive(Debug)]
pub(super) struct KeyringEntry {
    pub(super) name: String,
    pub(super) content: Content,
    pub(super) env: Vec<String>,
    pub(super) forms: Vec<Form>,
    pub(super) placeholder: Placeholder,
    pub(super) keys: ArcSwap<Keys>,
    /// The file to reread its key from, and its stamp when last read.
    pub(super) file: Mutex<Option<(PathBuf, Option<Stamp>)>>,
    /// Held while reading the file, which may block forever.
    pub(super) reading: Mutex<()>,
    /// Whether a thread is checking the file.
    pub(super) is_looked_at: AtomicBool,
}

/// The current key, and the previous one.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) current: Arc<RealKey>,
    pub(super) previous: Option<Arc<RealKey>>,
}

impl KeyringEntry {
    /// Loads a credential's key, and keeps its remembered placeholder. The previous key is still
    /// redacted.
    pub(super) fn load(
        credential: &Credential,
        remembered: Option<&Placeholder>,
        before: Option<&KeyringEntry>,
        environment: EnvironmentLookup<'_>,
        seed: Option<&Seed>,
    ) -> Result<KeyringEntry, KeyProblem> {
        let loaded = source::load(Content::Key, &credential.key, environment)?;
        let shape = &credential.placeholder;
        let placeholder = match (remembered, seed) {
            (Some(placeholder), _) => placeholder.clone(),
            (None, Some(seed)) => Placeholder::derive(shape, &loaded.key, seed, &credential.name),
            (None, None) => Placeholder::draw(shape, &loaded.key)
                .map_err(|error| KeyProblem::Unreadable(std::io::Error::other(error)))?,
        };
        check(Content::Key, &loaded.key, &placeholder)?;
        Ok(KeyringEntry {
            env: credential.env.clone(),
            forms: credential.forms.clone(),
            ..KeyringEntry::of_loaded(&credential.name, Content::Key, placeholder, loaded, before)
        })
    }

    /// Loads a proxy's credential.
    pub(super) fn for_proxy(
        source: &KeySource,
        before: Option<&KeyringEntry>,
        environment: EnvironmentLookup<'_>,
    ) -> Result<KeyringEntry, KeyProblem> {
        let loaded = source::load(Content::ProxyAuth, source, environment)?;
        let placeholder = match before {
            Some(before) => before.placeholder.clone(),
            None => Placeholder::draw(&PlaceholderShape::default(), &loaded.key)
                .map_err(|error| KeyProblem::Unreadable(std::io::Error::other(error)))?,
        };
        check(Content::ProxyAuth, &loaded.key, &placeholder)?;
        Ok(KeyringEntry::of_loaded(PROXY_AUTH, Content::ProxyAuth, placeholder, loaded, before))
    }

    fn of_loaded(
        name: &str,
        content: Content,
        placeholder: Placeholder,
        loaded: Loaded,
        before: Option<&KeyringEntry>,
    ) -> KeyringEntry {
        let before = before.map(|slot| Arc::clone(&slot.keys.load().current));
        let previous = before.filter(|before| before.expose() != loaded.key.expose());
        KeyringEntry {
            name: name.to_owned(),
            content,
            env: Vec::new(),
            forms: Vec::new(),
            placeholder,
            keys: ArcSwap::from_pointee(Keys { current: Arc::new(loaded.key), previous }),
            file: Mutex::new(loaded.file.map(|(path, stamp)| (path, Some(stamp)))),
            reading: Mutex::default(),
            is_looked_at: AtomicBool::new(false),
        }
    }

    /// A credential's key that another process handed over.
    pub(super) fn restore(
        credential: &Credential,
        handed: HandedKey,
    ) -> Result<KeyringEntry, KeyProblem> {
        let restored = handed.restore(Content::Key)?;
        check(Content::Key, &restored.current, &restored.placeholder)?;
        Ok(KeyringEntry {
            env: credential.env.clone(),
            forms: credential.forms.clone(),
            ..KeyringEntry::of_restored(&credential.name, Content::Key, restored)
        })
    }

    /// A proxy's credential that another process handed over.
    pub(super) fn restore_for_proxy(handed: HandedKey) -> Result<KeyringEntry, KeyProblem> {
        let restored = handed.restore(Content::ProxyAuth)?;
        check(Content::ProxyAuth, &restored.current, &restored.placeholder)?;
        Ok(KeyringEntry::of_restored(PROXY_AUTH, Content::ProxyAuth, restored))
    }

    fn of_restored(name: &str, content: Content, restored: Restored) -> KeyringEntry {
        let keys =
            Keys { current: Arc::new(restored.current), previous: restored.previous.map(Arc::new) };
        KeyringEntry {
            name: name.to_owned(),
            content,
            env: Vec::new(),
            forms: Vec::new(),
            placeholder: restored.placeholder,
            keys: ArcSwap::from_pointee(keys),
            // Without a stamp, the next check reads it.
            file: Mutex::new(restored.file.map(|path| (path, None))),
            reading: Mutex::default(),
            is_looked_at: AtomicBool::new(false),
        }
    }

    /// The keys to hand over to another process.
    pub(super) fn hand_over(&self) -> HandedKey {
        let keys = self.keys.load();
        let file = lock(&self.file);
        let path = file.as_ref().map(|(path, _)| path.as_path());
        let previous = keys.previous.as_deref();
        HandedKey::of(&self.name, &self.placeholder, &keys.current, previous, path)
    }

    /// The key as of the last check of its file.
    pub(super) fn current(&self) -> Arc<RealKey> {
        Arc::clone(&self.keys.load().current)
    }

    /// Rereads the file, if there is one, when it has changed or `always`; returns whether the key
    /// changed.
    pub(super) fn read_again(&self, always: bool) -> Result<bool, (PathBuf, KeyProblem)> {
        let _reading = lock(&self.reading);
        let Some((path, known)) = lock(&self.file).clone() else { return Ok(false) };
        let now = Stamp::now(&path);
        if !always && now == known {
            return Ok(false);
        }
        let note = |stamp: Option<Stamp>| *lock(&self.file) = Some((path.clone(), stamp));
        // Even after a failure, the same file is not read and reported twice.
        note(now);
        let loaded = source::read(self.content, &path)
            .and_then(|loaded| check(self.content, &loaded.key, &self.placeholder).map(|()| loaded))
            .map_err(|problem| (path.clone(), problem))?;
        if let Some((_, read)) = loaded.file {
            note(Some(read));
        }
        let before = self.keys.load();
        if before.current.expose() == loaded.key.expose() {
            return Ok(false);
        }
        let previous = Some(Arc::clone(&before.current));
        self.keys.store(Arc::new(Keys { current: Arc::new(loaded.key), previous }));
        Ok(true)
    }
}

/// Rejects a key if its placeholder contains what redaction searches for: redaction would insert
/// it.
fn check(content: Content, key: &RealKey, placeholder: &Placeholder) -> Result<(), KeyProblem> {
    if key.searched(content).any(|text| placeholder.as_str().contains(text)) {
        Err(KeyProblem::InPlaceholder)
    } else {
        Ok(())
    }
}

/// Data behind these locks is consistent at every step, so a poisoned lock is safe to use.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
