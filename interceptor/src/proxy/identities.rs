//! TLS towards origins that get a client certificate: one configuration for each certificate, with
//! sessions of its own, so that no connection or session is shared with requests of another
//! credential, of none, or under a certificate that was replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use interceptor_policy::CredentialId;

use crate::credential::{Identity, Keyring};
use crate::tls::client::ClientConfigs;
use crate::upstream::pool::Presenting;

/// The configurations of one set of rules, each made when first needed.
#[derive(Debug, Default)]
pub(super) struct Identities(Mutex<HashMap<CredentialId, (Arc<Identity>, Presenting)>>);

impl Identities {
    /// What connections for a credential present; `None` if it has no certificate.
    pub(super) fn of(
        &self,
        keyring: &Keyring,
        id: CredentialId,
        tls: &ClientConfigs,
    ) -> Option<Presenting> {
        let identity = keyring.identity(id)?;
        // Every step leaves it consistent.
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match made.get(&id) {
            Some((known, presenting)) if Arc::ptr_eq(known, &identity) => Some(presenting.clone()),
            _ => {
                let presenting = Presenting::new(tls.presenting(identity.certified.clone()));
                made.insert(id, (identity, presenting.clone()));
                Some(presenting)
            }
        }
    }
}
