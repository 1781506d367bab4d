//! Why a sandbox could not be put under enforcement, changed or found.

use std::io;

use interceptor_policy::Problem;

use crate::kernel::KernelError;
use crate::proxy::ProxyError;
use crate::sandbox::SandboxError;

/// Why a sandbox could not be put under enforcement, changed or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// The given cgroup is unusable.
    #[error("{0}")]
    NoCgroup(String),
    /// The given process or network namespace cannot be the sandbox's.
    #[error("{0}")]
    NoNamespace(String),
    /// A network namespace declared private is not.
    #[error("{0}")]
    NotPrivate(String),
    /// The id is invalid.
    #[error("{0}")]
    BadId(String),
    /// A sandbox with this id exists.
    #[error(
        "a sandbox with this id already exists: remove it first, or leave out `id` to get a \
         random one"
    )]
    IdTaken,
    /// An interceptor already enforces a policy on this cgroup, or on one above or below it.
    #[error("{0}")]
    Taken(String),
    /// No sandbox has this id.
    #[error("there is no sandbox with this id")]
    Unknown,
    /// The policy is invalid or a key is unavailable; lists every problem.
    #[error("{}", list(.0))]
    Policy(Vec<Problem>),
    /// The daemon is shutting down and accepts no more sandboxes.
    #[error("the daemon is shutting down")]
    Ending,
    /// The kernel refused or lacks something.
    #[error(transparent)]
    Kernel(KernelError),
    /// The process inside failed, or the self-test did.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The proxy half could not be created.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The host has no more of something.
    #[error("{what}; {remedy}")]
    Exhausted {
        /// What failed.
        what: String,
        /// What to raise.
        remedy: &'static str,
    },
    /// A system call failed.
    #[error("{what}: {cause}")]
    System {
        /// The attempted action.
        what: String,
        /// The kernel's error. It is part of the message, so it is not the source too.
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

/// One line per problem.
fn list(problems: &[Problem]) -> String {
    let line = |problem: &Problem| match problem.pointer.as_str() {
        "" => problem.message.clone(),
        pointer => format!("{pointer}: {}", problem.message),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Adds the attempted action to a kernel error.
pub(super) trait IoContext<T> {
    /// Names the attempted action.
    fn context(self, what: impl FnOnce() -> String) -> Result<T, FleetError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, FleetError> {
        self.map_err(|error| FleetError::System { what: what(), cause: error.into() })
    }
}
