//! What the requests of a sandbox are judged by: its policy with its keys.

use std::sync::Arc;

use interceptor_policy::{CredentialId, Host, Policy, Scheme};

use super::identities::Identities;
use super::{Runtime, road};
use crate::credential::Keyring;
use crate::logging::{self, KeptOut};
use crate::tls::TlsError;
use crate::upstream::pool::{Generation, Overlay, PoolKey};
use crate::upstream::{Road, Terms};

/// What requests are judged by: replaced as one value, so that no request mixes one policy with
/// another's keys.
#[derive(Debug)]
pub struct Rules {
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// Its real keys and their placeholders.
    pub keyring: Arc<Keyring>,
    /// How origins are reached.
    pub(crate) road: Arc<Road>,
    /// The roots that the operator and the policy name, PEM.
    pub(crate) given_roots: Arc<str>,
    pub(crate) generation: Generation,
    /// What is presented to origins in TLS.
    identities: Arc<Identities>,
    /// Where they are those of a lease.
    overlay: Option<Overlay>,
    /// Redacts the keys from the log while this value exists: while in force, and for requests that
    /// began under it.
    kept_out: Option<Arc<KeptOut>>,
}

impl Rules {
    /// From a policy and its keys.
    ///
    /// # Errors
    /// If the roots that the policy names cannot be used.
    pub(crate) fn new(
        runtime: &Runtime,
        policy: Policy,
        keyring: Keyring,
    ) -> Result<Rules, TlsError> {
        let generation = Generation::next();
        let keyring = Arc::new(keyring);
        let (road, given_roots) = road::of(runtime, &keyring)?;
        let kept_out = logging::keep_out(&keyring).map(Arc::new);
        let (policy, road) = (Arc::new(policy), Arc::new(road));
        let (identities, overlay) = (Arc::default(), None);
        Ok(Rules { policy, keyring, road, given_roots, generation, identities, overlay, kept_out })
    }

    /// By what connections are judged, and the road that they take.
    pub(crate) fn terms(&self) -> Terms<'_> {
        Terms { policy: &self.policy, road: &self.road }
    }

    /// The key of the pooled connections that these rules permit.
    pub(crate) fn pool_key(
        &self,
        scheme: Scheme,
        host: Host,
        port: u16,
        credential: Option<CredentialId>,
    ) -> PoolKey {
        let presenting = credential.filter(|_| scheme == Scheme::Https);
        let presenting =
            presenting.and_then(|id| self.identities.of(&self.keyring, id, &self.road.tls));
        let key = PoolKey::new(self.generation, scheme, host, port, credential);
        key.presenting(presenting).under(self.overlay.as_ref())
    }

    /// The same rules with the policy of a lease, whose credentials are the same.
    pub(crate) fn overlaid(&self, policy: Policy) -> Rules {
        Rules {
            policy: Arc::new(policy),
            keyring: self.keyring.clone(),
            road: self.road.clone(),
            given_roots: self.given_roots.clone(),
            generation: self.generation,
            identities: self.identities.clone(),
            overlay: Some(Overlay::new()),
            kept_out: self.kept_out.clone(),
        }
    }
}
