//! A credential as a policy declares it: where it holds, how it is presented, what stands in for it, and where its key is.
//! The key itself is read by whoever owns the policy, never here.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::host::HostName;
use super::network_rule::Target;
use super::strip::Keeps;

/// A credential of a policy.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Its name in the document.
    pub name: String,
    /// The service of the catalogue that it is for.
    pub service: Option<String>,
    /// The hosts it governs; never empty.
    pub hosts: Vec<CredentialHost>,
    /// How a request may present it; the first is used where the client presented none. Never empty.
    pub forms: Vec<Form>,
    /// The variables that carry the placeholder into the sandbox.
    pub env: Vec<String>,
    /// The variables by which its clients can be pointed elsewhere, each with the path that its value ends in.
    pub base_url_env: BTreeMap<String, String>,
    /// What the placeholder looks like.
    pub placeholder: PlaceholderShape,
    /// Where the real key is.
    pub key: KeySource,
    /// The JSON pointer to that in the document.
    pub key_pointer: String,
    /// Whether the key may be sent without TLS.
    pub allow_plaintext: bool,
    /// Whether cookies pass on its hosts, to the origin and back.
    pub cookies: bool,
    /// What its API needs although its name authenticates elsewhere.
    pub keeps: Keeps,
}

/// A host that a credential governs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialHost {
    /// A name, `*.name` or one address; never `*` nor a network of more than one address.
    pub target: Target,
    /// The only port, where the document names one.
    pub port: Option<u16>,
}

impl CredentialHost {
    /// The name, where it is exactly one.
    pub fn name(&self) -> Option<&HostName> {
        match &self.target {
            Target::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// How a credential stands in a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// A header whose value is prefix, key, suffix.
    Header {
        /// The header's name, in lower case.
        name: String,
        /// What stands before the key, e.g. `Bearer `.
        prefix: String,
        /// What stands behind the key.
        suffix: String,
    },
    /// `authorization: Basic` of `username:key` (RFC 7617).
    Basic {
        /// The user name. Empty: the client's own. [`Form::KEY`]: the key is the user name, and the password is empty.
        username: String,
    },
    /// A parameter of the query.
    Query {
        /// Its name.
        name: String,
    },
}

impl Form {
    /// What stands for the key in the text of a form.
    pub const KEY: &str = "{key}";

    /// The query parameter that it stands in.
    pub fn query(&self) -> Option<&str> {
        match self {
            Form::Query { name } => Some(name),
            Form::Header { .. } | Form::Basic { .. } => None,
        }
    }
}

/// Which characters the random part of a placeholder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alphabet {
    /// `A-Z`, `a-z` and `0-9`.
    Alphanumeric,
    /// `0-9` and `a-f`.
    LowerHex,
}

impl Alphabet {
    /// The characters.
    pub const fn characters(self) -> &'static [u8] {
        match self {
            Alphabet::Alphanumeric => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            Alphabet::LowerHex => b"0123456789abcdef",
        }
    }
}

/// The shape of a placeholder: the prefix, then random characters, then the suffix. The prefix contains `proxy-managed` where
/// the service's own clients accept that.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceholderShape {
    /// What it begins with.
    pub prefix: String,
    /// How many random characters follow; at least 128 bits of them.
    pub random: usize,
    /// Which characters those are.
    pub alphabet: Alphabet,
    /// What it ends with.
    #[serde(default)]
    pub suffix: String,
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
#[derive(Clone)]
pub enum KeySource {
    /// In the document.
    Literal(LiteralKey),
    /// In this variable of the interceptor's own environment.
    Env(String),
    /// In this file, a trailing newline dropped.
    File(PathBuf),
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Literal(_) => f.write_str("Literal(…)"),
            KeySource::Env(name) => f.debug_tuple("Env").field(name).finish(),
            KeySource::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A key that stands in the document: zeroized when dropped, without `Debug` and `Display`.
#[derive(Clone)]
pub struct LiteralKey(Zeroizing<String>);

impl LiteralKey {
    /// Takes a key over.
    pub fn new(key: String) -> LiteralKey {
        LiteralKey(Zeroizing::new(key))
    }

    /// The key itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
