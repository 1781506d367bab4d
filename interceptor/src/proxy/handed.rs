//! The user-space half of a sandbox on its way from one process to the next. What the sandbox has seen stays as it was: the
//! authority that it trusts, the addresses that stand for names, the placeholders, what it has sent. What it has not seen is made
//! anew: the leaf key, the seal of session tickets (clients make full handshakes then), the pool.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interceptor_policy::Policy;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::budget::Budget;
use super::sandbox::Kept;
use super::{Accept, ProxyError, Runtime, Sandbox, Serving};
use crate::audit::Record;
use crate::credential::{HandedKeys, Keyring};
use crate::dns::Names;
use crate::ipc::Secret;
use crate::seam::{Destinations, Listeners};
use crate::tls::authority::Authority;

/// What of a sandbox does not change while another process prepares to take it over, but for policy and keys, which its daemon holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandedSandbox {
    /// The authority's certificate, base64 of DER.
    certificate: String,
    /// Its private key, base64 of PKCS #8.
    key: Secret,
    /// The real keys and the placeholders.
    keyring: HandedKeys,
    /// What the proxy answers at [`crate::seam::SELF_TEST`].
    token: String,
}

/// What changes until the first process has paused.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HandedNames {
    /// Names in the order of their places, with the time since each was used, in milliseconds.
    pub(crate) names: Vec<(String, u64)>,
    /// What was sent to each host.
    pub(crate) sent: Vec<(String, u64)>,
}

impl HandedNames {
    /// Adds a later part.
    pub(crate) fn extend(&mut self, later: HandedNames) {
        self.names.extend(later.names);
        self.sent.extend(later.sent);
    }
}

impl Serving {
    /// What another process needs of the sandbox beside its policy, its listeners, and [`Self::hand_over_names`].
    pub fn hand_over(&self) -> HandedSandbox {
        let sandbox = self.sandbox();
        let authority = sandbox.certificates.authority();
        let key = Zeroizing::new(STANDARD.encode(&*authority.key_der()));
        HandedSandbox {
            certificate: STANDARD.encode(authority.certificate_der()),
            key: Secret::new(&key),
            keyring: sandbox.rules().keyring.hand_over(),
            token: self.listeners().self_test_token.clone(),
        }
    }

    /// The names and accounts of this moment: complete after [`Self::pause`].
    pub fn hand_over_names(&self) -> HandedNames {
        let sandbox = self.sandbox();
        let milliseconds = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let names = sandbox.names.snapshot().into_iter().map(|(name, age)| (name, milliseconds(age)));
        HandedNames { names: names.collect(), sent: sandbox.budget.snapshot() }
    }
}

impl HandedSandbox {
    /// The keyring for the policy that came along.
    ///
    /// # Errors
    /// Each credential that was not handed over as it should be, in words.
    pub fn keyring(&mut self, policy: &Policy) -> Result<Keyring, String> {
        Keyring::restore(policy.credentials(), std::mem::take(&mut self.keyring))
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// What the proxy answers at [`crate::seam::SELF_TEST`].
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The sandbox as it was.
    ///
    /// # Errors
    /// When something was handed over that is not what it should be.
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
        let authority = Authority::restore(&certificate, &Zeroizing::new(key))?;
        let rows = names.names.into_iter().map(|(name, age)| (name, Duration::from_millis(age))).collect();
        let names_table = Names::restore(rows).ok_or_else(|| misfit("table of names"))?;
        let kept = Kept { authority, names: names_table, budget: Budget::restore(names.sent) };
        Sandbox::with(runtime, id, policy, keyring, kept)
    }
}

impl Sandbox {
    /// Serves at listeners that another process has paused at.
    ///
    /// # Errors
    /// When a socket cannot be registered with the runtime.
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
