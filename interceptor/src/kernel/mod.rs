//! Loads, attaches and configures the eBPF programs; the only module that knows aya.
//!
//! One [`Enforcer`] a process holds the programs and the maps. [`Enforcer::attach`] puts the programs on a sandbox's cgroup and
//! says what they shall do there; dropping the [`Attachment`] takes them off again and leaves nothing behind. The way back,
//! from an accepted connection to the address the sandbox asked for, is [`Enforcer::destinations`].
//!
//! Programs are told apart from sandbox to sandbox by the local storage of the cgroup they are attached to (the kernel's
//! `Documentation/bpf/map_cgroup_storage.rst`), which the kernel makes zero, and zero means "refuse everything": between the first
//! link and the last word of configuration, and after a revocation, nothing gets out.
//!
//! The oldest kernel on which every part is there is [`MINIMUM_KERNEL`]; see [`HOOKS`] for what needs what.

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
mod maps;
mod networks;
mod pins;
mod probe;
mod refusals;
mod sys;
#[cfg(test)]
mod tests;

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
