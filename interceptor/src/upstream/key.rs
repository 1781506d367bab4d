//! What connections to origins are kept by, and the rules that they were made under.

use std::sync::atomic::{AtomicU64, Ordering};

use interceptor_policy::{CredentialId, Host, Scheme};

/// Tells the rules of one moment from those before and after, in the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(u64);

impl Generation {
    /// One that no other rules of this process have.
    pub(crate) fn next() -> Generation {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Generation(LAST.fetch_add(1, Ordering::Relaxed))
    }
}

/// What connections are kept by. A credential is a position in the list of one policy, so a key is
/// made together with the generation of the rules that the position is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// In the clear or over TLS.
    pub scheme: Scheme,
    /// The host that was judged: resolved, dialled, sent as SNI and verified.
    pub host: Host,
    /// Its port.
    pub port: u16,
    credential: Option<CredentialId>,
    generation: Generation,
}

impl Key {
    /// The key for a host, with the credential that authenticates requests on the connection.
    pub(crate) fn new(
        generation: Generation,
        scheme: Scheme,
        host: Host,
        port: u16,
        credential: Option<CredentialId>,
    ) -> Key {
        Key { scheme, host, port, credential, generation }
    }

    /// Whether a credential authenticates requests on the connection.
    pub(crate) fn is_governed(&self) -> bool {
        self.credential.is_some()
    }

    /// Which rules the connection was judged by.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }
}
