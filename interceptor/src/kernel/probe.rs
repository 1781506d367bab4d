//! Tries every hook on this host, one by one, and leaves nothing behind: what `interceptor doctor` reports.

use std::os::fd::AsFd;

use super::enforcer::{LoadOptions, load_object};
use super::hooks::{HOOKS, Hook};
use super::{KernelError, cgroup};

/// What came of one hook.
#[derive(Debug)]
pub struct Probe {
    /// The hook.
    pub hook: Hook,
    /// Whether it can be loaded and attached here.
    pub outcome: Result<(), KernelError>,
}

/// Loads each program and attaches it to a cgroup, which must be one without processes; the links and programs are gone when it
/// returns. Unconfigured as they are, they would refuse everything.
///
/// # Errors
///
/// When no program can be tried at all, because the kernel refuses the maps or the directory is no cgroup.
pub fn probe(scratch: impl AsFd) -> Result<Vec<Probe>, KernelError> {
    let scratch = scratch.as_fd();
    cgroup::id(scratch)?;
    let mut object = load_object(LoadOptions { sandboxes: 1, debug: false })?;
    Ok(HOOKS
        .into_iter()
        .map(|hook| {
            let outcome = hook.load(&mut object).and_then(|()| hook.attach(&mut object, scratch).map(drop));
            Probe { hook, outcome }
        })
        .collect())
}
