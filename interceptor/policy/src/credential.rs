//! A credential as a policy declares it: its hosts, how requests present it, its placeholder, and
//! where its key is. The owner of the policy reads the key; nothing here does.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::aws::AwsKeys;
use super::fetched::FetchedSource;
use super::host::HostName;
use super::network_rule::Target;
use super::strip::Keeps;

/// A credential of a policy.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its name in the document.
    pub name: String,
    /// The catalogue service it is for.
    pub service: Option<String>,
    /// The hosts it governs; never empty.
    pub hosts: Vec<CredentialHost>,
    /// How a request may present it. The first is used if the client presented none. Never empty.
    pub forms: Vec<Form>,
    /// The variables that carry the placeholder into the sandbox.
    pub env: Vec<String>,
    /// The variables that set its clients' base URL, each with the path its value ends in.
    pub base_url_env: BTreeMap<String, String>,
    /// The shape of its placeholder.
    pub placeholder: PlaceholderShape,
    /// Where the real key is; without one, where the private key of its certificate is.
    pub key: KeySource,
    /// The JSON pointer to the key in the document.
    pub key_pointer: String,
    /// The certificate that is presented to its hosts in TLS.
    pub client_cert: Option<ClientCert>,
    /// Whether the key may be sent without TLS.
    pub allow_plaintext: bool,
    /// Whether cookies pass on its hosts, in both directions.
    pub cookies: bool,
    /// Headers and parameters its API needs, although their names authenticate elsewhere.
    pub keeps: Keeps,
}

impl Credential {
    /// Whether requests carry its key, rather than its certificate being all it has.
    pub fn has_key(&self) -> bool {
        self.client_cert.as_ref().is_none_or(|certificate| !certificate.is_alone)
    }

    /// Where its secrets are, each with the JSON pointer to it.
    pub fn sources(&self) -> impl Iterator<Item = (&KeySource, &str)> {
        let key = (&self.key, self.key_pointer.as_str());
        let certificate = self.client_cert.iter().flat_map(|certificate| {
            let key = (&certificate.key, certificate.key_pointer.as_str());
            let key = (!certificate.is_alone).then_some(key);
            key.into_iter()
                .chain([(&certificate.certificate, certificate.certificate_pointer.as_str())])
        });
        std::iter::once(key).chain(certificate)
    }
}

/// A certificate that is presented in TLS (RFC 8446 section 4.4.2), with its private key.
#[derive(Clone, Debug)]
pub struct ClientCert {
    /// Where the certificate is, followed by those of its issuers.
    pub certificate: KeySource,
    /// The JSON pointer to it in the document.
    pub certificate_pointer: String,
    /// Where the private key is.
    pub key: KeySource,
    /// The JSON pointer to it in the document.
    pub key_pointer: String,
    /// Whether the credential has no other key.
    pub is_alone: bool,
}

/// A host that a credential governs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialHost {
    /// A name, `*.name` or one address; never `*` or a larger network.
    pub target: Target,
    /// The only port, if the document names one.
    pub port: Option<u16>,
}

impl CredentialHost {
    /// The name, if it is a single name.
    pub fn name(&self) -> Option<&HostName> {
        match &self.target {
            Target::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// How a request carries a credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A header whose value is prefix, key, suffix.
    Header {
        /// The header's name, in lower case.
        name: String,
        /// The text before the key, e.g. `Bearer `.
        prefix: String,
        /// The text after the key.
        suffix: String,
    },
    /// `authorization: Basic` of `username:key` (RFC 7617).
    Basic {
        /// The user name. Empty: the client's own. [`Form::KEY`]: the key is the user name, and the
        /// password is empty.
        username: String,
    },
    /// A query parameter.
    Query {
        /// Its name.
        name: String,
    },
    /// The request is signed with it (AWS Signature Version 4).
    SigV4,
}

impl Form {
    /// Marks the key's position in a form.
    pub const KEY: &str = "{key}";

    /// The query parameter that carries it.
    pub fn query(&self) -> Option<&str> {
        match self {
            Form::Query { name } => Some(name),
            Form::Header { .. } | Form::Basic { .. } | Form::SigV4 => None,
        }
    }
}

/// The alphabet of a placeholder's random part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alphabet {
    /// `A-Z`, `a-z` and `0-9`.
    Alphanumeric,
    /// `0-9` and `a-f`.
    LowerHex,
    /// `A-Z` and `2-7` (RFC 4648 section 6).
    Base32,
}

impl Alphabet {
    /// The characters.
    pub const fn characters(self) -> &'static [u8] {
        match self {
            Alphabet::Alphanumeric => {
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
            }
            Alphabet::LowerHex => b"0123456789abcdef",
            Alphabet::Base32 => b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
        }
    }
}

/// The shape of a placeholder: the prefix, then random characters, then the suffix. The prefix
/// contains `proxy-managed` if the service's own clients accept that.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceholderShape {
    /// The prefix.
    pub prefix: String,
    /// The number of random characters; they carry at least 128 bits.
    pub random: usize,
    /// The alphabet of the random characters.
    pub alphabet: Alphabet,
    /// The suffix.
    #[serde(default)]
    pub suffix: String,
}

impl PlaceholderShape {
    /// The shape of the id of a long-lived AWS access key, which clients and scanners know.
    pub fn aws_access_key_id() -> PlaceholderShape {
        PlaceholderShape {
            prefix: "AKIA".to_owned(),
            random: 16,
            alphabet: Alphabet::Base32,
            suffix: String::new(),
        }
    }

    /// The shape of an AWS secret access key: 40 characters.
    pub fn aws_secret_access_key() -> PlaceholderShape {
        PlaceholderShape {
            prefix: "proxy-managed-".to_owned(),
            random: 26,
            alphabet: Alphabet::Alphanumeric,
            suffix: String::new(),
        }
    }
}

impl Default for PlaceholderShape {
    fn default() -> Self {
        PlaceholderShape {
            prefix: "proxy-managed-".to_owned(),
            random: 32,
            alphabet: Alphabet::Alphanumeric,
            suffix: String::new(),
        }
    }
}

/// Where a real key is.
#[derive(Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In the document.
    Literal(LiteralKey),
    /// In this variable of the interceptor's own environment.
    Env(String),
    /// In this file. A trailing newline is dropped.
    File(PathBuf),
    /// What a program prints.
    Exec(ExecSource),
    /// What a service gives for other secrets.
    Fetched(FetchedSource),
    /// The keys of an AWS account, each with a source.
    Aws(Box<AwsKeys>),
}

impl KeySource {
    /// Itself and the sources within it.
    pub fn all(&self) -> Vec<&KeySource> {
        let mut all = vec![self];
        match self {
            KeySource::Fetched(source) => {
                all.extend(source.inputs().into_values().flat_map(KeySource::all));
            }
            KeySource::Aws(keys) => all.extend(keys.parts().flat_map(|(_, part)| part.all())),
            _ => {}
        }
        all
    }

    /// Whether requests are signed with its keys for AWS.
    pub fn is_aws(&self) -> bool {
        match self {
            KeySource::Aws(_) => true,
            KeySource::Exec(source) => source.prints == Prints::AwsKeys,
            _ => false,
        }
    }
}

/// A program that prints a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ExecSource {
    /// Its name or absolute path, and its arguments; never empty. No shell reads them.
    pub argv: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// How long its key lasts, if it does not say so itself.
    pub ttl: Duration,
    /// What it prints.
    pub prints: Prints,
}

/// What a program prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prints {
    /// One key.
    Key,
    /// The keys of an AWS account, as `credential_process` does.
    AwsKeys,
}

impl ExecSource {
    /// The fewest and the most seconds that a program may take.
    pub const TIMEOUTS: RangeInclusive<u64> = 1..=600;
    /// The fewest and the most seconds that a key may last: up to a year.
    pub const TTLS: RangeInclusive<u64> = 1..=31_536_000;
    /// `timeout_seconds` if it is left out.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
    /// `ttl_seconds` if it is left out.
    pub const TTL: Duration = Duration::from_secs(300);
    /// The most arguments, and the most bytes of each.
    pub const MOST_ARGUMENTS: usize = 64;
    /// The most bytes of an argument.
    pub const LONGEST_ARGUMENT: usize = 4096;

    /// The program, as it is called in messages.
    pub fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }
}

/// Without arguments: nothing secret belongs there, but some programs take nothing else.
impl fmt::Debug for ExecSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ExecSource").field(&self.program()).finish()
    }
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Literal(_) => f.write_str("Literal(…)"),
            KeySource::Env(name) => f.debug_tuple("Env").field(name).finish(),
            KeySource::File(path) => f.debug_tuple("File").field(path).finish(),
            KeySource::Exec(source) => f.debug_tuple("Exec").field(source).finish(),
            KeySource::Fetched(source) => source.fmt(f),
            KeySource::Aws(keys) => f.debug_tuple("Aws").field(keys).finish(),
        }
    }
}

/// A key written in the document. It is zeroized when dropped and has no `Debug` or `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct LiteralKey(Zeroizing<String>);

impl LiteralKey {
    /// Wraps a key.
    pub fn new(key: String) -> LiteralKey {
        LiteralKey(Zeroizing::new(key))
    }

    /// The key itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
