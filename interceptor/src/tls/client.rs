//! TLS towards origins: verified against the system's roots and `--upstream-ca`, TLS 1.2 or 1.3, for the name that was judged.
//!
//! There is no switch that turns verification off (ATTACKS T4). Sessions are kept per sandbox (K23).

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::{ClientSessionMemoryCache, Resumption, WebPkiServerVerifier};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::{TlsError, provider};
use crate::files;

/// The largest file of roots, in bytes: that of a system has a quarter of a megabyte.
const LARGEST_ROOTS: usize = 16 << 20;
/// Sessions kept per sandbox.
const SESSIONS: usize = 128;

/// The verifier of origins' certificates, shared by all sandboxes: it holds no state.
pub fn verifier(extra: &[PathBuf]) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a system root certificate could not be read");
    }
    roots.add_parsable_certificates(native.certs);
    for path in extra {
        let refused = |reason: String| TlsError::Roots { path: path.clone(), reason };
        let (pem, _) = files::read(path, LARGEST_ROOTS).map_err(|error| refused(error.to_string()))?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| refused(error.to_string()))?;
        if certificates.is_empty() {
            return Err(refused("holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|error| refused(error.to_string()))?;
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?)
}

/// The two client configurations of one sandbox.
#[derive(Clone, Debug)]
pub struct ClientConfigs {
    /// Offers HTTP/2 and HTTP/1.1.
    pub h2: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone.
    pub h1: Arc<ClientConfig>,
}

impl ClientConfigs {
    /// For one sandbox.
    pub fn new(verifier: Arc<WebPkiServerVerifier>) -> Result<ClientConfigs, TlsError> {
        let mut h1 = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        h1.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
        h1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut h2 = h1.clone();
        h2.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
        h2.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ClientConfigs { h2: Arc::new(h2), h1: Arc::new(h1) })
    }
}
