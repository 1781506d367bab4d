//! Why a container does not start.

use std::io;

use crate::sandbox::SandboxError;

/// Why a container does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// It asks for what would not be contained, or for what it may not have.
    #[error("{0}")]
    Refused(String),
    /// What the runtime or the engine handed over cannot be understood.
    #[error("the {what} is not what the OCI runtime specification says: {why}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A system call failed.
    #[error("{what}: {cause}")]
    System {
        /// What was attempted, with the object it concerned.
        what: String,
        /// What the kernel answered. Part of the message, so not its source too.
        cause: io::Error,
    },
    /// As of the sandboxes of `run`.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Adds to a kernel's answer what was attempted.
pub(crate) trait Attempt<T> {
    /// Names what was attempted.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, OciError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, OciError> {
        self.map_err(|error| OciError::System { what: what(), cause: error.into() })
    }
}
