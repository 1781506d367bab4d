//! One secret of a keyring: a credential's key, or a proxy's credential, with its placeholder and
//! the file to reread it from.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use interceptor_policy::{Credential, Form, KeySource, PlaceholderShape};
use zeroize::Zeroizing;

use super::files::{Files, WatchedFile};
use super::former::{Former, Formers};
use super::handed::{HandedKey, Restored};
use super::key::{Content, KeyProblem, RealKey};
use super::location::KeyLocation;
use super::placeholder::Placeholder;
use super::source::{self, EnvironmentLookup, KeyError, Loaded, Means, PROXY_AUTH};
use super::sources::{self, Asking, Life, Living, Origin, SourceProblem, Value};
use super::told::Told;

/// A key that a request carried, and its credential's entry.
pub(super) type SentKey = (Arc<KeyringEntry>, Arc<RealKey>);

/// One credential.
#[derive(Debug)]
pub(super) struct KeyringEntry {
    pub(super) name: String,
    pub(super) content: Content,
    pub(super) env: Vec<String>,
    pub(super) forms: Vec<Form>,
    pub(super) placeholder: Placeholder,
    pub(super) keys: ArcSwap<Keys>,
    /// The files to reread its key from.
    pub(super) files: Mutex<Files>,
    /// The source of its key, if that lives.
    pub(super) living: Option<Arc<Living>>,
    /// What that is called in messages.
    pub(super) place: KeyLocation,
    /// Held while reading the file, which may block forever.
    pub(super) reading: Mutex<()>,
    /// Whether a thread is checking the file.
    pub(super) is_looked_at: AtomicBool,
    /// The version of the key that an origin refused last.
    refused: AtomicU64,
}

/// The version of no key.
const NEVER: u64 = u64::MAX;

/// What a keyring before had.
#[derive(Default)]
pub(super) struct Before<'a> {
    /// The placeholder of a credential of this name.
    pub(super) placeholder: Option<&'a Placeholder>,
    /// The credential of this name.
    pub(super) entry: Option<&'a KeyringEntry>,
    /// The living sources of all credentials.
    pub(super) living: Vec<&'a Living>,
}

/// A key as it was read, and where from.
struct Read {
    key: Arc<RealKey>,
    version: u64,
    /// The keys before it at its source.
    former: Formers,
    files: Files,
}

impl From<Loaded> for Read {
    fn from(loaded: Loaded) -> Read {
        let former = Formers::default();
        Read { key: Arc::new(loaded.key), version: 0, former, files: loaded.files }
    }
}

/// The key of a living source, which keyrings share.
fn live(
    credential: &Credential,
    before: &Before<'_>,
    means: &Means<'_>,
    asker: &Asking,
) -> Result<Option<(Read, Arc<Living>)>, KeyProblem> {
    let source = &credential.key;
    let Some(origin) = origin(source, means, asker)? else { return Ok(None) };
    if !means.runs_new && !before.living.iter().any(|living| living.is_of(source)) {
        return Err(match source {
            KeySource::Exec(_) => KeyProblem::NewProgram,
            _ => KeyProblem::NewService,
        });
    }
    let living = sources::living(origin, &credential.name);
    let Value { key, version, .. } = living.read().map_err(KeyProblem::Source)?;
    let mut former = Formers::default();
    if let Some((value, before)) = living.value() {
        former.extend(before);
        // Another may have come since.
        former.add(value.retired());
    }
    let files = Files::default();
    Ok(Some((Read { key, version, former, files }, living)))
}

/// What is asked for the keys of a living source; `None` if the source does not live.
fn origin(
    source: &KeySource,
    means: &Means<'_>,
    asker: &Asking,
) -> Result<Option<Origin>, KeyProblem> {
    let sources = &means.sources;
    match source {
        KeySource::Exec(source) => {
            let refused = |why: &&'static str| KeyProblem::Source(SourceProblem::Refused(why));
            let programs = sources.runs.as_ref().map_err(refused)?;
            Ok(Some(Origin::Program(source.clone(), programs.clone())))
        }
        KeySource::Fetched(fetched) => {
            let asker = asker.as_ref().map_err(|problem| KeyProblem::Source(problem.clone()))?;
            let located = |path: &Path| source::located(path, means.environment);
            Ok(Some(asker.origin(fetched, means.environment, &located, &sources.runs)))
        }
        KeySource::Literal(_) | KeySource::Env(_) | KeySource::File(_) | KeySource::Aws(_) => {
            Ok(None)
        }
    }
}

/// The current key, and those before it.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) current: Arc<RealKey>,
    /// The number of the last key that its living source gave.
    version: u64,
    /// Whether it is that key, rather than one before because that does not fit.
    pub(super) is_latest: bool,
    former: Formers,
}

impl Keys {
    /// Every key that answers are searched for.
    pub(super) fn searched(&self) -> impl Iterator<Item = &Arc<RealKey>> {
        std::iter::once(&self.current).chain(self.former.keys())
    }

    /// Whether answers are searched for it.
    pub(super) fn hold(&self, key: &RealKey) -> bool {
        self.searched().any(|known| known.expose() == key.expose())
    }
}

impl KeyringEntry {
    /// Loads a credential's key, and keeps its remembered placeholder. The keys before it are still
    /// redacted.
    pub(super) fn load(
        credential: &Credential,
        before: &Before<'_>,
        means: &Means<'_>,
        asker: &Asking,
    ) -> Result<KeyringEntry, KeyProblem> {
        let (name, content) = (credential.name.as_str(), content(credential));
        let (loaded, living) = match live(credential, before, means, asker)? {
            Some((read, living)) => (read, Some(living)),
            None => (source::load(content, &credential.key, means.environment)?.into(), None),
        };
        let Read { key, version, former, files } = loaded;
        let shape = &credential.placeholder;
        // One without a secret is of no use to what is a pair now, and the other way round.
        let is_pair = content == Content::Aws;
        let known = before.placeholder.filter(|known| known.secret().is_some() == is_pair);
        let placeholder = match (known, means.seed) {
            (Some(placeholder), _) => placeholder.clone(),
            (None, Some(seed)) => Placeholder::derive(shape, &key, seed, name),
            (None, None) => Placeholder::draw(shape, &key)
                .map_err(|error| KeyProblem::Unreadable(std::io::Error::other(error)))?,
        };
        check(content, &key, &placeholder)?;
        let read = Read { key, version, former, files };
        // What a key was before is none of a certificate's business, and the other way round.
        let before = before.entry.filter(|entry| entry.content == content);
        Ok(KeyringEntry {
            env: credential.env.clone(),
            forms: credential.forms.clone(),
            living,
            place: KeyLocation::of(&credential.key),
            ..KeyringEntry::of_read(name, content, placeholder, read, before)
        })
    }

    /// Loads what this credential has beside its key.
    pub(super) fn beside(
        &self,
        content: Content,
        source: &KeySource,
        before: Option<&KeyringEntry>,
        environment: EnvironmentLookup<'_>,
    ) -> Result<KeyringEntry, KeyProblem> {
        let read = source::load(content, source, environment)?.into();
        let placeholder = self.placeholder.clone();
        Ok(KeyringEntry::of_read(&self.name, content, placeholder, read, before))
    }

    /// What a credential has beside its key, as another process handed it over.
    pub(super) fn restore_beside(
        content: Content,
        credential: &str,
        handed: HandedKey,
    ) -> Result<KeyringEntry, KeyProblem> {
        Ok(KeyringEntry::of_restored(credential, content, handed.restore(content)?))
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
        let read = loaded.into();
        Ok(KeyringEntry::of_read(PROXY_AUTH, Content::ProxyAuth, placeholder, read, before))
    }

    fn of_read(
        name: &str,
        content: Content,
        placeholder: Placeholder,
        read: Read,
        before: Option<&KeyringEntry>,
    ) -> KeyringEntry {
        let Read { key, version, former: newer, files } = read;
        let mut former = before.map(KeyringEntry::known).unwrap_or_default();
        former.extend(newer);
        former.settle(&key, |key| check(content, key, &placeholder).is_ok());
        KeyringEntry {
            name: name.to_owned(),
            content,
            env: Vec::new(),
            forms: Vec::new(),
            placeholder,
            keys: ArcSwap::from_pointee(Keys { current: key, version, is_latest: true, former }),
            files: Mutex::new(files),
            living: None,
            place: KeyLocation::Document,
            reading: Mutex::default(),
            is_looked_at: AtomicBool::new(false),
            refused: AtomicU64::new(NEVER),
        }
    }

    /// A credential's key that another process handed over.
    pub(super) fn restore(
        credential: &Credential,
        handed: HandedKey,
        means: &Means<'_>,
        asker: &Asking,
    ) -> Result<KeyringEntry, KeyProblem> {
        let origin = origin(&credential.key, means, asker)?;
        let living = origin.map(|origin| sources::living(origin, &credential.name));
        let (life, content) = (handed.life, content(credential));
        let restored = handed.restore(content)?;
        check(content, &restored.current, &restored.placeholder)?;
        let entry = KeyringEntry::of_restored(&credential.name, content, restored);
        if let (Some(living), Some(life)) = (&living, life) {
            let keys = entry.keys.load();
            living.take(&keys.current, life, keys.former.clone());
        }
        let (env, forms) = (credential.env.clone(), credential.forms.clone());
        let place = KeyLocation::of(&credential.key);
        Ok(KeyringEntry { env, forms, living, place, ..entry })
    }

    /// A proxy's credential that another process handed over.
    pub(super) fn restore_for_proxy(handed: HandedKey) -> Result<KeyringEntry, KeyProblem> {
        let restored = handed.restore(Content::ProxyAuth)?;
        check(Content::ProxyAuth, &restored.current, &restored.placeholder)?;
        Ok(KeyringEntry::of_restored(PROXY_AUTH, Content::ProxyAuth, restored))
    }

    fn of_restored(name: &str, content: Content, restored: Restored) -> KeyringEntry {
        let Restored { current, mut former, .. } = restored;
        former.settle(&current, |key| check(content, key, &restored.placeholder).is_ok());
        let keys = Keys { current: Arc::new(current), version: 0, is_latest: true, former };
        KeyringEntry {
            name: name.to_owned(),
            content,
            env: Vec::new(),
            forms: Vec::new(),
            placeholder: restored.placeholder,
            keys: ArcSwap::from_pointee(keys),
            files: Mutex::new(restored.files),
            living: None,
            place: KeyLocation::Document,
            reading: Mutex::default(),
            is_looked_at: AtomicBool::new(false),
            refused: AtomicU64::new(NEVER),
        }
    }

    /// The keys to hand over to another process.
    pub(super) fn hand_over(&self) -> HandedKey {
        let keys = self.keys.load();
        let files = lock(&self.files);
        let (mut current, mut former, mut life) = (keys.current.clone(), keys.former.clone(), None);
        // A key and its life belong together: the source may be ahead of this credential.
        if let Some((value, before)) = self.living.as_ref().and_then(|living| living.value()) {
            former.extend(before);
            life = Some(Life::OVER);
            if self.fits(&value.key) {
                life = Some(value.life());
                current = value.key;
            }
            if !former.holds(&keys.current) {
                former.add(Former::untold(keys.current.clone()));
            }
        }
        former.settle(&current, |key| self.fits(key));
        let mut handed = HandedKey::of(&self.name, &self.placeholder, &current, &former, &files);
        handed.life = life;
        handed
    }

    /// Whether its placeholder contains nothing that redaction would search for with this key.
    pub(super) fn fits(&self, key: &RealKey) -> bool {
        check(self.content, key, &self.placeholder).is_ok()
    }

    /// Whether its key is reread from this file.
    pub(super) fn reads(&self, path: &Path) -> bool {
        lock(&self.files).iter().any(|file| file.path == path)
    }

    /// Every key that this credential and its source had so far.
    pub(super) fn known(&self) -> Formers {
        let keys = self.keys.load();
        let mut known = keys.former.clone();
        if let Some((value, former)) = self.living.as_ref().and_then(|living| living.value()) {
            known.extend(former);
            known.add(value.retired());
        }
        if !known.holds(&keys.current) {
            known.add(Former::untold(keys.current.clone()));
        }
        known
    }

    /// The key as of the last check of its file.
    pub(super) fn current(&self) -> Arc<RealKey> {
        Arc::clone(&self.keys.load().current)
    }

    /// Rereads the files, if there are any, when one has changed or `always`; returns whether the
    /// key changed.
    pub(super) fn read_again(
        &self,
        always: bool,
        kin: &dyn Told,
    ) -> Result<bool, (PathBuf, KeyProblem)> {
        let _reading = lock(&self.reading);
        let mut files = lock(&self.files).clone();
        if files.is_empty() {
            return Ok(false);
        }
        let has_changed = files.look();
        // Even after a failure, the same file is not read and reported twice.
        *lock(&self.files) = files.clone();
        if !always && !has_changed {
            return Ok(false);
        }
        let before = self.keys.load();
        let (mut key, mut last) = (None, PathBuf::new());
        for file in files.iter() {
            let known = key.as_ref().unwrap_or(&*before.current);
            let read = self.reread(known, file).map_err(|problem| (file.path.clone(), problem))?;
            key = Some(read);
            last.clone_from(&file.path);
        }
        let Some(key) = key else { return Ok(false) };
        check(self.content, &key, &self.placeholder).map_err(|problem| (last, problem))?;
        if before.current.expose() == key.expose() {
            return Ok(false);
        }
        let mut former = before.former.clone();
        former.add(Former::untold(before.current.clone()));
        let current = Arc::new(key);
        files.iter().for_each(|file| kin.tell(&file.path, self.content, &current));
        self.put(Keys { current, version: 0, is_latest: true, former }, kin);
        Ok(true)
    }

    /// The key with what a file has by now.
    fn reread(&self, known: &RealKey, file: &WatchedFile) -> Result<RealKey, KeyProblem> {
        if self.content != Content::Aws {
            return Ok(source::read(self.content, &file.path)?.key);
        }
        let read = source::read(Content::Key, &file.path)?.key;
        let parse = |part: &str| RealKey::parse(Zeroizing::new(part.as_bytes().to_vec()));
        let mut parts: Vec<RealKey> = known.parts().map(parse).collect::<Result<_, _>>()?;
        *parts.get_mut(file.part).ok_or(KeyProblem::Empty)? = read;
        RealKey::of_aws(&parts.iter().collect::<Vec<_>>())
    }

    /// Puts other keys in force, which begin with those before. Answers are searched for the
    /// current one before a request can carry it.
    fn put(&self, mut keys: Keys, kin: &dyn Told) {
        let before = self.keys.load_full();
        let mut all = keys.former.clone();
        all.add(Former::coming(keys.current.clone()));
        all.settle(&before.current, |key| self.fits(key));
        let Keys { version, is_latest, .. } = *before;
        let current = before.current.clone();
        self.keys.store(Arc::new(Keys { current, version, is_latest, former: all }));
        kin.announce();
        keys.former.settle(&keys.current, |key| self.fits(key));
        self.keys.store(Arc::new(keys));
    }

    /// What is wrong with its living source.
    pub(super) fn problem(&self, problem: KeyProblem) -> KeyError {
        KeyError { credential: self.name.clone(), place: self.place.clone(), problem }
    }

    /// An origin refused the key in a request that was made at `sent`.
    pub(super) fn refused(&self, sent: Instant) {
        let Some(living) = &self.living else { return };
        self.refused.store(self.keys.load().version, Ordering::Relaxed);
        living.refused(sent);
    }

    /// Whether an origin refused the key there is, in a request under this keyring.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) == self.keys.load().version
    }

    /// Takes the keys that its living source has by now; returns whether there are others.
    pub(super) fn catch_up(&self, kin: &dyn Told) -> Result<bool, KeyProblem> {
        let Some(living) = &self.living else { return Ok(false) };
        if living.version() == self.keys.load().version {
            return Ok(false);
        }
        let _reading = lock(&self.reading);
        let before = self.keys.load_full();
        let Some((value, theirs)) =
            living.value().filter(|(value, _)| value.version != before.version)
        else {
            return Ok(false);
        };
        let version = value.version;
        let keep = |current: Arc<RealKey>, former: Formers, is_latest: bool| {
            self.keys.store(Arc::new(Keys { current, version, is_latest, former }));
        };
        if let Err(problem) = check(self.content, &value.key, &self.placeholder) {
            // One that does not fit is not looked at twice.
            keep(before.current.clone(), before.former.clone(), false);
            return Err(problem);
        }
        let mut former = before.former.clone();
        former.extend(theirs);
        if !former.holds(&before.current) {
            former.add(Former::untold(before.current.clone()));
        }
        let mut settled = former.clone();
        settled.settle(&value.key, |key| self.fits(key));
        let is_other = value.key.expose() != before.current.expose();
        if !is_other && settled.are(&before.former) {
            keep(value.key, settled, true);
            return Ok(false);
        }
        self.put(Keys { current: value.key, version, is_latest: true, former }, kin);
        Ok(true)
    }
}

/// Rejects a key if its placeholder contains what redaction searches for: redaction would insert
/// it.
fn check(content: Content, key: &RealKey, placeholder: &Placeholder) -> Result<(), KeyProblem> {
    let holds = |text: &[u8]| {
        placeholder.all().any(|one| memchr::memmem::find(one.as_str().as_bytes(), text).is_some())
    };
    if key.searched(content).iter().any(|text| holds(text)) {
        Err(KeyProblem::InPlaceholder)
    } else {
        Ok(())
    }
}

/// What the secret of a credential is.
fn content(credential: &Credential) -> Content {
    match credential.has_key() {
        true if credential.key.is_aws() => Content::Aws,
        true => Content::Key,
        false => Content::PrivateKey,
    }
}

/// Data behind these locks is consistent at every step, so a poisoned lock is safe to use.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
