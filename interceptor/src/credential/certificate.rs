//! The client certificate of a credential: two sources that belong together, each read again as
//! keys are. While they do not fit, as when one file was replaced and the other not yet, the pair
//! before is presented.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use interceptor_policy::{ClientCert, Credential, KeySource};
use zeroize::Zeroizing;

use super::entry::{KeyringEntry, lock};
use super::handed::{HandedCertificate, HandedKey};
use super::key::{Content, KeyProblem, RealKey};
use super::location::KeyLocation;
use super::pem::{CertificateProblem, Identity};
use super::source::{EnvironmentLookup, KeyError};
use crate::ipc::Secret;

/// The client certificates of a sandbox, each with the position of its credential.
#[derive(Debug, Default)]
pub(super) struct Certificates(Vec<(usize, CertificateEntry)>);

impl Certificates {
    /// Loads the certificate of a credential, if it has one; `before` is what it had.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn load(
        &mut self,
        index: usize,
        (written, credential): (&Credential, &KeyringEntry),
        before: Option<&CertificateEntry>,
        environment: EnvironmentLookup<'_>,
    ) -> Result<(), KeyError> {
        let Some(written) = &written.client_cert else { return Ok(()) };
        let loaded = CertificateEntry::load(written, credential, before, environment)?;
        self.0.push((index, loaded));
        Ok(())
    }

    /// Restores what another process handed over.
    ///
    /// # Errors
    /// If it is missing or invalid.
    pub(super) fn restore(
        &mut self,
        index: usize,
        (written, credential): (&Credential, &KeyringEntry),
        handed: &mut Vec<HandedCertificate>,
    ) -> Result<(), KeyProblem> {
        let Some(certificate) = &written.client_cert else { return Ok(()) };
        let found = handed.iter().position(|one| one.credential == written.name);
        let handed = found.map(|index| handed.swap_remove(index)).ok_or(KeyProblem::Unset)?;
        self.0.push((index, CertificateEntry::restore(certificate, handed, credential)?));
        Ok(())
    }

    /// The certificate of the credential at a position.
    pub(super) fn of(&self, index: usize) -> Option<&CertificateEntry> {
        self.0.iter().find(|(at, _)| *at == index).map(|(_, certificate)| certificate)
    }

    /// The secrets in them that are read and searched for as keys are.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<KeyringEntry>> {
        self.0.iter().flat_map(|(_, certificate)| certificate.entries())
    }

    /// The state to hand over to another process.
    pub(super) fn hand_over(&self) -> Vec<HandedCertificate> {
        self.0.iter().map(|(_, certificate)| certificate.hand_over()).collect()
    }
}

/// The client certificate of a credential.
#[derive(Debug)]
pub(super) struct CertificateEntry {
    /// Where the certificate is.
    place: KeyLocation,
    certificates: Arc<KeyringEntry>,
    /// Its private key; `None` if that is the credential's own.
    key: Option<Arc<KeyringEntry>>,
    pair: ArcSwap<Pair>,
    /// Held while another pair is made.
    pairing: Mutex<()>,
}

/// A certificate and its private key.
#[derive(Clone, Debug)]
struct Texts {
    certificates: Arc<RealKey>,
    key: Arc<RealKey>,
}

impl Texts {
    fn are(&self, other: &Texts) -> bool {
        Arc::ptr_eq(&self.certificates, &other.certificates) && Arc::ptr_eq(&self.key, &other.key)
    }

    fn identity(&self) -> Result<Identity, CertificateProblem> {
        Identity::of(self.certificates.expose(), self.key.expose())
    }
}

/// What was read last, and what is presented.
#[derive(Debug)]
struct Pair {
    read: Texts,
    presented: Texts,
    identity: Arc<Identity>,
}

impl CertificateEntry {
    /// Loads a certificate and its private key.
    ///
    /// # Errors
    /// What is wrong with either, or with the pair.
    fn load(
        written: &ClientCert,
        credential: &KeyringEntry,
        before: Option<&CertificateEntry>,
        environment: EnvironmentLookup<'_>,
    ) -> Result<CertificateEntry, KeyError> {
        let error = |source: &KeySource, content: Content, problem: KeyProblem| KeyError {
            credential: credential.name.clone(),
            place: KeyLocation::of(source),
            problem: problem.of(content),
        };
        let read = |content, source: &KeySource, before: Option<&KeyringEntry>| {
            let read = credential.beside(content, source, before, environment);
            read.map_err(|problem| error(source, content, problem))
        };
        let certificates = read(
            Content::Certificate,
            &written.certificate,
            before.map(|before| &*before.certificates),
        )?;
        let (key, own) = match written.is_alone {
            true => (None, credential.current()),
            false => {
                let before = before.and_then(|before| before.key.as_deref());
                let key = read(Content::PrivateKey, &written.key, before)?;
                let own = key.current();
                (Some(key), own)
            }
        };
        let read = Texts { certificates: certificates.current(), key: own };
        let identity = read.identity().and_then(Identity::unexpired).map_err(|problem| {
            let (source, content) = match problem.is_of_key() {
                true => (&written.key, Content::PrivateKey),
                false => (&written.certificate, Content::Certificate),
            };
            error(source, content, problem.into())
        })?;
        let pair = Pair { presented: read.clone(), read, identity: Arc::new(identity) };
        Ok(CertificateEntry::of(written, certificates, key, pair))
    }

    fn of(
        written: &ClientCert,
        certificates: KeyringEntry,
        key: Option<KeyringEntry>,
        pair: Pair,
    ) -> CertificateEntry {
        let (place, pair) = (KeyLocation::of(&written.certificate), ArcSwap::from_pointee(pair));
        let (certificates, key) = (Arc::new(certificates), key.map(Arc::new));
        CertificateEntry { place, certificates, key, pair, pairing: Mutex::default() }
    }

    /// What is presented now; `credential` is the one whose certificate it is.
    pub(super) fn current(&self, credential: &KeyringEntry) -> Arc<Identity> {
        let key = self.key.as_deref().unwrap_or(credential).current();
        let read = Texts { certificates: self.certificates.current(), key };
        let pair = self.pair.load();
        if pair.read.are(&read) {
            return Arc::clone(&pair.identity);
        }
        let _pairing = lock(&self.pairing);
        let pair = self.pair.load();
        if pair.read.are(&read) {
            return Arc::clone(&pair.identity);
        }
        let (presented, identity) = match read.identity().and_then(Identity::unexpired) {
            Ok(identity) => (read.clone(), Arc::new(identity)),
            Err(problem) => {
                let credential = &credential.name;
                tracing::warn!(credential, %problem, "keeping the previous client certificate");
                (pair.presented.clone(), Arc::clone(&pair.identity))
            }
        };
        self.pair.store(Arc::new(Pair { read, presented, identity: Arc::clone(&identity) }));
        identity
    }

    /// Checks that what is presented has not expired.
    ///
    /// # Errors
    /// When it did.
    pub(super) fn usable(&self, credential: &KeyringEntry) -> Result<(), KeyError> {
        let identity = self.current(credential);
        if identity.is_valid() {
            return Ok(());
        }
        let problem = KeyProblem::from(CertificateProblem::Expired(identity.until));
        Err(KeyError {
            credential: credential.name.clone(),
            place: self.place.clone(),
            problem: problem.of(Content::Certificate),
        })
    }

    /// The secrets in it that are read and searched for as keys are.
    fn entries(&self) -> impl Iterator<Item = &Arc<KeyringEntry>> {
        std::iter::once(&self.certificates).chain(&self.key)
    }

    /// The state to hand over to another process.
    fn hand_over(&self) -> HandedCertificate {
        let Texts { certificates, key } = &self.pair.load().presented;
        HandedCertificate {
            credential: self.certificates.name.clone(),
            certificates: self.certificates.hand_over(),
            key: self.key.as_ref().map(|key| key.hand_over()),
            presented: (Secret::new(certificates.expose()), Secret::new(key.expose())),
        }
    }

    /// The state that another process handed over.
    fn restore(
        written: &ClientCert,
        handed: HandedCertificate,
        credential: &KeyringEntry,
    ) -> Result<CertificateEntry, KeyProblem> {
        let HandedCertificate { credential: name, certificates, key, presented } = handed;
        let restore =
            |content, handed: HandedKey| KeyringEntry::restore_beside(content, &name, handed);
        let certificates = restore(Content::Certificate, certificates)?;
        let key = key.map(|key| restore(Content::PrivateKey, key)).transpose()?;
        let parse = |content, secret: Secret| {
            let text = Zeroizing::new(secret.expose().as_bytes().to_vec());
            RealKey::parse_as(content, text).map(Arc::new)
        };
        let read = Texts {
            certificates: certificates.current(),
            key: key.as_ref().unwrap_or(credential).current(),
        };
        let presented = Texts {
            certificates: parse(Content::Certificate, presented.0)?,
            key: parse(Content::PrivateKey, presented.1)?,
        };
        let identity = Arc::new(presented.identity()?);
        let pair = Pair { read, presented, identity };
        Ok(CertificateEntry::of(written, certificates, key, pair))
    }
}
