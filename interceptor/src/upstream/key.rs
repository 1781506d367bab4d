//! Pool keys, and the generation of the rules that a connection was made under.

use std::hash::{Hash, Hasher};
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
/// includes the generation of its rules. The generation also stands for the road: the upstream
/// proxy, the source of its credential, and the roots that the origin was verified against.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// By what nearly always tells keys apart.
impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.host.hash(state);
        let credential = self.credential.map_or(0, |id| id.0 + 1);
        state.write_u64((credential as u64) << 16 | u64::from(self.port));
    }
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
