//! Keys that Vault or OpenBao keeps, or makes.

use std::path::PathBuf;
use std::time::Duration;

use super::credential::KeySource;
use super::service_url::ServiceUrl;

/// A secret of a Vault or OpenBao server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSource {
    /// The server.
    pub address: ServiceUrl,
    /// The secret's path in its API, without `/v1/`.
    pub path: String,
    /// The field of the secret that holds the key.
    pub field: String,
    /// What the server is asked as.
    pub auth: VaultAuth,
    /// A file with the only roots (PEM) that the server is verified against.
    pub ca: Option<PathBuf>,
    /// How long the server may take for all that one key needs.
    pub timeout: Duration,
    /// How long a key lasts that has no lease.
    pub ttl: Duration,
}

/// What a server is asked as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// By a token.
    Token(KeySource),
    /// As an application.
    AppRole {
        /// Which one.
        role_id: String,
        /// Its secret id.
        secret_id: KeySource,
        /// Whether that is the token of a response that holds the secret id.
        is_wrapped: bool,
    },
}

impl VaultSource {
    /// The fields of `auth` that hold secrets.
    pub const SECRETS: [&'static str; 2] = ["token", "secret_id"];

    /// The secret that it presents, by its field.
    pub(super) fn input(&self) -> (&'static str, &KeySource) {
        match &self.auth {
            VaultAuth::Token(token) => ("token", token),
            VaultAuth::AppRole { secret_id, .. } => ("secret_id", secret_id),
        }
    }
}
