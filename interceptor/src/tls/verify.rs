//! Verification of origins' certificates: rustls's own, with one addition. A certificate given by
//! `--upstream-ca` is also trusted as an end-entity certificate. `openssl req -x509` makes
//! self-signed ones with `CA:TRUE`, which RFC 5280 section 4.2.1.9 does not allow at the end of a
//! path, but an operator who names exactly that certificate means its server.
//!
//! Only identical bytes match, and only when webpki rejected the certificate for its issuer or for
//! being a CA's. webpki has checked its validity period before that; the name is checked here, and
//! the handshake proves that the server has the key.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::ca::to_pem;
use super::provider;

/// Verifies against roots; `None` if there are none.
type Roots = Option<Arc<WebPkiServerVerifier>>;

/// Verifies the certificates of origins. It has no state.
pub(crate) struct CertificateVerifier {
    /// Made for the first origin: to read a system's roots takes longer than a sandbox's start.
    roots: LazyLock<Roots, Box<dyn FnOnce() -> Roots + Send>>,
    /// The certificates given by the operator, as DER.
    named: HashSet<CertificateDer<'static>>,
    given_pem: Arc<str>,
    /// Asked about what these roots do not know.
    base: Option<Arc<CertificateVerifier>>,
}

impl fmt::Debug for CertificateVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CertificateVerifier").finish_non_exhaustive()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

impl CertificateVerifier {
    /// Trusts what `roots` returns, and the certificates that were `given`.
    pub(super) fn new(
        roots: impl FnOnce() -> Roots + Send + 'static,
        given: Vec<CertificateDer<'static>>,
    ) -> CertificateVerifier {
        let given_pem: String = given.iter().map(|certificate| to_pem(certificate)).collect();
        let roots: Box<dyn FnOnce() -> Roots + Send> = Box::new(roots);
        CertificateVerifier {
            roots: LazyLock::new(roots),
            named: given.into_iter().collect(),
            given_pem: given_pem.into(),
            base: None,
        }
    }

    /// Trusts these roots and certificates too, beside what another trusts.
    pub(super) fn beside(
        base: Arc<CertificateVerifier>,
        roots: Arc<WebPkiServerVerifier>,
        given: Vec<CertificateDer<'static>>,
    ) -> CertificateVerifier {
        let own = CertificateVerifier::new(move || Some(roots), given);
        let given_pem = [&*base.given_pem, &*own.given_pem].concat().into();
        CertificateVerifier { given_pem, base: Some(base), ..own }
    }

    /// Reads the roots now, so that the first origin does not wait for it.
    pub(crate) fn warm(&self) {
        LazyLock::force(&self.roots);
    }

    /// The certificates given by the operator, as PEM.
    pub(crate) fn given_pem(&self) -> Arc<str> {
        self.given_pem.clone()
    }
}

/// Whether a certificate was rejected only for its issuer or signature, or for being a CA's.
fn is_about_its_issuer(error: &Error) -> bool {
    let Error::InvalidCertificate(error) = error else { return false };
    match error {
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => true,
        CertificateError::Other(other) => is_ca_certificate(other),
        _ => false,
    }
}

/// Whether a certificate was rejected for being a CA's.
pub(super) fn is_ca_certificate(error: &rustls::OtherError) -> bool {
    matches!(error.0.downcast_ref::<webpki::Error>(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &*self.roots else {
            return Err(CertificateError::UnknownIssuer.into());
        };
        let verified =
            roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if is_about_its_issuer(&error) && self.named.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            Err(error) if is_about_its_issuer(&error) => match &self.base {
                None => Err(error),
                Some(base) => base.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                ),
            },
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
    use rustls::RootCertStore;

    use super::super::provider;
    use super::*;

    /// A certificate as made by `openssl req -x509`, valid between these years.
    fn self_signed(name: &str, years: (i32, i32), is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn any_ca() -> IsCa {
        IsCa::Ca(BasicConstraints::Unconstrained)
    }

    fn verifier(given: &[&CertificateDer<'static>]) -> CertificateVerifier {
        let mut roots = RootCertStore::empty();
        for certificate in given {
            roots.add((*certificate).clone()).unwrap();
        }
        let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .unwrap();
        CertificateVerifier::new(
            move || Some(roots),
            given.iter().map(|certificate| (*certificate).clone()).collect(),
        )
    }

    /// Verifies as of the year 2026.
    fn verify(
        verifier: &CertificateVerifier,
        certificate: &CertificateDer<'_>,
        name: &str,
    ) -> Result<(), Error> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(certificate, &[], &name, &[], now).map(|_| ())
    }

    #[test]
    fn t4_a_given_certificate_is_trusted_for_its_own_name_only() {
        const NAME: &str = "git.corp.test";
        let own = self_signed(NAME, (2020, 2040), any_ca());
        let same_name = self_signed(NAME, (2020, 2040), any_ca());
        let expired = self_signed(NAME, (2010, 2020), any_ca());
        let early = self_signed(NAME, (2040, 2050), any_ca());
        let leaf = self_signed(NAME, (2020, 2040), IsCa::ExplicitNoCa);
        let given = verifier(&[&own, &expired, &early, &leaf]);
        verify(&given, &own, NAME).unwrap();
        verify(&given, &leaf, NAME).unwrap();
        let refused = |certificate, name| match verify(&given, certificate, name) {
            Err(Error::InvalidCertificate(error)) => error,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            refused(&own, "other.test"),
            CertificateError::NotValidForNameContext { .. }
        ));
        assert!(matches!(refused(&expired, NAME), CertificateError::ExpiredContext { .. }));
        assert!(matches!(refused(&early, NAME), CertificateError::NotValidYetContext { .. }));
        // Same name and issuer, but not the given certificate.
        assert!(matches!(refused(&same_name, NAME), CertificateError::Other(_)));
        let mut changed = own.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert!(verify(&given, &CertificateDer::from(changed), NAME).is_err());
    }

    #[test]
    fn t4_roots_beside_others_add_to_them_and_take_nothing_away() {
        let [system, own, stranger] =
            ["a.test", "b.test", "c.test"].map(|name| self_signed(name, (2020, 2040), any_ca()));
        let base = Arc::new(verifier(&[&system]));
        let mut roots = RootCertStore::empty();
        roots.add(own.clone()).unwrap();
        let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let both = CertificateVerifier::beside(base, roots.build().unwrap(), vec![own.clone()]);
        verify(&both, &system, "a.test").unwrap();
        verify(&both, &own, "b.test").unwrap();
        for (certificate, name) in [(&stranger, "c.test"), (&own, "a.test"), (&system, "b.test")] {
            assert!(verify(&both, certificate, name).is_err(), "{name}");
        }
        assert_eq!(both.given_pem().matches("BEGIN CERTIFICATE").count(), 2);
    }

    #[test]
    fn t4_a_given_leaf_needs_no_issuer_and_vouches_for_no_sibling() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = any_ca();
        params.distinguished_name.push(rcgen::DnType::CommonName, "issuer");
        let issuer =
            rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        let given = verifier(&[&leaf]);
        verify(&given, &leaf, "a.test").unwrap();
        assert!(verify(&given, &leaf, "b.test").is_err());
        let sibling = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let sibling = sibling.signed_by(&key, &issuer).unwrap().der().clone();
        assert!(verify(&given, &sibling, "a.test").is_err());
    }
}
