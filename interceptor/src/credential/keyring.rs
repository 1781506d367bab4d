//! The keys of one sandbox, and their placeholders inside it.
//!
//! A placeholder is generated or derived when a credential first appears and kept under its name
//! while the sandbox lives, across policy reloads; the key behind it may rotate at any time. Key
//! files are checked when used, at most once a second (one `stat` per file, on a short-lived
//! thread, since a file may be on a mount that hangs), and by [`Keyring::reload`]. After a rotation
//! the keys before are still redacted from responses, since an origin may quote them for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use interceptor_policy::redact::{RedactError, Redactor};
use interceptor_policy::{Credential, CredentialId, Policy, WayOut};

use super::certificate::{CertificateEntry, Certificates};
use super::entry::{Before, KeyringEntry, SentKey, lock};
use super::files::Files;
use super::finder::PlaceholderFinder;
use super::handed::{HandedKeys, HandedPlaceholder};
use super::key::{KeyProblem, RealKey};
use super::kin::Kin;
use super::location::KeyLocation;
use super::outward::Outward;
use super::pem::Identity;
use super::placeholder::{PROBE, Placeholder};
use super::presented::{self, Presented};
use super::readers;
use super::source::{KeyError, Means};
use super::sources::{Asking, Kinds, SourceProblem, Sources};
use crate::logging;
use crate::tls::TlsError;

/// How long the stamps of key files are trusted, in milliseconds.
const FRESH_MS: u64 = 1000;
/// How long a request waits for a check of the key files before it continues with the current keys.
const PATIENCE: Duration = Duration::from_millis(250);

/// Why no service is asked before the way out is there.
const NO_WAY_OUT: &str = "the policy's `upstream` cannot be used";

/// What asks the services of these credentials, if there are any.
fn asking(credentials: &[Credential], means: &Means<'_>, outward: &Outward) -> Asking {
    let outbound = means.sources.asks.as_ref().map_err(|why| SourceProblem::Unasked(why))?;
    if !Kinds::of(credentials.iter().map(|credential| &credential.key)).asks {
        return Err(SourceProblem::Unasked("no credential needs it"));
    }
    let unusable = |error: TlsError| SourceProblem::Unfetched(error.to_string());
    let (road, told) = outward.road(&outbound.verifier, &outbound.tls).map_err(unusable)?;
    outbound.asker(road, told)
}

/// The keys and placeholders of one sandbox.
#[derive(Debug)]
pub struct Keyring {
    slots: Vec<Arc<KeyringEntry>>,
    certificates: Certificates,
    /// Whether a key has a living source.
    lives: bool,
    /// Placeholders of removed credentials, which may return.
    retired: Vec<(String, Placeholder)>,
    /// The way out, with the credentials of its proxies.
    outward: Outward,
    finder: PlaceholderFinder,
    /// Its keys, and those of the sandbox's other keyrings.
    kin: Arc<Kin>,
    made: Instant,
    checked_ms: AtomicU64,
}

impl Keyring {
    /// Loads the key of every credential of a policy, and generates the placeholders that
    /// `previous` lacks.
    ///
    /// # Errors
    /// Every key that could not be loaded, with its credential and source; none shows any part of a
    /// key.
    pub fn load(policy: &Policy, previous: Option<&Keyring>) -> Result<Keyring, Vec<KeyError>> {
        let environment = |name: &str| std::env::var_os(name);
        let why = "nobody named a user to run it as";
        Keyring::load_with(policy, previous, &Means::without_sources(&environment, None, why))
    }

    /// As [`Keyring::load`], with these means.
    ///
    /// # Errors
    /// As [`Keyring::load`].
    pub(crate) fn load_with(
        policy: &Policy,
        previous: Option<&Keyring>,
        means: &Means<'_>,
    ) -> Result<Keyring, Vec<KeyError>> {
        Keyring::load_all(policy.credentials(), policy.way_out(), previous, means)
    }

    fn load_all(
        credentials: &[Credential],
        way_out: &WayOut,
        previous: Option<&Keyring>,
        means: &Means<'_>,
    ) -> Result<Keyring, Vec<KeyError>> {
        let mut slots = Vec::with_capacity(credentials.len());
        let mut errors = Vec::new();
        let mut certificates = Certificates::default();
        let before = previous.map(|previous| &previous.outward);
        let (outward, problems) = match Outward::load(way_out, before, means.environment) {
            Ok(outward) => (outward, Vec::new()),
            Err(problems) => (Outward::default(), problems),
        };
        let asking = match problems.is_empty() {
            true => asking(credentials, means, &outward),
            false => Err(SourceProblem::Unasked(NO_WAY_OUT)),
        };
        for credential in credentials {
            let before = previous.map(|previous| previous.before(&credential.name));
            let before = before.unwrap_or_default();
            match KeyringEntry::load(credential, &before, means, &asking) {
                Ok(slot) => {
                    let before = previous.and_then(|all| all.certificate(&credential.name));
                    let (index, loaded) = (slots.len(), (credential, &slot));
                    let read = certificates.load(index, loaded, before, means.environment);
                    errors.extend(read.err());
                    slots.push(Arc::new(slot));
                }
                Err(problem) => errors.push(KeyError {
                    credential: credential.name.clone(),
                    place: KeyLocation::of(&credential.key),
                    problem,
                }),
            }
        }
        let retired = previous.map(|previous| previous.retired(&slots)).unwrap_or_default();
        errors.extend(problems);
        Keyring::of((slots, certificates), retired, outward, errors)
    }

    fn of(
        (slots, certificates): (Vec<Arc<KeyringEntry>>, Certificates),
        retired: Vec<(String, Placeholder)>,
        outward: Outward,
        errors: Vec<KeyError>,
    ) -> Result<Keyring, Vec<KeyError>> {
        if !errors.is_empty() {
            return Err(errors);
        }
        let lives = slots.iter().any(|slot| slot.living.is_some());
        let finder = PlaceholderFinder::new(slots.iter().map(|slot| &slot.placeholder)).map_err(
            |error| {
                vec![KeyError {
                    credential: slots
                        .iter()
                        .map(|slot| slot.name.as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                    place: KeyLocation::Document,
                    problem: KeyProblem::Unreadable(std::io::Error::other(error)),
                }]
            },
        )?;
        let kin = Kin::new();
        let entries = slots.iter().chain(certificates.entries()).chain(outward.entries());
        kin.admit(entries);
        Ok(Keyring {
            slots,
            certificates,
            lives,
            retired,
            outward,
            finder,
            kin,
            made: Instant::now(),
            checked_ms: AtomicU64::new(0),
        })
    }

    /// The same keys, whose files are never read again: for keys that were read with less than this
    /// process's rights.
    #[must_use]
    pub(crate) fn read_once(self) -> Keyring {
        self.entries().for_each(|slot| *lock(&slot.files) = Files::default());
        self
    }

    /// Takes its place beside another keyring of the same sandbox: answers to requests that were
    /// judged by either are searched for the keys of both.
    pub(crate) fn join(&mut self, other: &Keyring) {
        other.kin.admit(self.entries());
        self.kin = other.kin.clone();
    }

    /// The keys and placeholders for another process to continue with.
    pub(crate) fn hand_over(&self) -> HandedKeys {
        let retired = |(name, placeholder): &(String, Placeholder)| {
            (name.clone(), HandedPlaceholder::of(placeholder))
        };
        HandedKeys {
            keys: self.slots.iter().map(|slot| slot.hand_over()).collect(),
            retired: self.retired.iter().map(retired).collect(),
            outward: self.outward.hand_over(),
            certificates: self.certificates.hand_over(),
        }
    }

    /// Restores another process's keys and placeholders for the same policy. Key files are checked
    /// again on use, and programs run again when their keys are due.
    ///
    /// # Errors
    /// If a credential was not handed over, or is invalid.
    pub(crate) fn restore(
        credentials: &[Credential],
        handed: HandedKeys,
        sources: &Sources,
    ) -> Result<Keyring, Vec<KeyError>> {
        let HandedKeys { mut keys, retired, outward, certificates: mut handed } = handed;
        let mut certificates = Certificates::default();
        let mut slots = Vec::with_capacity(credentials.len());
        let mut errors = Vec::new();
        let (outward, problem) = match Outward::restore(outward) {
            Ok(outward) => (outward, None),
            Err(problem) => (Outward::default(), Some(problem)),
        };
        let environment = |name: &str| std::env::var_os(name);
        let sources = sources.clone();
        let means = Means { environment: &environment, seed: None, sources, runs_new: true };
        let asking = asking(credentials, &means, &outward);
        for credential in credentials {
            let found = keys.iter().position(|key| key.name == credential.name);
            let key = found.map(|index| keys.swap_remove(index)).ok_or(KeyProblem::Unset);
            let restored = key.and_then(|key| {
                let slot = KeyringEntry::restore(credential, key, &means, &asking)?;
                certificates.restore(slots.len(), (credential, &slot), &mut handed)?;
                Ok(slot)
            });
            match restored {
                Ok(slot) => slots.push(Arc::new(slot)),
                Err(problem) => errors.push(KeyError {
                    credential: credential.name.clone(),
                    place: KeyLocation::of(&credential.key),
                    problem,
                }),
            }
        }
        errors.extend(problem);
        let known = retired.into_iter();
        let known =
            known.filter_map(|(name, placeholder)| Some((name, placeholder.restore()?))).collect();
        Keyring::of((slots, certificates), known, outward, errors)
    }

    /// The sandbox's variables and their placeholders.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = self.slots.iter().flat_map(|slot| {
            slot.env.iter().enumerate().map(|(part, name)| {
                (name.clone(), slot.placeholder.of_part(part).as_str().to_owned())
            })
        });
        variables.collect()
    }

    /// The placeholder of a credential.
    pub fn placeholder(&self, id: CredentialId) -> Option<&Placeholder> {
        self.slots.get(id.0).map(|slot| &slot.placeholder)
    }

    /// The placeholders in a request's headers (values and names) and query, and their form.
    pub fn presented(&self, headers: &HeaderMap, query: Option<&str>) -> Presented {
        let forms = |index: usize| self.slots.get(index).map_or(&[][..], |slot| &slot.forms);
        presented::look(&self.finder, &forms, headers, query)
    }

    /// Whether a DNS name or SNI contains a placeholder, in one label or across several.
    pub fn in_name(&self, name: &str) -> bool {
        self.named_in(name).is_some()
    }

    /// The credential whose placeholder a DNS name or SNI contains.
    pub(crate) fn named_in(&self, name: &str) -> Option<CredentialId> {
        let mut found = Vec::new();
        self.finder.find(name.as_bytes(), &mut found);
        // Most names are shorter than any placeholder, and nothing is copied for them.
        if found.is_empty() && name.len() > PROBE && name.contains('.') {
            self.finder.find(name.replace('.', "").as_bytes(), &mut found);
        }
        found.first().copied().map(CredentialId)
    }

    /// Whether a text contains a credential's placeholder.
    pub(crate) fn holds(&self, id: CredentialId, text: &[u8]) -> bool {
        self.finder.holds(id.0, text)
    }

    /// A credential's real key as of the last [`Keyring::refresh`]; `None` if this keyring belongs
    /// to another policy.
    pub(crate) fn key(&self, policy: &Policy, id: CredentialId) -> Option<Arc<RealKey>> {
        let credential = policy.credentials().get(id.0)?;
        let slot = self.slots.get(id.0).filter(|slot| slot.name == credential.name)?;
        Some(Arc::clone(&slot.keys.load().current))
    }

    /// What a credential presents in TLS, as of the last [`Keyring::refresh`].
    pub(crate) fn identity(&self, id: CredentialId) -> Option<Arc<Identity>> {
        Some(self.certificates.of(id.0)?.current(self.slots.get(id.0)?))
    }

    /// Whether a credential has a client certificate.
    pub(crate) fn has_certificate(&self, id: CredentialId) -> bool {
        self.certificates.of(id.0).is_some()
    }

    /// The redactor for every key of the sandbox, whichever origin responds; `None` without keys.
    /// Built once per rotation.
    ///
    /// # Errors
    /// [`RedactError::TooManyKeys`]
    pub fn redactor(&self) -> Result<Option<Redactor>, RedactError> {
        self.kin.redactor()
    }

    /// The search for all keys, and the entry of a credential whose key a request carried.
    pub(super) fn watched(
        &self,
        sent: Option<(CredentialId, Arc<RealKey>)>,
    ) -> (Arc<Kin>, Option<SentKey>) {
        let sent = sent.and_then(|(id, key)| Some((self.slots.get(id.0)?.clone(), key)));
        (self.kin.clone(), sent)
    }

    /// Whether a text contains a real key, literally or in an encoding that redaction knows; `true`
    /// if in doubt.
    pub(crate) fn may_hold(&self, text: &[u8]) -> bool {
        let holds = |redactor: Option<Redactor>| {
            redactor.is_some_and(|redactor| redactor.text(text).is_some())
        };
        self.redactor().map_or(true, holds)
    }

    /// The way out, as loaded.
    pub(crate) fn outward(&self) -> &Outward {
        &self.outward
    }

    /// Every secret: the keys, and the credentials of proxies.
    fn entries(&self) -> impl Iterator<Item = &Arc<KeyringEntry>> {
        self.slots.iter().chain(self.certificates.entries()).chain(self.outward.entries())
    }

    /// Rereads every key file, changed or not.
    ///
    /// If a file cannot be read or has no valid key, the previous key stays and the error is
    /// returned.
    pub fn reload(&self) -> Vec<KeyError> {
        self.read_again(true)
    }

    /// Checks the key files if the last check is a second old. One caller waits briefly for it;
    /// others continue with the current keys. A file that is still being checked is not checked
    /// again.
    pub(crate) async fn refresh(self: &Arc<Self>) {
        self.catch_up();
        let now = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        let checked = self.checked_ms.load(Ordering::Relaxed);
        if now.saturating_sub(checked) < FRESH_MS
            || self
                .checked_ms
                .compare_exchange(checked, now, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let (looking, mut all) = tokio::sync::mpsc::channel::<()>(1);
        for (index, slot) in self.entries().enumerate() {
            if lock(&slot.files).is_empty() || slot.is_looked_at.swap(true, Ordering::AcqRel) {
                continue;
            }
            let (keyring, looking) = (Arc::clone(self), looking.clone());
            // A separate thread, because all sandboxes share the runtime's limited blocking
            // threads.
            let begun = readers::run(move || {
                keyring.look(index);
                drop(looking);
            });
            if let Err(error) = begun {
                slot.is_looked_at.store(false, Ordering::Release);
                tracing::warn!(%error, "cannot check a key file; keeping its key");
            }
        }
        drop(looking);
        // Nothing is sent; the channel closes with the last thread.
        let _ = tokio::time::timeout(PATIENCE, all.recv()).await;
    }

    /// Runs `work` as if a key file were being read meanwhile.
    #[cfg(test)]
    pub(super) fn while_read(&self, id: CredentialId, work: impl FnOnce()) {
        let _reading = self.slots.get(id.0).map(|slot| lock(&slot.reading));
        work();
    }

    fn look(&self, index: usize) {
        let Some(slot) = self.entries().nth(index) else { return };
        if let Err(error) = self.read_slot(slot, false) {
            tracing::warn!(%error, "cannot reload a changed key file; keeping the previous key");
        }
        slot.is_looked_at.store(false, Ordering::Release);
    }

    fn read_again(&self, always: bool) -> Vec<KeyError> {
        self.entries().filter_map(|slot| self.read_slot(slot, always).err()).collect()
    }

    fn read_slot(&self, slot: &KeyringEntry, always: bool) -> Result<(), KeyError> {
        if let Some(living) = slot.living.as_ref().filter(|_| always) {
            let read = living.read_again().map_err(KeyProblem::Source);
            let caught_up = read.and_then(|_| slot.catch_up(&*self.kin));
            note(caught_up.map_err(|problem| slot.problem(problem))?);
            return Ok(());
        }
        let is_beside = !self.slots.iter().any(|one| std::ptr::eq(&**one, slot));
        let rotated = slot.read_again(always, &*self.kin).map_err(|(path, problem)| KeyError {
            credential: slot.name.clone(),
            place: KeyLocation::File(path),
            problem: if is_beside { problem.of(slot.content) } else { problem },
        })?;
        note(rotated);
        Ok(())
    }

    /// Takes the keys that living sources have by now.
    fn catch_up(&self) {
        if !self.lives {
            return;
        }
        self.slots.iter().for_each(|slot| self.kin.catch_up(slot));
    }

    /// Waits until a credential's key has not expired.
    ///
    /// # Errors
    /// What is wrong with its source.
    pub(crate) async fn usable(&self, id: CredentialId) -> Result<(), KeyError> {
        let Some(slot) = self.slots.get(id.0) else { return Ok(()) };
        if let Some(certificate) = self.certificates.of(id.0) {
            certificate.usable(slot)?;
        }
        let Some(living) = &slot.living else { return Ok(()) };
        let usable = living.usable(slot.is_refused()).await;
        usable.map_err(|problem| slot.problem(KeyProblem::Source(problem)))?;
        self.catch_up();
        if !slot.keys.load().is_latest {
            // The one before it may have expired.
            return Err(slot.problem(KeyProblem::InPlaceholder));
        }
        Ok(())
    }

    /// An origin refused a credential in a request that was made at `sent`: its source is asked for
    /// another key, once.
    pub(crate) fn refused(&self, id: CredentialId, sent: Instant) {
        if let Some(slot) = self.slots.get(id.0) {
            slot.refused(sent);
        }
    }

    /// What the next keyring needs for a credential of this name.
    fn before(&self, name: &str) -> Before<'_> {
        let living = self.slots.iter().filter_map(|slot| slot.living.as_deref());
        let (placeholder, entry) = (self.remembered(name), self.entry(name));
        Before { placeholder, entry, living: living.collect() }
    }

    /// The client certificate of the credential of this name.
    fn certificate(&self, name: &str) -> Option<&CertificateEntry> {
        self.certificates.of(self.slots.iter().position(|slot| slot.name == name)?)
    }

    /// The credential of this name.
    fn entry(&self, name: &str) -> Option<&KeyringEntry> {
        self.slots.iter().find(|slot| slot.name == name).map(|slot| &**slot)
    }

    /// The known placeholders of credentials not among `slots`.
    fn retired(&self, slots: &[Arc<KeyringEntry>]) -> Vec<(String, Placeholder)> {
        let known = self.slots.iter().map(|slot| (slot.name.clone(), slot.placeholder.clone()));
        known
            .chain(self.retired.iter().cloned())
            .filter(|(name, _)| slots.iter().all(|slot| slot.name != *name))
            .collect()
    }

    /// The previous placeholder of a credential of this name.
    fn remembered(&self, name: &str) -> Option<&Placeholder> {
        let current =
            self.slots.iter().find(|slot| slot.name == name).map(|slot| &slot.placeholder);
        current.or_else(|| {
            self.retired.iter().find(|(known, _)| known == name).map(|(_, placeholder)| placeholder)
        })
    }
}

impl logging::Secrets for Keyring {
    /// Checks no key file, since that may itself log.
    fn each(&self, tell: &mut dyn FnMut(&[u8], &[u8])) {
        for slot in self.entries() {
            let keys = slot.keys.load();
            for key in keys.searched() {
                for (part, text) in key.searched(slot.content).iter().enumerate() {
                    tell(text, slot.placeholder.of_part(part).as_str().as_bytes());
                }
            }
        }
    }

    fn version(&self) -> u64 {
        self.kin.generation()
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        // With the last one, all of it goes.
        if Arc::strong_count(&self.kin) > 1 {
            self.kin.dismiss(self.entries());
        }
    }
}

/// A key has rotated.
fn note(rotated: bool) {
    if rotated {
        logging::changed();
    }
}
