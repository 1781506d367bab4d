//! Has an open answer searched for the keys that become known while it streams.

use std::sync::Arc;

use interceptor_policy::CredentialId;
use interceptor_policy::redact::{RedactError, Redactor};

use super::changes;
use super::entry::SentKey;
use super::key::RealKey;
use super::keyring::Keyring;
use super::kin::Kin;

/// Tells an open answer what it is searched for, when that changes.
#[derive(Debug)]
pub(crate) struct KeyWatch {
    /// Not the keyring, which may be replaced while the answer is open.
    kin: Arc<Kin>,
    /// The key that the request carried, and its credential's entry.
    sent: Option<SentKey>,
    /// The changes that the answer knows of.
    seen: u64,
}

impl KeyWatch {
    /// What an answer is searched for whose request carried this key of a credential, and what
    /// tells when that changes.
    ///
    /// # Errors
    /// As [`Keyring::redactor`].
    pub(crate) fn begin(
        keyring: &Keyring,
        sent: Option<(CredentialId, Arc<RealKey>)>,
    ) -> Result<(Option<Redactor>, KeyWatch), RedactError> {
        // First, so that no change falls between the two.
        let seen = changes::counted();
        let (kin, sent) = keyring.watched(sent);
        let watch = KeyWatch { kin, sent, seen };
        Ok((watch.redactor()?, watch))
    }

    /// What to search for from now on, if keys have changed in this process. Look after each read
    /// from the origin: what is read before a key was sent cannot hold it.
    ///
    /// # Errors
    /// As [`Keyring::redactor`].
    #[inline]
    pub(crate) fn changed(&mut self) -> Result<Option<Redactor>, RedactError> {
        let changes = changes::counted();
        if changes == self.seen {
            return Ok(None);
        }
        self.seen = changes;
        self.redactor()
    }

    fn redactor(&self) -> Result<Option<Redactor>, RedactError> {
        let redactor = self.kin.redactor()?;
        // The key is searched for even if the credential has forgotten it meanwhile.
        match self.sent.as_ref().filter(|(slot, key)| !slot.keys.load().hold(key)) {
            Some((slot, key)) => self.kin.build(Some((slot, key))),
            None => Ok(redactor),
        }
    }
}
