//! What all sandboxes of a process share; none of it tells one sandbox about another.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::Builder;

use super::asking::feed::ApprovalFeed;
use super::tidy::Tidy;
use crate::audit::Audit;
use crate::credential;
use crate::metrics::{KeyLife, Metrics};
use crate::tls::verify::CertificateVerifier;
use crate::tls::{TlsError, client};
use crate::upstream::Upstream;

/// What a [`Runtime`] is built from.
#[derive(Debug)]
pub struct RuntimeOptions {
    /// Resolves and dials.
    pub upstream: Upstream,
    /// PEM files with roots trusted for upstream connections, besides the system's.
    pub upstream_ca: Vec<PathBuf>,
    /// The same as PEM text.
    pub roots: Vec<Vec<u8>>,
    /// The audit log.
    pub audit: Audit,
}

/// Shared by all sandboxes: the resolver, the verifier of origin certificates, the audit log.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) upstream: Upstream,
    pub(crate) verifier: Arc<CertificateVerifier>,
    /// What sandboxes' TLS configurations towards origins are made from.
    pub(crate) client: Arc<rustls::ClientConfig>,
    pub(crate) audit: Audit,
    metrics: Metrics,
    pub(crate) tidy: Arc<Tidy>,
    /// What is asked of people, for listeners.
    pub(crate) approvals: ApprovalFeed,
}

impl Runtime {
    /// Reads the roots given; the system's are read when they are needed.
    ///
    /// # Errors
    /// If a root file cannot be read.
    pub fn new(options: RuntimeOptions) -> Result<Arc<Runtime>, TlsError> {
        let verifier = client::verifier(&options.upstream_ca, &options.roots)?;
        Ok(Arc::new(Runtime {
            upstream: options.upstream,
            client: client::base(verifier.clone())?,
            verifier,
            metrics: Metrics::new(options.audit.clone(), key_lives),
            audit: options.audit,
            tidy: Arc::default(),
            approvals: ApprovalFeed::new(),
        }))
    }

    /// Reads the system's roots in the background, so that the first origin does not wait for them.
    /// Call it once nothing else is in a hurry.
    pub fn warm(&self) {
        let verifier = self.verifier.clone();
        // Without the thread, the first origin waits.
        let _ = Builder::new().name("roots".to_owned()).spawn(move || verifier.warm());
    }

    /// Calls `give_back` whenever memory can be given back to the system.
    pub fn tidy_with(&self, give_back: fn()) {
        self.tidy.with(give_back);
    }

    /// This process's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// What is known of keys that live.
fn key_lives() -> Vec<KeyLife> {
    let all = credential::measured().into_iter();
    all.map(|(credential, known)| KeyLife {
        credential,
        fetches: known.fetches,
        failures: known.failures,
        age: known.age,
        left: known.left,
    })
    .collect()
}
