//! The sandbox itself: its cgroup, namespaces, mounts, trust files, and the launch of a command in
//! it.
//!
//! Two processes work together. The *supervisor* ([`launch`]) owns the cgroup, attaches the kernel
//! programs and runs the proxy. The process *inside* ([`init`]) is a fresh copy of this executable,
//! which the supervisor starts in the new cgroup with an empty environment: it creates the
//! namespaces, binds the listeners in them, tests enforcement, prepares the mounts, drops every
//! privilege and starts the command. They talk over one socket ([`handover`]).
//!
//! This module knows neither the policy nor the proxy: it takes plain values, and the commands
//! connect the parts.

pub(crate) mod access;
pub(crate) mod as_user;
mod bundles;
pub(crate) mod caller;
pub(crate) mod cgroup;
pub(crate) mod environment;
mod error;
mod exec;
pub(crate) mod handover;
mod hierarchy;
pub(crate) mod init;
mod java;
pub(crate) mod keeper;
pub(crate) mod launch;
mod listeners;
mod loopback;
mod mountinfo;
mod mounts;
mod nss;
mod outer;
pub(crate) mod privileges;
pub(crate) mod program;
mod reaper;
pub(crate) mod resources;
pub(crate) mod rlimits;
pub(crate) mod seccomp;
mod selftest;
pub(crate) mod signals;
pub(crate) mod stdio;
pub(crate) mod sys;
pub(crate) mod trust;
pub(crate) mod user;

pub(crate) use error::SandboxError;

/// Makes the mount at `path` and those below it read-only, nosuid and nodev.
pub(crate) fn read_only(path: &std::path::Path) -> std::io::Result<()> {
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    sys::set_mount_attributes(path, attributes, 0, true)
}
