//! Keys that a service gives for other secrets: the sources that the interceptor asks over HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use super::credential::KeySource;
use super::service_url::ServiceUrl;
use super::vault::VaultSource;

/// A source that is asked over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedSource {
    /// A token endpoint.
    Oauth2(Box<Oauth2Source>),
    /// A secret of Vault or OpenBao.
    Vault(Box<VaultSource>),
}

/// A token endpoint (RFC 6749).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oauth2Source {
    /// The endpoint.
    pub token_url: ServiceUrl,
    /// What is presented there for a token.
    pub grant: Grant,
    /// The client's name there.
    pub client_id: Option<String>,
    /// The client's password.
    pub client_secret: Option<KeySource>,
    /// How the client presents its password.
    pub client_auth: ClientAuth,
    /// The scope asked for.
    pub scope: Option<String>,
    /// How long the endpoint may take.
    pub timeout: Duration,
    /// How long a token lasts, if the endpoint does not say so.
    pub ttl: Duration,
}

/// What is presented for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The client's own password (RFC 6749 section 4.4).
    ClientCredentials,
    /// A refresh token (RFC 6749 section 6).
    RefreshToken(KeySource),
    /// A signed assertion (RFC 7523 section 2.1).
    JwtBearer(Assertion),
}

/// An assertion that is signed for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// The private key, PEM.
    pub key: KeySource,
    /// The key's name, `kid`.
    pub key_id: Option<String>,
    /// For whom, `sub`; the client if it is left out.
    pub subject: Option<String>,
    /// To whom, `aud`; the endpoint if it is left out.
    pub audience: Option<String>,
}

/// How a client presents its password (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// In `authorization: Basic`.
    #[default]
    Basic,
    /// In the body.
    Post,
}

impl FetchedSource {
    /// The fields of all kinds of sources that hold secrets.
    pub const SECRETS: [&str; 5] =
        ["client_secret", "refresh_token", "assertion_key", "token", "secret_id"];
    /// How long a service may take unless the source says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);

    /// What kind of source it is: its field in the document.
    pub fn kind(&self) -> &'static str {
        match self {
            FetchedSource::Oauth2(_) => "oauth2",
            FetchedSource::Vault(_) => "vault",
        }
    }

    /// The service that is asked.
    pub fn url(&self) -> &ServiceUrl {
        match self {
            FetchedSource::Oauth2(source) => &source.token_url,
            FetchedSource::Vault(source) => &source.address,
        }
    }

    /// How long the service may take.
    pub fn timeout(&self) -> Duration {
        match self {
            FetchedSource::Oauth2(source) => source.timeout,
            FetchedSource::Vault(source) => source.timeout,
        }
    }

    /// The secrets that it presents, by their fields.
    pub fn inputs(&self) -> BTreeMap<&'static str, &KeySource> {
        let mut inputs = BTreeMap::new();
        match self {
            FetchedSource::Vault(source) => inputs.extend([source.input()]),
            FetchedSource::Oauth2(source) => {
                let secret = source.client_secret.iter();
                inputs.extend(secret.map(|secret| ("client_secret", secret)));
                match &source.grant {
                    Grant::ClientCredentials => {}
                    Grant::RefreshToken(token) => drop(inputs.insert("refresh_token", token)),
                    Grant::JwtBearer(assertion) => {
                        inputs.insert("assertion_key", &assertion.key);
                    }
                }
            }
        }
        inputs
    }
}
