//! How the lab's client connects: with the sandbox's resolver, trusting the file that
//! `SSL_CERT_FILE` names.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connects to `HOST:PORT`.
///
/// # Errors
/// If the name does not resolve or nothing answers.
pub async fn connect(to: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Shakes hands as `sni`, offering these ALPN names.
///
/// # Errors
/// If the trust file cannot be read or the handshake fails.
pub async fn handshake(
    stream: TcpStream,
    sni: &str,
    alpn: &[String],
) -> Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(config(alpn)?));
    let name =
        ServerName::try_from(sni.to_owned()).with_context(|| format!("{sni} as a name for TLS"))?;
    connector.connect(name, stream).await.with_context(|| format!("TLS with {sni}"))
}

/// A configuration that trusts only the file that `SSL_CERT_FILE` names.
///
/// # Errors
/// When that file cannot be read.
pub fn config(alpn: &[String]) -> Result<ClientConfig> {
    let file = std::env::var("SSL_CERT_FILE").context("SSL_CERT_FILE is not set")?;
    let pem = std::fs::read(&file).with_context(|| file.clone())?;
    trusting(&pem, alpn).with_context(|| file)
}

/// A configuration that trusts these certificates alone.
///
/// # Errors
/// When they are not PEM.
pub fn trusting(pem: &[u8], alpn: &[String]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        // System bundles contain the odd certificate that this library cannot use.
        let _ = roots.add(certificate?);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}
