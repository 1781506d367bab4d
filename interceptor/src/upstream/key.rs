//! Pool keys, and the generation of the rules that a connection was made under.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use interceptor_policy::{CredentialId, Host, Scheme};

use crate::tls::client::ClientConfigs;

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

/// Stands for the rules of one lease while it may permit anything. It keeps their connections
/// apart: they lead where only the lease permits to go.
#[derive(Clone, Debug)]
pub(crate) struct Overlay(Arc<()>);

impl Overlay {
    /// Differs from every other.
    pub(crate) fn new() -> Overlay {
        Overlay(Arc::new(()))
    }
}

/// The overlay of a connection, which does not outlive it.
#[derive(Clone, Debug)]
struct OverlayMark(Weak<()>);

impl PartialEq for OverlayMark {
    fn eq(&self, other: &OverlayMark) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Eq for OverlayMark {}

/// What a connection presents in TLS: it equals only itself, so that no connection is reused with
/// another certificate than it was made with.
#[derive(Clone, Debug)]
pub(crate) struct Presenting(Arc<ClientConfigs>);

impl Presenting {
    /// Differs from every other.
    pub(crate) fn new(tls: ClientConfigs) -> Presenting {
        Presenting(Arc::new(tls))
    }
}

impl PartialEq for Presenting {
    fn eq(&self, other: &Presenting) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Presenting {}

/// The key of a pooled connection. A credential is an index into one policy's list, so the key
/// includes the generation of its rules. The generation also covers the route: the upstream proxy,
/// the source of its credential, and the roots that the origin was verified against.
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
    presenting: Option<Presenting>,
    overlay: Option<OverlayMark>,
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
        let (presenting, overlay) = (None, None);
        PoolKey { scheme, host, port, credential, generation, presenting, overlay }
    }

    /// The same for connections that present a certificate.
    pub(crate) fn presenting(self, presenting: Option<Presenting>) -> PoolKey {
        PoolKey { presenting, ..self }
    }

    /// TLS with what its connections present, if they do.
    pub(super) fn tls(&self) -> Option<&ClientConfigs> {
        self.presenting.as_ref().map(|Presenting(tls)| &**tls)
    }

    /// Whether its connections present a certificate.
    pub(crate) fn presents(&self) -> bool {
        self.presenting.is_some()
    }

    /// The same for connections that were dialled under a lease.
    pub(crate) fn under(self, overlay: Option<&Overlay>) -> PoolKey {
        let overlay = overlay.map(|Overlay(lease)| OverlayMark(Arc::downgrade(lease)));
        PoolKey { overlay, ..self }
    }

    /// Whether the lease that its connections were dialled under has ended.
    pub(super) fn is_over(&self) -> bool {
        self.overlay.as_ref().is_some_and(|OverlayMark(lease)| lease.strong_count() == 0)
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
