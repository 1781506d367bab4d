//! What all sandboxes of a process share; none of it tells one sandbox about another.

use std::path::PathBuf;
use std::sync::Arc;

use crate::audit::Audit;
use crate::metrics::Metrics;
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
}

impl Runtime {
    /// Reads the trusted roots.
    ///
    /// # Errors
    /// If a root file cannot be read, or there are no roots.
    pub fn new(options: RuntimeOptions) -> Result<Arc<Runtime>, TlsError> {
        let verifier = client::verifier(&options.upstream_ca)?;
        Ok(Arc::new(Runtime {
            upstream: options.upstream,
            client: client::base(verifier.clone())?,
            verifier,
            metrics: Metrics::new(options.audit.clone()),
            audit: options.audit,
        }))
    }

    /// This process's metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
