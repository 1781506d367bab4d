//! The programs and maps of an interceptor that hands its sandboxes over to this one: gone on with as they are.
//!
//! The programs on a sandbox's cgroup stay the same, pinned; so no connection ever sees two sets of them, or none. What this
//! process has loaded itself serves the sandboxes that are made from now on. The maps hold all that there is to know of the
//! kernel's half of a sandbox, which is read from there and not from the other process.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::KernelError;
use super::attachment::Attachment;
use super::destinations::Accepted;
use super::enforcer::Numbers;
use super::maps::{Maps, NetworkKey};
use super::networks::NetworkSet;
use super::refusals::Reports;
use crate::seam::Destinations;

/// The layout of the maps' keys and values, to be raised with every change of it: only a process of the same layout can go on with
/// another's maps. (Sizes are compared besides.)
pub const LAYOUT: u32 = 1;

/// A set of programs and maps that another process has loaded.
pub struct Inherited {
    maps: Arc<Maps>,
    reports: Arc<Reports>,
    numbers: Arc<Numbers>,
    /// The keys of the sets that no attachment has claimed yet.
    sets: Mutex<HashMap<u64, Vec<NetworkKey>>>,
}

impl fmt::Debug for Inherited {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inherited").finish_non_exhaustive()
    }
}

impl Inherited {
    /// From the maps' descriptors.
    pub(super) fn open(mut descriptors: Vec<OwnedFd>, numbers: Arc<Numbers>) -> Result<Self, KernelError> {
        let ring = descriptors.pop().ok_or(KernelError::Incomplete { part: "the ring of refusals" })?;
        let maps = Arc::new(Maps::open(descriptors)?);
        let reports = Reports::open(ring, Arc::clone(&maps))?;
        let sets = Mutex::new(maps.network_sets());
        Ok(Self { maps, reports, numbers, sets })
    }

    /// The attachment of a cgroup whose programs are pinned in `pins`. Until [`Attachment::own`] it is the other process's: dropping it
    /// changes nothing. Without the `cgroup`'s directory, [`Attachment::lost`] is silent.
    ///
    /// # Errors
    ///
    /// When the cgroup is not under enforcement by this set, or a pin is missing.
    pub fn attachment(
        &self,
        cgroup_id: u64,
        pins: &Path,
        cgroup: Option<OwnedFd>,
    ) -> Result<Attachment, KernelError> {
        let sandbox = self.maps.configuration(cgroup_id)?;
        if sandbox.id == 0 {
            return Err(KernelError::Incomplete { part: "the configuration of the sandbox handed over" });
        }
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut claim = |number: u64| {
            (number != 0)
                .then(|| NetworkSet::inherit(&self.maps, number, sets.remove(&number).unwrap_or_default()))
        };
        let claimed = [claim(sandbox.denied), claim(sandbox.allowed_loopback)];
        drop(sets);
        Attachment::inherit(
            (Arc::clone(&self.maps), Arc::clone(&self.reports)),
            Arc::clone(&self.numbers),
            cgroup_id,
            sandbox,
            claimed,
            (pins, cgroup),
        )
    }

    /// Where the connections that its sandboxes' listeners accept were going.
    pub fn destinations(&self) -> Arc<dyn Destinations> {
        Arc::new(Accepted(Arc::clone(&self.maps)))
    }
}
