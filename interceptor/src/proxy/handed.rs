//! The user-space half of a sandbox during a takeover. What the sandbox has seen stays the same:
//! its CA, the synthetic addresses of names, placeholders, byte counts. The rest is new: the leaf
//! key, the session ticket key (so clients make full handshakes), the pool.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interceptor_policy::Policy;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::asking::HandedLease;
use super::budget::Budget;
use super::sandbox::Durable;
use super::{Accept, ProxyError, Runtime, Sandbox, Serving};
use crate::audit::Record;
use crate::credential::{HandedKeys, Keyring, Sources};
use crate::dns::Names;
use crate::ipc::Secret;
use crate::seam::{Destinations, Listeners};
use crate::tls::ca::Ca;

/// The part of a sandbox that does not change during a takeover, apart from policy and keys, which
/// its daemon holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandedSandbox {
    /// The CA certificate, base64 of DER.
    certificate: String,
    /// The CA's private key, base64 of PKCS #8.
    key: Secret,
    /// Real keys and placeholders.
    keyring: HandedKeys,
    /// The proxy's answer at [`crate::seam::SELF_TEST`].
    token: String,
}

/// The part that changes until the old process has paused.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HandedNames {
    /// Names in order of their slots, with the milliseconds since each was used.
    pub(crate) names: Vec<(String, u64)>,
    /// Bytes sent to each host.
    pub(crate) sent: Vec<(String, u64)>,
    /// Leases, with the uses that are left.
    #[serde(default)]
    pub(crate) leases: Vec<HandedLease>,
}

impl HandedNames {
    /// Appends a later part.
    pub(crate) fn extend(&mut self, later: HandedNames) {
        self.names.extend(later.names);
        self.sent.extend(later.sent);
        self.leases.extend(later.leases);
    }
}

impl Serving {
    /// What another process needs besides the policy, the listeners and [`Self::hand_over_names`].
    pub fn hand_over(&self) -> HandedSandbox {
        let sandbox = self.sandbox();
        let ca = sandbox.certificates.ca();
        let key = Zeroizing::new(STANDARD.encode(&*ca.key_der()));
        HandedSandbox {
            certificate: STANDARD.encode(ca.certificate_der()),
            key: Secret::new(&key),
            keyring: sandbox.rules().keyring.hand_over(),
            token: self.listeners().self_test_token.clone(),
        }
    }

    /// The current names, byte counts and leases; final after [`Self::pause`]. No use of a lease is
    /// taken here any more.
    pub fn hand_over_names(&self) -> HandedNames {
        let sandbox = self.sandbox();
        let milliseconds = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let names =
            sandbox.names.snapshot().into_iter().map(|(name, age)| (name, milliseconds(age)));
        let leases = sandbox.asking.hand_over();
        HandedNames { names: names.collect(), sent: sandbox.budget.snapshot(), leases }
    }
}

impl HandedSandbox {
    /// The keyring for the policy that came along.
    ///
    /// # Errors
    /// Each credential that is missing or invalid.
    pub fn keyring(&mut self, policy: &Policy) -> Result<Keyring, String> {
        self.keyring_with(policy, &Sources::none("nobody named a user for it"))
    }

    /// As [`HandedSandbox::keyring`], with what living sources are read with.
    ///
    /// # Errors
    /// As [`HandedSandbox::keyring`].
    pub(crate) fn keyring_with(
        &mut self,
        policy: &Policy,
        sources: &Sources,
    ) -> Result<Keyring, String> {
        Keyring::restore(policy.credentials(), std::mem::take(&mut self.keyring), sources)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// The proxy's answer at [`crate::seam::SELF_TEST`].
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Restores the sandbox.
    ///
    /// # Errors
    /// If anything handed over is invalid.
    pub fn restore(
        self,
        names: HandedNames,
        runtime: &Arc<Runtime>,
        id: &str,
        policy: Policy,
        keyring: Keyring,
    ) -> Result<Arc<Sandbox>, ProxyError> {
        let misfit = |what| ProxyError::Handed { what };
        let certificate = STANDARD.decode(&self.certificate).map_err(|_| misfit("certificate"))?;
        let key = STANDARD.decode(self.key.expose()).map_err(|_| misfit("CA key"))?;
        let ca = Ca::restore(&certificate, &Zeroizing::new(key))?;
        let rows =
            names.names.into_iter().map(|(name, age)| (name, Duration::from_millis(age))).collect();
        let names_table = Names::restore(rows).ok_or_else(|| misfit("table of names"))?;
        let (budget, leases) = (Budget::restore(names.sent), names.leases);
        let kept = Durable { ca, names: names_table, budget, leases };
        Sandbox::with(runtime, id, policy, keyring, kept)
    }
}

impl Sandbox {
    /// Serves at listeners where another process has paused.
    ///
    /// # Errors
    /// If a socket cannot be registered with the runtime.
    pub fn take_over(
        self: &Arc<Self>,
        listeners: Listeners,
        destinations: Arc<dyn Destinations>,
        accept: Accept,
    ) -> io::Result<Serving> {
        let serving = Serving::begin(self, listeners, destinations, accept)?;
        self.audit.emit(Record::lifecycle(&self.id, "sandbox_taken_over"));
        Ok(serving)
    }
}
