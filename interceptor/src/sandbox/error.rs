//! Errors while creating a sandbox, each with what is missing and how to get it.

use std::io;

/// Why a sandbox could not be created or kept running.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// A system call failed.
    #[error("{what}: {cause}")]
    System {
        /// The attempted action and its object.
        what: String,
        /// The kernel's error. It is part of the message, so it is not the source too.
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
    /// The user asked for something that does not exist or could not be contained.
    #[error("{0}")]
    Refused(String),
    /// The process inside reported a failure.
    #[error("{0}")]
    Inside(String),
    /// The process inside ended or stopped responding before the command was started.
    #[error("the sandbox's first process {0}")]
    Lost(String),
}

/// Adds the attempted action to a kernel error.
pub(crate) trait IoContext<T> {
    /// Names the attempted action.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, SandboxError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, SandboxError> {
        self.map_err(|error| {
            let cause = error.into();
            let what = what();
            if cause.raw_os_error() == Some(libc::EPERM) {
                let remedy = "run as root (sudo) with CAP_SYS_ADMIN, CAP_NET_ADMIN, \
                              CAP_SYS_CHROOT, CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_MKNOD and \
                              CAP_BPF";
                SandboxError::Missing { what: format!("{what}: {cause}"), remedy: remedy.into() }
            } else {
                SandboxError::System { what, cause }
            }
        })
    }
}
