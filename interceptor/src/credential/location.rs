//! Where a key is, in words.

use std::fmt;
use std::path::PathBuf;

use interceptor_policy::KeySource;

/// The source of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyLocation {
    /// In the policy document.
    Document,
    /// In this variable.
    Variable(String),
    /// In this file.
    File(PathBuf),
    /// What this program prints.
    Program(String),
    /// What a service of this kind gives at this host.
    Service {
        /// The kind, by its field in the policy.
        kind: &'static str,
        /// The host.
        host: String,
    },
    /// In several places: the keys of an AWS account.
    Aws,
}

impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyLocation::Document => f.write_str("in the policy document"),
            KeyLocation::Variable(name) => write!(f, "in the variable {name}"),
            KeyLocation::File(path) => write!(f, "in the file {}", path.display()),
            KeyLocation::Aws => f.write_str("for AWS"),
            KeyLocation::Program(name) => write!(f, "from the program {name:?}"),
            KeyLocation::Service { kind, host } => write!(f, "from {kind} at {host}"),
        }
    }
}

impl KeyLocation {
    /// The location that a source names.
    pub(super) fn of(source: &KeySource) -> KeyLocation {
        match source {
            KeySource::Literal(_) => KeyLocation::Document,
            KeySource::Env(name) => KeyLocation::Variable(name.clone()),
            KeySource::File(path) => KeyLocation::File(path.clone()),
            KeySource::Exec(source) => KeyLocation::Program(source.program().to_owned()),
            KeySource::Fetched(source) => {
                KeyLocation::Service { kind: source.kind(), host: source.url().authority() }
            }
            KeySource::Aws(_) => KeyLocation::Aws,
        }
    }
}
