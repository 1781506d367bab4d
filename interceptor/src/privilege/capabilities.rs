//! The capabilities (capabilities(7)) that the daemon keeps, and why.

use caps::{CapSet, Capability};

use crate::sandbox::{SandboxError, privileges};

/// A capability that is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Which.
    pub(crate) capability: Capability,
    /// Its name.
    pub(crate) name: &'static str,
    /// What for.
    pub(crate) reason: &'static str,
}

/// All of them.
pub(crate) const KEPT: [Kept; 3] = [
    Kept {
        capability: Capability::CAP_SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        reason: "entering a container's network namespace; looking up programs and links in the kernel",
    },
    Kept {
        capability: Capability::CAP_NET_ADMIN,
        name: "CAP_NET_ADMIN",
        reason: "loading network programs and attaching them to cgroups",
    },
    Kept {
        capability: Capability::CAP_DAC_OVERRIDE,
        name: "CAP_DAC_OVERRIDE",
        reason: "key files and delegated cgroups of other users",
    },
];

/// Gives up all others, also for what this thread executes.
pub(super) fn keep(kept: impl Iterator<Item = Capability> + Clone) -> Result<(), SandboxError> {
    let refused = |error: caps::errors::CapsError| {
        SandboxError::Refused(format!("cannot give up capabilities: {error}"))
    };
    let permitted = caps::read(None, CapSet::Permitted).map_err(refused)?;
    // One that was not there, under systemd or in a container, is not asked for: what needs it says so when it is needed.
    let kept: caps::CapsHashSet = kept.filter(|capability| permitted.contains(capability)).collect();
    privileges::bound(|number| kept.iter().any(|capability| capability.index() == number))?;
    caps::clear(None, CapSet::Ambient).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused)
}
