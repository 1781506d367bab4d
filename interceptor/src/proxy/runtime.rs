//! What all sandboxes of a process share: nothing that one could learn about another from.

use std::path::PathBuf;
use std::sync::Arc;

use crate::audit::Audit;
use crate::metrics::Metrics;
use crate::tls::verify::Verifier;
use crate::tls::{TlsError, client};
use crate::upstream::Upstream;

/// What a [`Runtime`] is made of.
#[derive(Debug)]
pub struct RuntimeOptions {
    /// Resolves and dials.
    pub upstream: Upstream,
    /// Files of PEM certificates trusted for upstream connections beside the system's roots.
    pub upstream_ca: Vec<PathBuf>,
    /// Where records go.
    pub audit: Audit,
}

/// Shared by all sandboxes: the resolver, the verifier of origins' certificates, the audit log.
#[derive(Debug)]
pub struct Runtime {
    pub(crate) upstream: Upstream,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) audit: Audit,
    metrics: Metrics,
}

impl Runtime {
    /// Reads the trusted roots once.
    ///
    /// # Errors
    /// When a file of roots cannot be read, or there are no roots at all.
    pub fn new(options: RuntimeOptions) -> Result<Arc<Runtime>, TlsError> {
        let verifier = client::verifier(&options.upstream_ca)?;
        Ok(Arc::new(Runtime {
            upstream: options.upstream,
            verifier,
            metrics: Metrics::new(options.audit.clone()),
            audit: options.audit,
        }))
    }

    /// What this process counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
