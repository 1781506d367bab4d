//! Why a container is not started.

use std::io;

use crate::sandbox::SandboxError;

/// Why a container is not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// It asks for something that is not contained or not permitted.
    #[error("{0}")]
    Refused(String),
    /// Malformed input from the runtime or engine.
    #[error("the {what} does not follow the OCI runtime specification: {why}")]
    Malformed {
        /// The input.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A system call failed.
    #[error("{what}: {cause}")]
    System {
        /// What was attempted, with the object it concerned.
        what: String,
        /// The kernel's error. It is part of the message, so it is not the source too.
        cause: io::Error,
    },
    /// An error also known to `run`'s sandboxes.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Adds the attempted action to a kernel error.
pub(crate) trait Attempt<T> {
    /// Names the attempted action.
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, OciError>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, OciError> {
        self.map_err(|error| OciError::System { what: what(), cause: error.into() })
    }
}
