//! TLS towards origins: TLS 1.2 or 1.3, verified against the system's roots and `--upstream-ca`,
//! for the judged name.
//!
//! Verification cannot be turned off (attack T4). TLS sessions are kept per sandbox (K23).

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::client::{
    ClientSessionMemoryCache, ResolvesClientCert, Resumption, WebPkiServerVerifier,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};

use super::verify::CertificateVerifier;
use super::{TlsError, provider};
use crate::files;

/// Maximum size in bytes of a file of roots; a system's has about a quarter of a megabyte.
pub(crate) const LARGEST_ROOTS: usize = 16 << 20;
/// TLS sessions kept per sandbox.
const SESSIONS: usize = 128;

/// The verifier of origins' certificates, shared by all sandboxes because it has no state. It reads
/// the files given now, and the system's roots when they are needed. It trusts those, and the roots
/// in the files and texts (PEM).
pub(crate) fn verifier(
    paths: &[PathBuf],
    texts: &[Vec<u8>],
) -> Result<Arc<CertificateVerifier>, TlsError> {
    let mut given = Vec::new();
    let mut roots = RootCertStore::empty();
    let mut extra = Vec::new();
    for path in paths {
        let read = files::read(path, LARGEST_ROOTS);
        let (pem, _) = read
            .map_err(|error| TlsError::Roots { path: path.clone(), reason: error.to_string() })?;
        extra.push((path.clone(), pem.to_vec()));
    }
    extra.extend(texts.iter().map(|pem| (PathBuf::from("--upstream-ca"), pem.clone())));
    for (path, pem) in extra {
        let refused = |reason: String| TlsError::Roots { path: path.clone(), reason };
        given.extend(add(&mut roots, &pem).map_err(refused)?);
    }
    Ok(Arc::new(CertificateVerifier::new(move || with_systems(roots), given)))
}

/// Verifies by further roots too: the name of each file, and its content.
pub(crate) fn with_roots<'a>(
    base: &Arc<CertificateVerifier>,
    extra: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Arc<CertificateVerifier>, TlsError> {
    let mut given = Vec::new();
    let mut roots = RootCertStore::empty();
    for (name, pem) in extra {
        let refused = |reason| TlsError::Roots { path: name.into(), reason };
        given.extend(add(&mut roots, pem).map_err(refused)?);
    }
    let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let roots = roots.map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(Arc::new(CertificateVerifier::beside(base.clone(), roots, given)))
}

/// Adds the certificates of a file; returns them, or what is wrong.
fn add(roots: &mut RootCertStore, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if certificates.is_empty() {
        return Err("it contains no certificate".to_owned());
    }
    for certificate in &certificates {
        roots
            .add(certificate.clone())
            .map_err(|_| "it contains a certificate that cannot be read".to_owned())?;
    }
    Ok(certificates)
}

/// Verifies against these roots and the system's. `None`, and a warning, if there are none.
fn with_systems(mut roots: RootCertStore) -> Option<Arc<WebPkiServerVerifier>> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "cannot read a system root certificate");
    }
    roots.add_parsable_certificates(native.certs);
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    if built.is_err() {
        tracing::warn!(
            "no trusted root certificate was found, so no origin is trusted; install \
             ca-certificates or give --upstream-ca FILE"
        );
    }
    built.ok()
}

/// For HTTP/1.1 with a server that is verified against these roots (PEM) and no others.
///
/// # Errors
/// What is wrong with the roots.
pub(crate) fn trusting_only(pem: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let given = add(&mut roots, pem)?;
    let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
    let roots = roots.map_err(|error| error.to_string())?;
    let verifier = Arc::new(CertificateVerifier::new(move || Some(roots), given));
    let configs = ClientConfigs::new(base(verifier).map_err(|error| error.to_string())?);
    Ok(configs.h1().clone())
}

/// What the configurations of all sandboxes have in common: no sessions, no ALPN.
pub(crate) fn base(verifier: Arc<CertificateVerifier>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut base = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        // Webpki's verifier, plus exact certificates: see `verify`.
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(NoCertificate));
    base.resumption = Resumption::disabled();
    Ok(Arc::new(base))
}

/// The two client configurations of one sandbox, each made when first needed: the room for their
/// sessions is 14 KiB, and many a sandbox is idle.
#[derive(Debug)]
pub(crate) struct ClientConfigs {
    base: Arc<ClientConfig>,
    h2: OnceLock<Arc<ClientConfig>>,
    h1: OnceLock<Arc<ClientConfig>>,
}

impl ClientConfigs {
    /// For one sandbox, from [`base`].
    pub(crate) fn new(base: Arc<ClientConfig>) -> ClientConfigs {
        ClientConfigs { base, h2: OnceLock::new(), h1: OnceLock::new() }
    }

    /// The same for connections that present this certificate, with sessions of their own.
    pub(crate) fn presenting(&self, certificate: Arc<CertifiedKey>) -> ClientConfigs {
        let mut base = ClientConfig::clone(&self.base);
        base.client_auth_cert_resolver = Arc::new(OneCertificate(certificate));
        ClientConfigs::new(Arc::new(base))
    }

    /// The same without sessions.
    pub(crate) fn anew(&self) -> ClientConfigs {
        ClientConfigs::new(self.base.clone())
    }

    /// Offers HTTP/2 and HTTP/1.1.
    pub(crate) fn h2(&self) -> &Arc<ClientConfig> {
        self.h2.get_or_init(|| self.offering(&[b"h2", b"http/1.1"]))
    }

    /// Offers HTTP/1.1 alone.
    pub(crate) fn h1(&self) -> &Arc<ClientConfig> {
        self.h1.get_or_init(|| self.offering(&[b"http/1.1"]))
    }

    fn offering(&self, names: &[&[u8]]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.base);
        config.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS)));
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

tokio::task_local! {
    /// Set by [`NoCertificate`] if the origin asks for a client certificate in the current
    /// handshake.
    static ASKED: Arc<AtomicBool>;
}

/// Runs a handshake. Also returns whether the origin asked for a client certificate.
pub(crate) async fn watched<F: Future>(handshake: F) -> (F::Output, bool) {
    let asked = Arc::new(AtomicBool::new(false));
    let output = ASKED.scope(asked.clone(), handshake).await;
    (output, asked.load(Ordering::Relaxed))
}

/// Presents no certificate, but notes that one was asked for: origins that then fail do not say so
/// in any one way. One instance for all handshakes, since rustls resumes a session only with the
/// resolver that began it.
#[derive(Debug)]
struct NoCertificate;

/// Notes that a certificate was asked for. Outside a watched handshake nobody needs to know.
fn note_asked() {
    let _ = ASKED.try_with(|asked| asked.store(true, Ordering::Relaxed));
}

/// Presents this certificate, whichever issuers the origin names: the policy says that it is for
/// that host.
struct OneCertificate(Arc<CertifiedKey>);

impl fmt::Debug for OneCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneCertificate(…)")
    }
}

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        note_asked();
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        note_asked();
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
