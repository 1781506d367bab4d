//! The programs on one cgroup.

use std::os::fd::AsFd;
use std::sync::Arc;

use aya::programs::links::FdLink;
use interceptor_ebpf::Sandbox;
use ipnet::IpNet;

use super::enforcer::Numbers;
use super::maps::Maps;
use super::networks::NetworkSet;
use super::{KernelError, sys};
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
}

impl Attachment {
    /// Of a sandbox that [`Maps::admit`] has admitted, without links yet.
    pub(super) fn new(maps: Arc<Maps>, numbers: Arc<Numbers>, cgroup_id: u64, sandbox: Sandbox) -> Self {
        Self { maps, numbers, cgroup_id, sandbox, denied: None, allowed_loopback: None, links: Vec::new() }
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
        // The cgroup may be gone, and its storage with it.
        let _ = self.maps.configure(self.cgroup_id, &Sandbox::default());
        for link in self.links.drain(..) {
            // Closing it detaches it too, unless somebody else has it open.
            let _ = link.info().map(|info| sys::detach_link(info.id()));
        }
        self.maps.dismiss(self.sandbox.id);
    }
}
