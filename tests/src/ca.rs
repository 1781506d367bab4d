//! The lab's CA, which stands in for public CAs: certificates for any name, and a table of
//! certificates that no client may accept (attack T4).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A root, passed to the product with `--upstream-ca`, and the one leaf key of everything it signs.
#[derive(Debug)]
pub struct Ca {
    root: CertifiedIssuer<'static, KeyPair>,
    leaf_key: KeyPair,
    /// The names that clients of the lab's origins asked for in their handshakes.
    asked: Mutex<BTreeSet<String>>,
}

/// A flaw of an origin's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Its validity ended years ago.
    Expired,
    /// Its validity begins in the far future.
    NotYetValid,
    /// It names another host.
    WrongHost,
    /// It is its own issuer.
    SelfSigned,
    /// Its root is not trusted.
    UntrustedRoot,
    /// Its issuer is neither sent nor known.
    MissingIntermediate,
    /// The name is only in its subject, not in its alternative names.
    CommonNameOnly,
    /// It may be used by clients only.
    ClientOnly,
    /// It names `*`.
    BareWildcard,
    /// Its wildcard covers part of a label.
    PartialWildcard,
    /// Its wildcard covers a whole top-level domain.
    ShallowWildcard,
    /// Name constraints allow its issuer other names only.
    NameConstraint,
    /// Its issuer is not a CA.
    IssuerIsNoAuthority,
}

impl Flaw {
    /// Every flaw, for table-driven tests.
    pub const ALL: [Flaw; 13] = [
        Flaw::Expired,
        Flaw::NotYetValid,
        Flaw::WrongHost,
        Flaw::SelfSigned,
        Flaw::UntrustedRoot,
        Flaw::MissingIntermediate,
        Flaw::CommonNameOnly,
        Flaw::ClientOnly,
        Flaw::BareWildcard,
        Flaw::PartialWildcard,
        Flaw::ShallowWildcard,
        Flaw::NameConstraint,
        Flaw::IssuerIsNoAuthority,
    ];
}

impl Ca {
    /// Makes a fresh root.
    pub fn new() -> Ca {
        let root = issuer("interceptor lab root", None, |_| {});
        let leaf_key = KeyPair::generate().expect("a key pair");
        Ca { root, leaf_key, asked: Mutex::default() }
    }

    /// The names that clients of the lab's origins asked for in their handshakes.
    pub fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().expect("no origin panicked").clone()
    }

    /// The root's certificate, for `--upstream-ca`.
    pub fn pem(&self) -> String {
        self.root.pem()
    }

    /// A chain and key for `name`.
    pub fn certificate(&self, name: &str) -> Arc<CertifiedKey> {
        let params = leaf_params(&[name], name);
        self.signed(&params, &self.root, vec![])
    }

    /// A certificate and its key for `name`, both as PEM, for servers that are not the lab's own.
    pub fn certificate_pem(&self, name: &str) -> (String, String) {
        self.certificate_pem_for(&[name])
    }

    /// The same for several names.
    pub fn certificate_pem_for(&self, names: &[&str]) -> (String, String) {
        let certificate = leaf_params(names, names[0]).signed_by(&self.leaf_key, &self.root);
        (certificate.expect("a certificate").pem(), self.leaf_key.serialize_pem())
    }

    /// A certificate for a client of this name and its own key, both as PEM.
    pub fn client_pem(&self, name: &str) -> (String, String) {
        self.client_pem_until(name, 4000)
    }

    /// The same for one that has expired.
    pub fn expired_client_pem(&self, name: &str) -> (String, String) {
        self.client_pem_until(name, 2020)
    }

    fn client_pem_until(&self, name: &str, year: i32) -> (String, String) {
        let mut params = leaf_params(&[], name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key pair");
        let certificate = params.signed_by(&key, &self.root).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// A chain and key for `name` with `flaw`.
    pub fn flawed(&self, name: &str, flaw: Flaw) -> Arc<CertifiedKey> {
        let mut params = leaf_params(&[name], name);
        match flaw {
            Flaw::Expired => {
                params.not_before = date_time_ymd(2019, 1, 1);
                params.not_after = date_time_ymd(2020, 1, 1);
            }
            Flaw::NotYetValid => {
                params.not_before = date_time_ymd(2999, 1, 1);
                params.not_after = date_time_ymd(3000, 1, 1);
            }
            Flaw::WrongHost => params = leaf_params(&["elsewhere.test"], name),
            Flaw::SelfSigned => {
                let certificate = params.self_signed(&self.leaf_key).expect("a certificate");
                return self.certified(vec![certificate.der().clone()]);
            }
            Flaw::UntrustedRoot => return Ca::new().certificate(name),
            Flaw::MissingIntermediate => {
                let intermediate = issuer("intermediate", Some(&self.root), |_| {});
                return self.signed(&params, &intermediate, vec![]);
            }
            Flaw::CommonNameOnly => params = leaf_params(&[], name),
            Flaw::ClientOnly => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]
            }
            Flaw::BareWildcard => params = leaf_params(&["*"], name),
            Flaw::PartialWildcard => {
                let (label, rest) = name.split_once('.').expect("a name with two labels");
                params = leaf_params(&[&format!("{}*.{rest}", &label[..1])], name);
            }
            Flaw::ShallowWildcard => {
                let top = name.rsplit_once('.').expect("a name with two labels").1;
                params = leaf_params(&[&format!("*.{top}")], name);
            }
            Flaw::NameConstraint => {
                let intermediate = issuer("constrained", Some(&self.root), |params| {
                    params.name_constraints = Some(NameConstraints {
                        permitted_subtrees: vec![GeneralSubtree::DnsName("elsewhere.test".into())],
                        excluded_subtrees: vec![],
                    });
                });
                let chain = vec![intermediate.der().clone()];
                return self.signed(&params, &intermediate, chain);
            }
            Flaw::IssuerIsNoAuthority => {
                let intermediate = issuer("not a CA", Some(&self.root), |params| {
                    params.is_ca = IsCa::ExplicitNoCa
                });
                let chain = vec![intermediate.der().clone()];
                return self.signed(&params, &intermediate, chain);
            }
        }
        self.signed(&params, &self.root, vec![])
    }

    fn signed(
        &self,
        params: &CertificateParams,
        by: &CertifiedIssuer<'static, KeyPair>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Arc<CertifiedKey> {
        let certificate = params.signed_by(&self.leaf_key, by).expect("a certificate");
        let mut whole = vec![certificate.der().clone()];
        whole.extend(chain);
        self.certified(whole)
    }

    fn certified(&self, chain: Vec<CertificateDer<'static>>) -> Arc<CertifiedKey> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a usable key");
        Arc::new(CertifiedKey::new(chain, key))
    }
}

impl Default for Ca {
    fn default() -> Ca {
        Ca::new()
    }
}

fn issuer(
    name: &str,
    by: Option<&CertifiedIssuer<'static, KeyPair>>,
    change: impl FnOnce(&mut CertificateParams),
) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    let key = KeyPair::generate().expect("a key pair");
    match by {
        None => CertifiedIssuer::self_signed(params, key),
        Some(parent) => CertifiedIssuer::signed_by(params, key, parent),
    }
    .expect("an issuer")
}

fn leaf_params(names: &[&str], common: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names a certificate can carry");
    params.distinguished_name = common_name(common);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Chooses the certificate by the name in the ClientHello: minted on first use, or flawed where a
/// flaw is set for it.
#[derive(Debug)]
pub(crate) struct ByName {
    ca: Arc<Ca>,
    flaws: Vec<(String, Flaw)>,
    minted: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

impl ByName {
    pub(crate) fn new(ca: Arc<Ca>, flaws: Vec<(String, Flaw)>) -> ByName {
        ByName { ca, flaws, minted: Mutex::new(HashMap::new()) }
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A client without SNI connected by address, and the lab's origins have only one.
        let name = hello.server_name().unwrap_or("127.0.0.1").to_owned();
        if hello.server_name().is_some() {
            self.ca.asked.lock().ok()?.insert(name.clone());
        }
        let mut minted = self.minted.lock().ok()?;
        let certificate = minted.entry(name.clone()).or_insert_with(|| {
            match self.flaws.iter().find(|(flawed, _)| *flawed == name) {
                Some((_, flaw)) => self.ca.flawed(&name, *flaw),
                None => self.ca.certificate(&name),
            }
        });
        Some(certificate.clone())
    }
}
