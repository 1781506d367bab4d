//! Containers: the logic of the OCI runtime hook (opencontainers/runtime-spec, config.md, "POSIX-platform Hooks"; the stage
//! `precreate` and hooks.d are oci-hooks(5), as Podman has them).
//!
//! The hook is called up to three times for a container. Before it is created (`precreate`), a supervisor process is started,
//! which reads the policy and draws the placeholders; the container's configuration gets them in its environment, and the trust
//! files as mounts. Before its entrypoint starts (`createRuntime`), the same supervisor attaches to the container's cgroup with
//! listeners in its network namespace, tests from inside that the wall stands, and fills in the trust files; only then does the
//! hook succeed, and any failure keeps the container from starting. After its end (`poststop`) everything is removed.
//!
//! - [`input`]: what the runtime hands to the hook; [`config`]: the container's configuration, read, judged and changed;
//! - [`seccomp`]: what sockets it may make;
//! - [`policies`]: which policy a container may ask for; [`rootfs`]: its files, without following it out of them;
//! - [`podman`]: where that engine looks for the hook;
//! - [`place`]: its cgroup; [`store`]: what is kept while it lives; [`talk`]: how hook and supervisor speak.

pub mod config;
pub mod input;
pub mod place;
pub mod podman;
pub mod policies;
pub mod rootfs;
pub mod seccomp;
pub mod store;
pub mod talk;

use std::io;

use crate::sandbox::SandboxError;

/// The annotation by which a container asks for a policy.
pub const POLICY: &str = "io.interceptor.policy";
/// The annotation by which one call of the hook tells the next which sandbox was prepared.
pub const SANDBOX: &str = "io.interceptor.sandbox";

/// Why a container does not start.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
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
