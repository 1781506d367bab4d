//! The certificate authority (CA) of a sandbox and the TLS configurations of both sides. Only this
//! module uses rcgen.
//!
//! - [`ca`]: the sandbox's CA, its one leaf key, and the minting of leaves.
//! - [`server`]: towards the sandbox; one cached server configuration per name.
//! - [`client`]: towards origins; the verified client configurations.
//! - [`verify`]: which certificates of origins are accepted. `refusal`: why one was not, in words.
//! - [`hello`]: the ClientHello, read without consuming it.

pub(crate) mod alert;
pub(crate) mod ca;
pub(crate) mod client;
pub(crate) mod hello;
pub(crate) mod refusal;
pub(crate) mod server;
pub(crate) mod verify;

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

/// The process's one cryptographic provider: aws-lc-rs.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> = std::sync::LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // A stable sort: every suite stays, and the order of the others too.
        provider.cipher_suites.sort_by_key(|suite| !is_light(suite.suite()));
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// The suites with AES-128 and SHA-256, preferred as browsers do. With SHA-384, the key schedule
/// costs four times as much, which is more than the signature.
fn is_light(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// What can go wrong when setting up TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key or certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused a configuration.
    #[error("TLS could not be configured: {0}")]
    Configuration(#[from] rustls::Error),
    /// A file of trusted certificates could not be read.
    #[error("{path}: {reason}; give a file of PEM certificates")]
    Roots {
        /// The file.
        path: std::path::PathBuf,
        /// What was wrong with it.
        reason: String,
    },
}
