//! The programs on one cgroup.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::links::{FdLink, PinnedLink};
use interceptor_ebpf::Sandbox;
use ipnet::IpNet;

use super::enforcer::Numbers;
use super::maps::Maps;
use super::networks::NetworkSet;
use super::{KernelError, pins};
use crate::proxy::Listeners;

/// The enforcement of one sandbox. Dropping it refuses everything first, then detaches the programs and removes every entry: end
/// the sandbox's processes before, since those that are left are no longer intercepted afterwards.
#[derive(Debug)]
pub struct Attachment {
    maps: Arc<Maps>,
    numbers: Arc<Numbers>,
    cgroup_id: u64,
    sandbox: Sandbox,
    denied: Option<NetworkSet>,
    allowed_loopback: Option<NetworkSet>,
    pub(super) links: Vec<FdLink>,
    pinned: Vec<PinnedLink>,
    directory: Option<PathBuf>,
    is_left: bool,
}

impl Attachment {
    /// Of a sandbox that [`Maps::admit`] has admitted, without links yet.
    pub(super) fn new(maps: Arc<Maps>, numbers: Arc<Numbers>, cgroup_id: u64, sandbox: Sandbox) -> Self {
        Self {
            maps,
            numbers,
            cgroup_id,
            sandbox,
            denied: None,
            allowed_loopback: None,
            links: Vec::new(),
            pinned: Vec::new(),
            directory: None,
            is_left: false,
        }
    }

    /// Replaces the networks to which `connect` fails. Every `connect` sees the old networks or the new ones, never a part.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an entry; the old networks stay in force then.
    pub fn set_denied(&mut self, networks: &[IpNet]) -> Result<(), KernelError> {
        let set = NetworkSet::write(&self.maps, self.numbers.next(), networks)?;
        let sandbox = Sandbox { denied: set.number(), ..self.sandbox };
        self.maps.configure(self.cgroup_id, &sandbox)?;
        self.sandbox = sandbox;
        // The old set goes with the assignment. A program that has read its number but not asked it yet finds it empty and
        // redirects; the proxy judges the address by the same policy again.
        self.denied = Some(set);
        Ok(())
    }

    /// [`Self::set_denied`], and the loopback networks that are redirected in a shared namespace, both at once.
    ///
    /// # Errors
    ///
    /// When the kernel refuses an entry; what was in force stays so then.
    pub fn set_networks(&mut self, denied: &[IpNet], allowed_loopback: &[IpNet]) -> Result<(), KernelError> {
        let denied = NetworkSet::write(&self.maps, self.numbers.next(), denied)?;
        let allowed = NetworkSet::write(&self.maps, self.numbers.next(), allowed_loopback)?;
        let sandbox = Sandbox { denied: denied.number(), allowed_loopback: allowed.number(), ..self.sandbox };
        self.maps.configure(self.cgroup_id, &sandbox)?;
        self.sandbox = sandbox;
        (self.denied, self.allowed_loopback) = (Some(denied), Some(allowed));
        Ok(())
    }

    /// Marks the interceptor's sockets in the sandbox as its own. In a shared namespace nothing is redirected to a socket without the
    /// mark, so that nobody can take the place of an interceptor that has died, and only a marked resolver may answer there; in a private
    /// namespace it is harmless to leave it out. No process of the sandbox may ever get hold of one of these sockets.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory for the mark.
    pub fn mark_listeners(&self, listeners: &Listeners) -> Result<(), KernelError> {
        self.mark(&listeners.tcp4)?;
        self.mark(&listeners.dns4)?;
        listeners.tcp6.iter().try_for_each(|socket| self.mark(socket))?;
        listeners.dns6.iter().try_for_each(|socket| self.mark(socket))
    }

    /// Marks one socket as the interceptor's own: see [`Self::mark_listeners`].
    ///
    /// # Errors
    ///
    /// When the kernel has no memory for the mark.
    pub fn mark(&self, socket: impl AsFd) -> Result<(), KernelError> {
        self.maps.mark_own(socket.as_fd(), self.sandbox.id)
    }

    /// Pins the programs under a new directory, which must be on a bpffs (see [`super::bpffs`]): they stay on the cgroup when this process
    /// dies. Dropping the attachment removes the directory and takes them off as ever; after a death, [`super::remove_pins`] or
    /// [`super::Enforcer::attach_over`] does.
    ///
    /// # Errors
    ///
    /// When the directory exists or is on no bpffs. The programs are off the cgroup then: drop the attachment and do not start the sandbox.
    pub fn pin(&mut self, directory: &Path) -> Result<(), KernelError> {
        self.pinned = pins::pin(std::mem::take(&mut self.links), directory)?;
        self.directory = Some(directory.to_owned());
        Ok(())
    }

    /// Ends the attachment of a pinned sandbox without taking the programs off: they refuse what they would redirect to the listeners that
    /// this process is about to close. What is not pinned is taken off.
    pub fn leave(mut self) {
        self.is_left = !self.pinned.is_empty();
        if self.is_left {
            self.denied.iter_mut().chain(&mut self.allowed_loopback).for_each(NetworkSet::leave);
        }
    }

    /// How many connections of the sandbox have been asked for and are neither accepted nor given up.
    pub fn half_open(&self) -> u64 {
        self.maps.half_open(self.sandbox.id).unwrap_or(0)
    }

    /// Writes both sets, before anything refers to them.
    pub(super) fn write_networks(
        &mut self,
        denied: &[IpNet],
        allowed_loopback: &[IpNet],
    ) -> Result<(), KernelError> {
        let denied = NetworkSet::write(&self.maps, self.numbers.next(), denied)?;
        let allowed = NetworkSet::write(&self.maps, self.numbers.next(), allowed_loopback)?;
        self.sandbox.denied = denied.number();
        self.sandbox.allowed_loopback = allowed.number();
        (self.denied, self.allowed_loopback) = (Some(denied), Some(allowed));
        Ok(())
    }

    /// Tells the programs what to do.
    pub(super) fn configure(&self) -> Result<(), KernelError> {
        self.maps.configure(self.cgroup_id, &self.sandbox)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.is_left {
            return;
        }
        // The cgroup may be gone, and its storage with it.
        let _ = self.maps.configure(self.cgroup_id, &Sandbox::default());
        self.links.drain(..).for_each(|link| pins::detach(&link));
        for link in self.pinned.drain(..) {
            // A pin that somebody has removed already leaves the link to be detached by its last descriptor, which is this one.
            let _ = link.unpin().map(|link| pins::detach(&link));
        }
        if let Some(directory) = &self.directory {
            let _ = std::fs::remove_dir(directory);
        }
        self.maps.dismiss(self.sandbox.id);
    }
}
