//! Client certificates and their private keys in PEM (RFC 7468). A file may hold both, as some
//! tools write them, and comments; what is kept is what was asked for.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use smallvec::SmallVec;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::{Zeroize as _, Zeroizing};

/// The most bytes of a certificate with its issuers, and of a private key.
pub(super) const LONGEST: usize = 64 * 1024;

const CERTIFICATE: &str = "CERTIFICATE";
/// The labels of private keys: PKCS #8, PKCS #1 and SEC 1.
const KEYS: [&str; 3] = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"];
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// What is wrong with a client certificate or its private key. Never shows any part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It holds no certificate.
    #[error("has no certificate in it (PEM)")]
    NoCertificate,
    /// It holds no private key.
    #[error("has no private key in it (PEM)")]
    NoKey,
    /// It holds several private keys.
    #[error("has more than one private key in it; give a file with one")]
    Keys,
    /// The private key needs a passphrase.
    #[error("is encrypted, and nobody is there to enter a passphrase: decrypt it (openssl pkey)")]
    Encrypted,
    /// It is PEM of something else.
    #[error("cannot be read: a certificate or key in it is malformed")]
    Malformed,
    /// It is longer than any.
    #[error("is longer than 64 KiB")]
    TooLong,
    /// TLS has no use for the private key.
    #[error("is of a kind that is not supported: RSA, ECDSA (P-256, P-384, P-521) and Ed25519 are")]
    Unsupported,
    /// It is another certificate's.
    #[error("is not the private key of the credential's certificate")]
    Mismatch,
    /// The certificate has expired.
    #[error("holds a certificate that expired on {}", .0.strftime("%Y-%m-%d"))]
    Expired(Timestamp),
}

impl CertificateProblem {
    /// Whether it is the private key's rather than the certificate's.
    pub(super) fn is_of_key(self) -> bool {
        use CertificateProblem::{Encrypted, Keys, Mismatch, NoKey, Unsupported};
        matches!(self, NoKey | Keys | Encrypted | Unsupported | Mismatch)
    }
}

/// The sections of a text with their labels, from the first dash to the last.
fn sections(text: &str) -> impl Iterator<Item = (&str, &str)> {
    const BEGIN: &str = "-----BEGIN ";
    text.match_indices(BEGIN).filter_map(|(at, _)| {
        let section = &text[at..];
        let (label, _) = section[BEGIN.len()..].split_once("-----")?;
        let end = format!("-----END {label}-----");
        let length = section.find(&end)? + end.len();
        Some((label, &section[..length]))
    })
}

fn text(text: &[u8]) -> Result<&str, CertificateProblem> {
    if text.len() > LONGEST {
        return Err(CertificateProblem::TooLong);
    }
    std::str::from_utf8(text).map_err(|_| CertificateProblem::Malformed)
}

/// The certificates in a text, and nothing else of it.
pub(super) fn certificates(given: &[u8]) -> Result<Zeroizing<String>, CertificateProblem> {
    let mut kept = Zeroizing::new(String::with_capacity(given.len()));
    for (_, section) in sections(text(given)?).filter(|(label, _)| *label == CERTIFICATE) {
        kept.push_str(section);
        kept.push('\n');
    }
    if kept.is_empty() {
        return Err(CertificateProblem::NoCertificate);
    }
    chain(&kept)?;
    Ok(kept)
}

/// The private key in a text, and nothing else of it.
pub(super) fn private_key(given: &[u8]) -> Result<Zeroizing<String>, CertificateProblem> {
    let given = text(given)?;
    let mut keys = sections(given).filter(|(label, _)| KEYS.contains(label));
    let Some((_, key)) = keys.next() else {
        let is_encrypted = sections(given).any(|(label, _)| label == ENCRYPTED);
        let problem =
            if is_encrypted { CertificateProblem::Encrypted } else { CertificateProblem::NoKey };
        return Err(problem);
    };
    if keys.next().is_some() {
        return Err(CertificateProblem::Keys);
    }
    // The form of OpenSSL before PKCS #8.
    if key.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateProblem::Encrypted);
    }
    der(key)?.zeroize();
    Ok(Zeroizing::new(key.to_owned()))
}

fn der(key: &str) -> Result<PrivateKeyDer<'static>, CertificateProblem> {
    PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CertificateProblem::Malformed)
}

fn chain(certificates: &str) -> Result<Vec<CertificateDer<'static>>, CertificateProblem> {
    let read = CertificateDer::pem_slice_iter(certificates.as_bytes());
    read.collect::<Result<_, _>>().map_err(|_| CertificateProblem::Malformed)
}

/// What an answer is searched for: the text, as files and Kubernetes' secrets hold it, and the key
/// itself, whose base64 is found in lines of any length.
pub(super) fn searched(key: &str) -> SmallVec<[Cow<'_, [u8]>; 2]> {
    let mut searched = SmallVec::new();
    searched.push(Cow::Borrowed(key.as_bytes()));
    if let Ok(mut der) = der(key) {
        searched.push(Cow::Owned(der.secret_der().to_vec()));
        der.zeroize();
    }
    searched
}

/// A certificate that can be presented.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The certificate and its private key, for TLS.
    pub(crate) certified: Arc<CertifiedKey>,
    /// When the certificate expires.
    pub(crate) until: Timestamp,
}

impl Identity {
    /// From a certificate and the private key for it.
    ///
    /// # Errors
    /// If one is not the other's, or cannot be used.
    pub(super) fn of(certificates: &str, key: &str) -> Result<Identity, CertificateProblem> {
        let chain = chain(certificates)?;
        let first = chain.first().ok_or(CertificateProblem::Malformed)?;
        let (_, parsed) =
            X509Certificate::from_der(first).map_err(|_| CertificateProblem::Malformed)?;
        let until = Timestamp::from_second(parsed.validity().not_after.timestamp());
        let until = until.map_err(|_| CertificateProblem::Malformed)?;
        let mut der = der(key)?;
        let signing = any_supported_type(&der);
        der.zeroize();
        let certified =
            CertifiedKey::new(chain, signing.map_err(|_| CertificateProblem::Unsupported)?);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => return Err(CertificateProblem::Mismatch),
            Err(_) => return Err(CertificateProblem::Malformed),
        }
        Ok(Identity { certified: Arc::new(certified), until })
    }

    /// The same, unless the certificate has expired.
    ///
    /// # Errors
    /// [`CertificateProblem::Expired`]
    pub(super) fn unexpired(self) -> Result<Identity, CertificateProblem> {
        if self.is_valid() { Ok(self) } else { Err(CertificateProblem::Expired(self.until)) }
    }

    /// Whether the certificate has not expired.
    pub(crate) fn is_valid(&self) -> bool {
        Timestamp::now() <= self.until
    }
}
