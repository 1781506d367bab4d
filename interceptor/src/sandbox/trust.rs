//! The sandbox's trust: the system's roots and the sandbox's CA, in every format that programs
//! read.
//!
//! The files are in their own directory inside the sandbox, and the merged bundle also covers the
//! system's bundles, for programs that read no variable. Directories of hashed certificates
//! (openssl-rehash(1)) stay unchanged: a client with its own bundle often reads them too, and would
//! trust more than it was told to.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::java;

/// The directory of the files inside the sandbox.
pub(crate) const DIRECTORY: &str = "/run/sandbox-trust";
/// The system's roots and the sandbox's CA, PEM.
pub(crate) const BUNDLE: &str = "ca-bundle.pem";
/// The sandbox's CA and the operator's own roots (`--upstream-ca`), PEM, for programs that add them
/// to their roots.
pub(crate) const AUTHORITY: &str = "sandbox-ca.pem";
/// [`BUNDLE`] as a Java key store.
pub(crate) const JAVA_STORE: &str = "cacerts";

/// The bundles of various distributions; each that exists is covered.
const SYSTEM_BUNDLES: [&str; 12] = [
    // Debian, Ubuntu, Arch, Alpine, Gentoo.
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora, RHEL and their kin.
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.trust.crt",
    // OpenSSL's default file on Alpine and others, and LibreSSL's.
    "/etc/ssl/cert.pem",
    "/usr/lib/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    // openSUSE.
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    // Other locations of update-ca-certificates and p11-kit.
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// Java's roots in various distributions.
const SYSTEM_JAVA_STORES: [&str; 4] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    "/var/lib/ca-certificates/java-cacerts",
];

/// A file to write into [`DIRECTORY`].
#[derive(Debug)]
pub(crate) struct TrustFile {
    /// Its name there.
    pub(crate) name: &'static str,
    /// Its content.
    pub(crate) content: Vec<u8>,
    /// The system files it covers, resolved, each once.
    pub(crate) covers: Vec<PathBuf>,
}

/// The trust files for a sandbox that trusts `ca_pem` besides the system's roots, which are read
/// from their usual place.
pub(crate) fn files(ca_pem: &str) -> Vec<TrustFile> {
    let roots = system_roots();
    let authority = certificates(ca_pem.as_bytes());
    let mut everything = authority.clone();
    everything.extend(roots);
    vec![
        TrustFile {
            name: BUNDLE,
            content: pem(&everything).into_bytes(),
            covers: existing(&SYSTEM_BUNDLES),
        },
        TrustFile { name: AUTHORITY, content: pem(&authority).into_bytes(), covers: Vec::new() },
        TrustFile {
            name: JAVA_STORE,
            content: java::key_store(&everything),
            covers: existing(&SYSTEM_JAVA_STORES),
        },
    ]
}

/// A file found in a container's file system.
#[derive(Debug)]
pub(crate) struct FoundFile {
    /// Its path there, symlinks resolved.
    pub(crate) path: PathBuf,
    /// Its content.
    pub(crate) content: Vec<u8>,
}

/// As [`files`], for a container whose files `find` looks up; `mounted` are its own mount points.
/// The roots come from the container's first bundle, else from the host. Without `ca_pem`, the CA
/// is not known yet.
pub(crate) fn container_files(
    ca_pem: Option<&str>,
    find: impl Fn(&Path) -> Option<FoundFile>,
    mounted: &[PathBuf],
) -> Vec<TrustFile> {
    let look_up = |paths: &[&str]| -> Vec<FoundFile> {
        paths.iter().filter_map(|path| find(Path::new(path))).collect()
    };
    let covers = |paths: &[&str], found: &[FoundFile]| {
        let own = paths.iter().map(PathBuf::from).filter(|path| mounted.contains(path));
        let mut all: Vec<PathBuf> =
            found.iter().map(|found| found.path.clone()).chain(own).collect();
        all.sort();
        all.dedup();
        all
    };
    let (bundles, stores) = (look_up(&SYSTEM_BUNDLES), look_up(&SYSTEM_JAVA_STORES));
    let own =
        bundles.iter().map(|found| certificates(&found.content)).find(|roots| !roots.is_empty());
    let authority = certificates(ca_pem.unwrap_or_default().as_bytes());
    let mut everything = authority.clone();
    everything.extend(own.unwrap_or_else(system_roots));
    let (bundle, store) = (covers(&SYSTEM_BUNDLES, &bundles), covers(&SYSTEM_JAVA_STORES, &stores));
    vec![
        TrustFile { name: BUNDLE, content: pem(&everything).into_bytes(), covers: bundle },
        TrustFile { name: AUTHORITY, content: pem(&authority).into_bytes(), covers: Vec::new() },
        TrustFile { name: JAVA_STORE, content: java::key_store(&everything), covers: store },
    ]
}

/// The certificates of the first existing bundle; if there is none, of the platform's own lookup.
fn system_roots() -> Vec<CertificateDer<'static>> {
    let bundle =
        SYSTEM_BUNDLES.iter().find_map(|path| fs::read(path).ok()).map(|text| certificates(&text));
    match bundle {
        Some(found) if !found.is_empty() => found,
        _ => rustls_native_certs::load_native_certs().certs,
    }
}

/// The certificates in a PEM text; anything else is skipped.
pub(super) fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text).flatten().collect()
}

/// Encodes each certificate as PEM (RFC 7468), so that a bundle without a final newline cannot
/// swallow the next certificate.
pub(super) fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text.push_str(line);
            text.push('\n');
            rest = after;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn existing(paths: &[&str]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        let Ok(resolved) = fs::canonicalize(Path::new(path)) else { continue };
        if resolved.is_file() && !found.contains(&resolved) {
            found.push(resolved);
        }
    }
    found
}

/// The variables through which programs find trust files, with their values.
pub(crate) fn variables() -> Vec<(&'static str, String)> {
    variables_in(DIRECTORY)
}

/// As [`variables`], for files in another directory.
pub(crate) fn variables_in(directory: &str) -> Vec<(&'static str, String)> {
    let bundle = format!("{directory}/{BUNDLE}");
    let authority = format!("{directory}/{AUTHORITY}");
    let replacing = REPLACING.iter().map(|name| (*name, bundle.clone()));
    let adding = ADDING.iter().map(|name| (*name, authority.clone()));
    replacing.chain(adding).collect()
}

/// JVM options for the sandbox's key store.
pub(crate) fn java_options() -> String {
    java_options_in(DIRECTORY)
}

/// As [`java_options`], for a store in another directory.
pub(crate) fn java_options_in(directory: &str) -> String {
    format!(
        "-Djavax.net.ssl.trustStore={directory}/{JAVA_STORE} -Djavax.net.ssl.trustStoreType=JKS"
    )
}

/// Variables whose file replaces a program's roots.
const REPLACING: [&str; 22] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "NPM_CONFIG_CAFILE",
    "YARN_HTTPS_CA_FILE_PATH",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "HTTPLIB2_CA_CERTS",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "BUNDLE_SSL_CA_CERT",
    "COMPOSER_CAFILE",
    "HEX_CACERTS_PATH",
    "PERL_LWP_SSL_CA_FILE",
    "JULIA_SSL_CA_ROOTS_PATH",
    "WEBSOCKET_CLIENT_CA_BUNDLE",
    "CONAN_CACERT_PATH",
    "GIT_PROXY_SSL_CAINFO",
];

/// Variables whose file is added to a program's roots.
const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

#[cfg(test)]
mod tests {
    use super::*;

    fn authority() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["sandbox.test".into()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem()
    }

    #[test]
    fn the_bundle_holds_the_system_roots_and_the_authority() {
        let pem = authority();
        let files = files(&pem);
        let bundle = files.iter().find(|file| file.name == BUNDLE).unwrap();
        let merged = certificates(&bundle.content);
        let own = certificates(pem.as_bytes()).remove(0);
        assert!(merged.contains(&own));
        let system = system_roots();
        assert!(system.len() > 20, "this machine has {} roots", system.len());
        assert!(system.iter().all(|root| merged.contains(root)));
        let alone = files.iter().find(|file| file.name == AUTHORITY).unwrap();
        assert_eq!(certificates(&alone.content), [own]);
    }

    #[test]
    fn text_between_certificates_and_a_missing_newline_do_no_harm() {
        let first = authority();
        let glued = format!("# a comment\n{}\n\n# another\n{}", first.trim_end(), authority());
        assert_eq!(certificates(pem(&certificates(glued.as_bytes())).as_bytes()).len(), 2);
        assert!(
            certificates(b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n")
                .is_empty()
        );
    }
}
