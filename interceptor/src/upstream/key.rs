//! Pool keys, and the generation of the rules that a connection was made under.

use std::sync::atomic::{AtomicU64, Ordering};

use interceptor_policy::{CredentialId, Host, Scheme};

/// Identifies one version of the rules; later versions compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(u64);

impl Generation {
    /// A new generation, unique in this process.
    pub(crate) fn next() -> Generation {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Generation(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// The key of a pooled connection. A credential is an index into one policy's list, so the key
/// includes the generation of its rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    /// Plain or TLS.
    pub scheme: Scheme,
    /// The judged host, which is resolved, dialled, sent as SNI and verified.
    pub host: Host,
    /// Its port.
    pub port: u16,
    credential: Option<CredentialId>,
    generation: Generation,
}

impl PoolKey {
    /// The key for a host, with the credential that authenticates requests on the connection.
    pub(crate) fn new(
        generation: Generation,
        scheme: Scheme,
        host: Host,
        port: u16,
        credential: Option<CredentialId>,
    ) -> PoolKey {
        PoolKey { scheme, host, port, credential, generation }
    }

    /// Whether a credential authenticates requests on the connection.
    pub(crate) fn is_governed(&self) -> bool {
        self.credential.is_some()
    }

    /// The generation of the rules that judged the connection.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }
}
