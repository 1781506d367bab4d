//! What bundles are called.

use std::ffi::OsStr;
use std::path::Path;

/// Known bundles of packages, below a package directory.
pub(super) const KNOWN: [&str; 14] = [
    "certifi/cacert.pem",
    "pip/_vendor/certifi/cacert.pem",
    "pip/_vendor/requests/cacert.pem",
    "pipenv/patched/pip/_vendor/certifi/cacert.pem",
    "conda/_vendor/certifi/cacert.pem",
    "requests/cacert.pem",
    "botocore/cacert.pem",
    "botocore/vendored/requests/cacert.pem",
    "awscli/botocore/cacert.pem",
    "stripe/data/ca-certificates.crt",
    "grpc/_cython/_credentials/roots.pem",
    "httplib2/cacerts.txt",
    "dropbox/trusted-certs.crt",
    "braintree/ssl/api_braintreegateway_com.ca.crt",
];

/// File endings of bundles, and words of which a bundle's name contains at least one.
pub(super) const ENDINGS: [&str; 4] = [".pem", ".crt", ".cer", "cacerts.txt"];
pub(super) const WORDS: [&str; 6] = ["cacert", "ca-", "ca_", "root", "bundle", "trust"];

/// Whether a path looks like a bundle's.
pub(super) fn is_bundle(path: &Path) -> bool {
    is_known(path) || path.file_name().is_some_and(is_name)
}

pub(super) fn is_known(path: &Path) -> bool {
    KNOWN.iter().any(|known| path.ends_with(known))
}

fn is_name(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
        && WORDS.iter().any(|word| name.contains(word))
}
