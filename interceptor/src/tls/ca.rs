//! The certificate authority (CA) of one sandbox: created with it, held only in memory, dropped
//! with it (attack T6, T7).
//!
//! It can sign only end-entity certificates (path length 0, RFC 5280 section 4.2.1.9). Every leaf
//! has exactly one name, its own serial number, and the sandbox's one leaf key, never the CA's.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use interceptor_policy::Host;
use zeroize::Zeroizing;

use super::TlsError;

/// Certificates are valid from a day ago, so that a client whose clock is slow accepts them (T13).
const BACKDATED: Duration = Duration::from_secs(24 * 60 * 60);
/// Long enough for a sandbox that lives for years; in practice it ends with the sandbox (O8).
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Below the 398 days that Apple's and Chromium's verifiers accept. Leaves are renewed long before
/// (see `server`).
const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A sandbox's CA and its one leaf key.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    leaf_key: KeyPair,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ca").finish_non_exhaustive()
    }
}

impl Ca {
    /// Creates a CA for the sandbox `id`: two ECDSA P-256 keys and a self-signed certificate.
    pub(crate) fn new(id: &str) -> Result<Ca, TlsError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = base(CA_LIFE)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "interceptor");
        // At most 64 characters (RFC 5280, ub-common-name); ids are ASCII.
        name.push(DnType::CommonName, format!("interceptor sandbox {id:.44}"));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Ca {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
            leaf_key: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
        })
    }

    /// Restores the CA of a sandbox handed over by another process, from what
    /// [`Self::certificate_der`] and [`Self::key_der`] returned there. Its leaves get a new key.
    ///
    /// # Errors
    /// If either is invalid, or they do not match.
    pub(crate) fn restore(certificate: &[u8], key: &[u8]) -> Result<Ca, TlsError> {
        let key = PrivatePkcs8KeyDer::from(key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = CertificateDer::from(certificate.to_vec());
        if !contains(&certificate, key.public_key_raw()) {
            return Err(rcgen::Error::CouldNotParseKeyPair.into());
        }
        let pem = to_pem(&certificate);
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let leaf_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        Ok(Ca { issuer, certificate, pem, leaf_key })
    }

    /// The certificate as DER.
    pub(crate) fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The CA's private key as PKCS #8, only for the process that takes the sandbox over.
    pub(crate) fn key_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.issuer.key().serialize_der())
    }

    /// The public certificate as PEM. Nothing else of the CA ever leaves the proxy's memory.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// Mints a leaf for one name. Returns the chain to present, leaf first.
    pub(crate) fn mint(&self, host: &Host) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let mut params = base(LEAF_LIFE)?;
        let text = host.to_string();
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
            Host::Ip(address) => SanType::IpAddress(*address),
        }];
        let mut name = DistinguishedName::new();
        // A common name has at most 64 characters (RFC 5280, ub-common-name); clients use the
        // subject alternative name.
        name.push(
            DnType::CommonName,
            if text.len() <= 64 { text } else { "interceptor".to_owned() },
        );
        params.distinguished_name = name;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(&self.leaf_key, &self.issuer)?;
        Ok(vec![leaf.der().clone(), self.certificate.clone()])
    }

    /// The private key of every leaf of this sandbox.
    pub(crate) fn leaf_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()))
    }
}

/// Whether a certificate contains these bytes, such as its public key.
fn contains(certificate: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && certificate.windows(part.len()).any(|window| window == part)
}

/// A certificate as PEM (RFC 7468).
pub(super) fn to_pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Sets the validity and a random serial number. rcgen's default serial is a hash of the key, so
/// all leaves here would have the same, and NSS refuses two certificates with one issuer and
/// serial.
fn base(life: Duration) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    // Positive and not zero-padded (RFC 5280 section 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn a_restored_ca_mints_leaves_that_clients_of_the_original_trust() {
        let first = Ca::new("sb-1").unwrap();
        let restored = Ca::restore(first.certificate_der(), &first.key_der()).unwrap();
        assert_eq!(
            restored.pem().split_whitespace().collect::<String>(),
            first.pem().split_whitespace().collect::<String>()
        );
        let chain = restored.mint(&Host::parse("api.example.com").unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(first.certificate_der().to_vec())).unwrap();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), super::super::provider());
        let name = ServerName::try_from("api.example.com").unwrap();
        verifier
            .build()
            .unwrap()
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
            .unwrap();
    }

    #[test]
    fn a_key_and_a_certificate_that_do_not_match_are_refused() {
        let (one, other) = (Ca::new("sb-1").unwrap(), Ca::new("sb-2").unwrap());
        assert!(Ca::restore(one.certificate_der(), &other.key_der()).is_err());
        assert!(Ca::restore(b"", &one.key_der()).is_err());
        assert!(Ca::restore(one.certificate_der(), b"").is_err());
    }
}
