//! Why a sandbox could not be put under enforcement, changed or found.

use std::io;

use interceptor_policy::Problem;

use crate::kernel::KernelError;
use crate::proxy::ProxyError;
use crate::sandbox::SandboxError;

/// Why a sandbox could not be put under enforcement, changed or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// What was named as the cgroup is none that can be used.
    #[error("{0}")]
    NoCgroup(String),
    /// The process or network namespace that was named cannot be the sandbox's.
    #[error("{0}")]
    NoNamespace(String),
    /// A network namespace that is said to be the sandbox's alone is not.
    #[error("{0}")]
    NotPrivate(String),
    /// The id cannot be one.
    #[error("{0}")]
    BadId(String),
    /// There is a sandbox of this id already.
    #[error("a sandbox with this id already exists: remove it first, or leave out `id` to get a random one")]
    IdTaken,
    /// Somebody enforces a policy on this cgroup already, or on one above or below it.
    #[error("{0}")]
    Taken(String),
    /// There is no sandbox of this id.
    #[error("there is no sandbox with this id")]
    Unknown,
    /// The policy is not valid, or a key cannot be had: every error.
    #[error("{}", list(.0))]
    Policy(Vec<Problem>),
    /// The daemon is ending and takes no more sandboxes.
    #[error("the daemon is shutting down")]
    Ending,
    /// The kernel refuses, or lacks something.
    #[error(transparent)]
    Kernel(KernelError),
    /// The process inside failed, the self-test among it.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The proxy's half could not be made.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A system call failed.
    #[error("{what}: {cause}")]
    System {
        /// What was attempted.
        what: String,
        /// What the kernel answered. Part of the message, so not its source too.
        cause: io::Error,
    },
}

impl From<KernelError> for FleetError {
    fn from(error: KernelError) -> FleetError {
        match error {
            KernelError::AlreadyEnforced { .. } => FleetError::Taken(error.to_string()),
            KernelError::NotCgroup2 => FleetError::NoCgroup(error.to_string()),
            other => FleetError::Kernel(other),
        }
    }
}

/// Every problem in one line each.
fn list(problems: &[Problem]) -> String {
    let line = |problem: &Problem| match problem.pointer.as_str() {
        "" => problem.message.clone(),
        pointer => format!("{pointer}: {}", problem.message),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Adds to a kernel's answer what was attempted.
pub(super) trait Context<T> {
    /// Names what was attempted.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, FleetError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, FleetError> {
        self.map_err(|error| FleetError::System { what: what(), cause: error.into() })
    }
}
