//! The names of the host itself: its own loopback services, which a sandbox has no other road to.
//!
//! Engines know two of the names. None is ever looked up. Each stands for 127.0.0.1 and ::1 of the
//! host's network namespace, and only an allow rule that spells it, with the port, permits it:
//! neither a wildcard does, nor a policy without rules. Deny rules cover it like any other name.

use super::host::{Host, HostName};
use super::network_rule::{NetworkRule, Target};

/// The names, all of which begin with [`FIRST_LABEL`].
const NAMES: [&str; 3] =
    ["host.interceptor.internal", "host.docker.internal", "host.containers.internal"];
const FIRST_LABEL: &str = "host.";

impl HostName {
    /// Whether the name stands for the loopback services of the host that runs the interceptor.
    pub fn is_own_host(&self) -> bool {
        self.as_str().starts_with(FIRST_LABEL) && NAMES.contains(&self.as_str())
    }
}

impl Host {
    /// Whether it stands for the loopback services of the host that runs the interceptor.
    pub fn is_own_host(&self) -> bool {
        self.name().is_some_and(HostName::is_own_host)
    }
}

impl NetworkRule {
    /// Whether it spells one of the host's own names.
    pub(crate) fn names_own_host(&self) -> bool {
        matches!(&self.target, Target::Name(name) if name.is_own_host())
    }
}
