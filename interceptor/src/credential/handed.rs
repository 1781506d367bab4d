//! A sandbox's keys and placeholders in transit to the next process. The sandbox already has the
//! placeholders, so they must stay. Keys are sent as loaded, since the next process may lack the
//! variable or document they came from.

use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files::Files;
use super::former::{Former, Formers};
use super::key::{Content, KeyProblem, RealKey};
use super::placeholder::Placeholder;
use super::sources::Life;
use crate::ipc::{Secret, SentPath};

/// One credential.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedKey {
    /// Its name in the policy.
    pub(super) name: String,
    placeholder: HandedPlaceholder,
    current: Secret,
    /// The previous key, for a process that knows only one.
    previous: Option<Secret>,
    /// The keys before the current one, the oldest first.
    #[serde(default)]
    former: Vec<HandedFormer>,
    /// The file to reread its key from.
    file: Option<SentPath>,
    /// The files to reread parts of it from.
    #[serde(default)]
    parts: Vec<(usize, SentPath)>,
    /// How long the key lasts, if its source lives.
    #[serde(default)]
    pub(super) life: Option<Life>,
}

/// A key that was in use before.
#[derive(Debug, Serialize, Deserialize)]
struct HandedFormer {
    key: Secret,
    /// How long it lasts.
    left: Duration,
    /// How long it is searched for.
    kept: Duration,
}

/// What remains of a credential that the policy no longer has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedPlaceholder {
    text: String,
    random: usize,
    probe: usize,
    /// The one for the secret that belongs to it.
    #[serde(default)]
    secret: Option<Box<HandedPlaceholder>>,
}

/// All credentials of a sandbox.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct HandedKeys {
    pub(super) keys: Vec<HandedKey>,
    pub(super) retired: Vec<(String, HandedPlaceholder)>,
    /// The way out, as loaded.
    #[serde(default)]
    pub(super) outward: HandedOutward,
    /// The client certificates.
    #[serde(default)]
    pub(super) certificates: Vec<HandedCertificate>,
}

/// The client certificate of a credential.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HandedCertificate {
    /// The credential's name in the policy.
    pub(super) credential: String,
    pub(super) certificates: HandedKey,
    /// Its private key, unless that is the credential's own.
    pub(super) key: Option<HandedKey>,
    /// The certificates and the private key that are presented.
    pub(super) presented: (Secret, Secret),
}

/// The way out of a sandbox, as loaded.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct HandedOutward {
    pub(super) https: Option<HandedGateway>,
    pub(super) http: Option<HandedGateway>,
    pub(super) no_proxy: Vec<String>,
    pub(super) proxy_resolves: bool,
    pub(super) roots: Vec<(String, Vec<u8>)>,
}

impl HandedOutward {
    /// The credentials of the proxies.
    pub(super) fn keys(&mut self) -> impl Iterator<Item = &mut HandedKey> {
        let gateways = self.https.iter_mut().chain(&mut self.http);
        gateways.filter_map(|gateway| gateway.auth.as_mut())
    }
}

/// A proxy, and the credential for it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HandedGateway {
    pub(super) url: String,
    pub(super) auth: Option<HandedKey>,
}

impl HandedKeys {
    /// Forgets what only a sandbox that lives already has: where the keys came from, so that they
    /// are never read again, and earlier placeholders.
    pub(crate) fn begin_anew(&mut self) {
        self.retired.clear();
        let beside = |one: &'_ mut HandedCertificate| {
            one.certificates.forget_files();
            one.key.iter_mut().for_each(HandedKey::forget_files);
        };
        self.certificates.iter_mut().for_each(beside);
        self.keys.iter_mut().chain(self.outward.keys()).for_each(HandedKey::forget_files);
    }
}

impl HandedPlaceholder {
    pub(super) fn of(placeholder: &Placeholder) -> Self {
        let (random, probe) = placeholder.probe_place();
        let secret = placeholder.secret().map(|secret| Box::new(HandedPlaceholder::of(secret)));
        HandedPlaceholder { text: placeholder.as_str().to_owned(), random, probe, secret }
    }

    pub(super) fn restore(self) -> Option<Placeholder> {
        let placeholder = Placeholder::restore(self.text, self.random, self.probe)?;
        match self.secret {
            None => Some(placeholder),
            Some(secret) => Some(placeholder.with_secret(secret.restore()?)),
        }
    }
}

impl HandedFormer {
    fn of(former: &Former) -> HandedFormer {
        let (left, kept) = former.left();
        HandedFormer { key: Secret::new(former.key.expose()), left, kept }
    }
}

impl HandedKey {
    pub(super) fn of(
        name: &str,
        placeholder: &Placeholder,
        current: &RealKey,
        former: &Formers,
        files: &Files,
    ) -> Self {
        let named = files.iter().filter(|file| !file.path.as_os_str().as_bytes().is_empty());
        let mut parts: Vec<(usize, SentPath)> =
            named.map(|file| (file.part, SentPath(file.path.clone()))).collect();
        // A process that knows only whole keys reads this one.
        let file = match &parts[..] {
            [(0, _)] => parts.pop().map(|(_, path)| path),
            _ => None,
        };
        HandedKey {
            name: name.to_owned(),
            placeholder: HandedPlaceholder::of(placeholder),
            current: Secret::new(current.expose()),
            previous: former.keys().next_back().map(|key| Secret::new(key.expose())),
            former: former.iter().map(HandedFormer::of).collect(),
            file,
            parts,
            life: None,
        }
    }

    fn forget_files(&mut self) {
        self.file = None;
        self.parts.clear();
    }

    /// The placeholder, the keys, and the files.
    pub(super) fn restore(self, content: Content) -> Result<Restored, KeyProblem> {
        let read = |content: Content, secret: Secret| {
            RealKey::parse_as(content, Zeroizing::new(secret.expose().as_bytes().to_vec()))
        };
        // The keys before may have been of another kind.
        let parse = |secret: Secret| match (content, secret.expose().contains('\n')) {
            (Content::Key, true) => read(Content::Aws, secret),
            (Content::Aws, false) => read(Content::Key, secret),
            _ => read(content, secret),
        };
        let misfit = || KeyProblem::Unreadable(std::io::ErrorKind::InvalidData.into());
        let mut former = Formers::default();
        for HandedFormer { key, left, kept } in self.former {
            former.add(Former::lasting(Arc::new(parse(key)?), left, kept));
        }
        if let Some(key) = self.previous.map(parse).transpose()?
            && !former.holds(&key)
        {
            former.add(Former::untold(Arc::new(key)));
        }
        Ok(Restored {
            placeholder: self.placeholder.restore().ok_or_else(misfit)?,
            current: read(content, self.current)?,
            former,
            // Without a stamp, the next check reads them.
            files: Files::unread(
                self.file
                    .map(|path| (0, path))
                    .into_iter()
                    .chain(self.parts)
                    .map(|(part, path)| (part, path.0)),
            ),
        })
    }
}

/// A restored credential.
pub(super) struct Restored {
    pub(super) placeholder: Placeholder,
    pub(super) current: RealKey,
    pub(super) former: Formers,
    pub(super) files: Files,
}
