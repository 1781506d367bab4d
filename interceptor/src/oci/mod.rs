//! Containers: the logic of the OCI runtime, which wraps another, and of the hook
//! (opencontainers/runtime-spec, config.md, "POSIX-platform Hooks"; the stage `precreate` and
//! hooks.d are oci-hooks(5), as Podman has them).
//!
//! The hook runs up to three times per container. Before the container is created (`precreate`), it
//! starts a supervisor process, which reads the policy and draws the placeholders; the hook adds
//! them to the container's environment, and the trust files to its mounts. Before the entrypoint
//! starts (`createRuntime`), the same supervisor attaches to the container's cgroup with listeners
//! in its network namespace, tests enforcement from inside, and fills in the trust files. Only then
//! does the hook succeed; any failure keeps the container from starting. After the container has
//! ended (`poststop`), everything is removed.
//!
//! The runtime does the same for engines that read no hooks: it edits the configuration of a bundle
//! before the wrapped runtime reads it, and adds the hooks for the later stages.
//!
//! - [`arguments`]: what a runtime is called for; [`bundle`]: a bundle's files, read and replaced;
//! - [`input`]: the hook's standard input; [`config`]: reading and editing the container's
//!   configuration; [`judge`]: which configurations are refused;
//! - [`seccomp`]: which sockets the container may create; [`filter`]: the filter of a container
//!   that has none;
//! - [`policies`]: which policies a container may ask for; [`rootfs`]: its files, without following
//!   links out of it;
//! - [`podman`]: where Podman looks for the hook; [`docker`], [`toml`]: how Docker, containerd and
//!   CRI-O are told of the runtime;
//! - [`names`]: sandboxes in paths;
//! - [`place`]: its cgroup; [`store`]: its state on disk; [`talk`]: the protocol between hook and
//!   supervisor.

pub(crate) mod arguments;
pub(crate) mod bundle;
pub(crate) mod config;
pub(crate) mod docker;
mod error;
mod filter;
pub(crate) mod input;
mod judge;
mod names;
pub(crate) mod place;
pub(crate) mod podman;
pub(crate) mod policies;
pub(crate) mod rootfs;
pub(crate) mod seccomp;
pub(crate) mod store;
pub(crate) mod talk;
pub(crate) mod toml;

pub(crate) use error::Attempt;
pub(crate) use error::OciError;

/// The annotation by which a container asks for a policy.
pub(crate) const POLICY: &str = "io.interceptor.policy";
/// The command that is an OCI runtime.
pub(crate) const RUNTIME: &str = "oci-runtime";
/// The annotation that tells later calls of the hook which sandbox was prepared.
pub(crate) const SANDBOX: &str = "io.interceptor.sandbox";
