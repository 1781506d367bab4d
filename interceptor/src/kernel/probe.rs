//! Tries every hook on this host, one by one, and leaves nothing behind; for `interceptor doctor`.

use std::os::fd::AsFd;

use super::enforcer::{LoadOptions, load_object};
use super::hooks::{HOOKS, Hook};
use super::{KernelError, cgroup};

/// The outcome for one hook.
#[derive(Debug)]
pub struct Probe {
    /// The hook.
    pub hook: Hook,
    /// Whether it loads and attaches here.
    pub outcome: Result<(), KernelError>,
}

/// Loads each program and attaches it to a cgroup, which must have no processes, since unconfigured
/// programs refuse everything. Removes links and programs before it returns.
///
/// # Errors
///
/// If no program can be tried: the kernel refuses the maps, or the directory is not a cgroup.
pub fn probe(scratch: impl AsFd) -> Result<Vec<Probe>, KernelError> {
    let scratch = scratch.as_fd();
    cgroup::id(scratch)?;
    let mut object = load_object(LoadOptions { sandboxes: 1, debug: false })?;
    Ok(HOOKS
        .into_iter()
        .map(|hook| {
            let outcome =
                hook.load(&mut object).and_then(|()| hook.attach(&mut object, scratch).map(drop));
            Probe { hook, outcome }
        })
        .collect())
}
