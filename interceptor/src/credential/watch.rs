//! Has an open answer searched for the keys that become known while it streams.

use std::sync::Arc;

use interceptor_policy::CredentialId;
use interceptor_policy::redact::{RedactError, Redactor};

use super::changes;
use super::key::RealKey;
use super::keyring::Keyring;

/// Tells an open answer what it is searched for, when that changes.
#[derive(Debug)]
pub(crate) struct KeyWatch {
    keyring: Arc<Keyring>,
    /// The key that the request carried.
    sent: Option<(CredentialId, Arc<RealKey>)>,
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
        keyring: &Arc<Keyring>,
        sent: Option<(CredentialId, Arc<RealKey>)>,
    ) -> Result<(Option<Redactor>, KeyWatch), RedactError> {
        // First, so that no change falls between the two.
        let seen = changes::counted();
        let watch = KeyWatch { keyring: keyring.clone(), sent, seen };
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
        self.keyring.redactor_for(self.sent.as_ref().map(|(id, key)| (*id, &**key)))
    }
}
