//! Loads, attaches and configures the eBPF programs; the only module that knows aya.
//!
//! One [`Enforcer`] per process holds the programs and maps. [`Enforcer::attach`] attaches the
//! programs to a sandbox's cgroup and configures them; dropping the [`Attachment`] detaches them
//! and leaves nothing behind. [`Enforcer::destinations`] maps an accepted connection back to the
//! address the sandbox asked for.
//!
//! Each sandbox's configuration is in the local storage of its cgroup (the kernel's
//! `Documentation/bpf/map_cgroup_storage.rst`). The kernel zeroes that storage, and zero means
//! "refuse everything": nothing gets out between the first link and the last word of configuration,
//! or after a revocation.
//!
//! [`MINIMUM_KERNEL`] is the oldest kernel that supports every hook; [`HOOKS`] lists what each
//! needs.

mod attachment;
mod cgroup;
mod destinations;
mod diag;
mod enforcer;
mod error;
mod events;
mod existing;
mod fill;
mod hooks;
mod inherited;
mod load;
mod maps;
mod networks;
mod numbers;
mod pins;
mod probe;
mod refusals;
mod sys;
#[cfg(test)]
mod tests;
mod whose;

pub use attachment::Attachment;
pub use cgroup::is_enforced;
pub use enforcer::{Enforcement, Enforcer, LoadOptions};
pub use error::KernelError;
pub use existing::{Existing, Wall, try_closing};
pub use fill::{HalfOpenGauge, MapGauge};
pub use hooks::{HOOKS, Hook, MINIMUM_KERNEL};
pub use inherited::{Inherited, LAYOUT};
pub use pins::{bpffs, remove_pins};
pub use probe::{Probe, probe};
pub(crate) use whose::{SocketOwner, owner_of};
