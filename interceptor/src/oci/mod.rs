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

pub(crate) mod config;
mod error;
pub(crate) mod input;
pub(crate) mod place;
pub(crate) mod podman;
pub(crate) mod policies;
pub(crate) mod rootfs;
pub(crate) mod seccomp;
pub(crate) mod store;
pub(crate) mod talk;

pub(crate) use error::Attempt;
pub(crate) use error::OciError;

/// The annotation by which a container asks for a policy.
pub(crate) const POLICY: &str = "io.interceptor.policy";
/// The annotation by which one call of the hook tells the next which sandbox was prepared.
pub(crate) const SANDBOX: &str = "io.interceptor.sandbox";
