//! The capabilities (capabilities(7)) the daemon keeps, and why.

use caps::{CapSet, Capability};

use crate::sandbox::{SandboxError, privileges};

/// A capability the daemon keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptCapability {
    /// The capability.
    pub(crate) capability: Capability,
    /// Its name.
    pub(crate) name: &'static str,
    /// Why it is needed.
    pub(crate) reason: &'static str,
}

/// All kept capabilities.
pub(crate) const KEPT: [KeptCapability; 3] = [
    KeptCapability {
        capability: Capability::CAP_SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        reason: "entering a container's network namespace; looking up programs and links in the \
                 kernel",
    },
    KeptCapability {
        capability: Capability::CAP_NET_ADMIN,
        name: "CAP_NET_ADMIN",
        reason: "loading network programs and attaching them to cgroups",
    },
    KeptCapability {
        capability: Capability::CAP_DAC_OVERRIDE,
        name: "CAP_DAC_OVERRIDE",
        reason: "key files and delegated cgroups of other users",
    },
];

/// Drops all other capabilities, also for programs this thread executes.
pub(super) fn keep(kept: impl Iterator<Item = Capability> + Clone) -> Result<(), SandboxError> {
    let refused = |error: caps::errors::CapsError| {
        SandboxError::Refused(format!("cannot give up capabilities: {error}"))
    };
    let permitted = caps::read(None, CapSet::Permitted).map_err(refused)?;
    // A capability missing from the start (under systemd, in a container) is no error here:
    // whatever needs it reports it.
    let kept: caps::CapsHashSet =
        kept.filter(|capability| permitted.contains(capability)).collect();
    privileges::bound(|number| kept.iter().any(|capability| capability.index() == number))?;
    caps::clear(None, CapSet::Ambient).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused)
}
