//! The programs and maps of a daemon that hands its sandboxes over to this one.
//!
//! A sandbox keeps the pinned programs on its cgroup, so no connection ever meets two sets of
//! programs, or none. New sandboxes get the programs this process loaded. The maps hold the
//! complete kernel half of a sandbox, so this process reads it from them rather than from the old
//! daemon.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::KernelError;
use super::attachment::Attachment;
use super::destinations::Accepted;
use super::maps::{Maps, NetworkKey};
use super::networks::NetworkSet;
use super::numbers::Numbers;
use super::refusals::Reports;
use crate::seam::Destinations;

/// Layout version of the maps' keys and values; raise it with every change. A process can adopt
/// only maps of its own layout. (Sizes are compared as well.)
pub const LAYOUT: u32 = 1;

/// A set of programs and maps that another process has loaded.
pub struct Inherited {
    maps: Arc<Maps>,
    reports: Arc<Reports>,
    numbers: Arc<Numbers>,
    /// Keys of the network sets not yet claimed by an attachment.
    sets: Mutex<HashMap<u64, Vec<NetworkKey>>>,
}

impl fmt::Debug for Inherited {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inherited").finish_non_exhaustive()
    }
}

impl Inherited {
    /// Opens the maps from their descriptors.
    pub(super) fn open(
        mut descriptors: Vec<OwnedFd>,
        numbers: Arc<Numbers>,
    ) -> Result<Self, KernelError> {
        let ring =
            descriptors.pop().ok_or(KernelError::Incomplete { part: "the ring of refusals" })?;
        let maps = Arc::new(Maps::open(descriptors)?);
        let reports = Reports::open(ring, Arc::clone(&maps))?;
        let sets = Mutex::new(maps.network_sets());
        Ok(Self { maps, reports, numbers, sets })
    }

    /// The attachment of a cgroup whose programs are pinned in `pins`. The other process owns the
    /// programs until [`Attachment::take_ownership`]; dropping the attachment before that changes
    /// nothing. Without the `cgroup`'s directory, [`Attachment::lost`] returns nothing.
    ///
    /// # Errors
    ///
    /// If this set does not enforce on the cgroup, or a pin is missing.
    pub fn attachment(
        &self,
        cgroup_id: u64,
        pins: &Path,
        cgroup: Option<OwnedFd>,
    ) -> Result<Attachment, KernelError> {
        let sandbox = self.maps.configuration(cgroup_id)?;
        if sandbox.id == 0 {
            return Err(KernelError::Incomplete {
                part: "the configuration of the sandbox handed over",
            });
        }
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut claim = |number: u64| {
            (number != 0).then(|| {
                NetworkSet::inherit(&self.maps, number, sets.remove(&number).unwrap_or_default())
            })
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

    /// The lookup of original destinations for its sandboxes' listeners.
    pub fn destinations(&self) -> Arc<dyn Destinations> {
        Arc::new(Accepted(Arc::clone(&self.maps)))
    }
}
