//! What can go wrong while a sandbox is made, each with what is missing and how to get it.

use std::io;

/// A sandbox could not be made, or could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// A system call failed.
    #[error("{what}: {cause}")]
    System {
        /// What was attempted, with the object it concerned.
        what: String,
        /// What the kernel answered. Part of the message, so not its source too.
        cause: io::Error,
    },
    /// The host lacks something that a sandbox needs.
    #[error("{what}; {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// The user asked for something that would not be contained, or that does not exist.
    #[error("{0}")]
    Refused(String),
    /// The process inside the sandbox reported a failure.
    #[error("{0}")]
    Inside(String),
    /// The process inside the sandbox ended, or fell silent, before the command was started.
    #[error("the sandbox's first process {0}")]
    Lost(String),
}

/// Adds to a kernel's answer what was attempted.
pub(crate) trait Context<T> {
    /// Names what was attempted.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, SandboxError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, SandboxError> {
        self.map_err(|error| {
            let cause = error.into();
            let what = what();
            if cause.raw_os_error() == Some(libc::EPERM) {
                let remedy = "run as root (sudo) with CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYS_CHROOT, CAP_SETUID, \
                              CAP_SETGID, CAP_SETPCAP, CAP_MKNOD and CAP_BPF";
                SandboxError::Missing { what: format!("{what}: {cause}"), remedy: remedy.into() }
            } else {
                SandboxError::System { what, cause }
            }
        })
    }
}
