//! TLS towards origins: verified against the system's roots and `--upstream-ca`, TLS 1.2 or 1.3,
//! for the name that was judged.
//!
//! There is no switch that turns verification off (attack T4). Sessions are kept per sandbox (K23).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::{
    ClientSessionMemoryCache, ResolvesClientCert, Resumption, WebPkiServerVerifier,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

use super::verify::Verifier;
use super::{TlsError, provider};
use crate::files;

/// The largest file of roots, in bytes: that of a system has a quarter of a megabyte.
const LARGEST_ROOTS: usize = 16 << 20;
/// Sessions kept per sandbox.
const SESSIONS: usize = 128;

/// The verifier of origins' certificates, shared by all sandboxes: it holds no state.
pub fn verifier(extra: &[PathBuf]) -> Result<Arc<Verifier>, TlsError> {
    let mut given = Vec::new();
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a system root certificate");
    }
    roots.add_parsable_certificates(native.certs);
    for path in extra {
        let refused = |reason: String| TlsError::Roots { path: path.clone(), reason };
        let (pem, _) =
            files::read(path, LARGEST_ROOTS).map_err(|error| refused(error.to_string()))?;
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| refused(error.to_string()))?;
        if certificates.is_empty() {
            return Err(refused("holds no certificate".to_owned()));
        }
        for certificate in certificates {
            roots
                .add(certificate.clone())
                .map_err(|_| refused("holds a certificate that cannot be read".to_owned()))?;
            given.push(certificate);
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    Ok(Arc::new(Verifier::new(roots, given)))
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
    pub fn new(verifier: Arc<Verifier>) -> Result<ClientConfigs, TlsError> {
        let mut h1 = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            // Webpki's, and exact certificates: see `verify`.
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(NoCertificate));
        h1.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
        h1.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut h2 = h1.clone();
        h2.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
        h2.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(ClientConfigs { h2: Arc::new(h2), h1: Arc::new(h1) })
    }
}

tokio::task_local! {
    /// Set by [`NoCertificate`] when the origin of the handshake in progress asks for a client
    /// certificate.
    static ASKED: Arc<AtomicBool>;
}

/// Runs a handshake; says beside its outcome whether the origin asked for a client certificate.
pub(crate) async fn watched<F: Future>(handshake: F) -> (F::Output, bool) {
    let asked = Arc::new(AtomicBool::new(false));
    let output = ASKED.scope(asked.clone(), handshake).await;
    (output, asked.load(Ordering::Relaxed))
}

/// Presents no certificate, and notes that one was asked for: an origin that then gives up says so
/// in no certain way. One for all handshakes, since rustls resumes sessions only with the resolver
/// that they began with.
#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Outside a handshake that is watched there is nobody to tell.
        let _ = ASKED.try_with(|asked| asked.store(true, Ordering::Relaxed));
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
