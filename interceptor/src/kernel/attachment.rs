//! The programs on one cgroup.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::links::{FdLink, PinnedLink};
use interceptor_ebpf::Sandbox;
use interceptor_ebpf::layout::REPORTS;
use ipnet::IpNet;

use super::enforcer::Numbers;
use super::fill::HalfOpenGauge;
use super::hooks::HOOKS;
use super::maps::Maps;
use super::networks::NetworkSet;
use super::refusals::Reports;
use super::{KernelError, pins, sys};
use crate::seam::{Listeners, Refusals};

/// The enforcement of one sandbox. Dropping it refuses everything first, then detaches the programs and removes every entry: end
/// the sandbox's processes before, since those that are left are no longer intercepted afterwards.
#[derive(Debug)]
pub struct Attachment {
    maps: Arc<Maps>,
    reports: Arc<Reports>,
    numbers: Arc<Numbers>,
    cgroup_id: u64,
    sandbox: Sandbox,
    denied: Option<NetworkSet>,
    allowed_loopback: Option<NetworkSet>,
    links: Vec<FdLink>,
    /// The cgroup's directory, and the ids of the programs there in the order of [`HOOKS`].
    programs: Option<(OwnedFd, Vec<u32>)>,
    pinned: Vec<PinnedLink>,
    directory: Option<PathBuf>,
    is_left: bool,
}

impl Attachment {
    /// Of a sandbox that [`Maps::admit`] has admitted, without links yet.
    pub(super) fn new(
        maps: Arc<Maps>,
        reports: Arc<Reports>,
        numbers: Arc<Numbers>,
        cgroup_id: u64,
        sandbox: Sandbox,
    ) -> Self {
        Self {
            maps,
            reports,
            numbers,
            cgroup_id,
            sandbox,
            denied: None,
            allowed_loopback: None,
            links: Vec::new(),
            programs: None,
            pinned: Vec::new(),
            directory: None,
            is_left: false,
        }
    }

    /// Replaces the networks to which `connect` fails, and the loopback networks that are redirected in a shared namespace, both at once:
    /// every `connect` sees what was in force or what is now, never a part. Call it from a thread that may be blocked for milliseconds.
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
        // A program that has read the old numbers may not have asked the old sets yet: they go with the assignment, after it.
        sys::wait_for_programs();
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
    }

    /// Goes on with the programs of another process, pinned in `directory`: to be left there, until [`Self::own`].
    pub(super) fn inherit(
        (maps, reports): (Arc<Maps>, Arc<Reports>),
        numbers: Arc<Numbers>,
        cgroup_id: u64,
        sandbox: Sandbox,
        sets: [Option<NetworkSet>; 2],
        (directory, cgroup): (&Path, Option<OwnedFd>),
    ) -> Result<Self, KernelError> {
        let mut attachment = Self::new(maps, reports, numbers, cgroup_id, sandbox);
        // First, so that a failure below changes nothing.
        attachment.is_left = true;
        [attachment.denied, attachment.allowed_loopback] = sets;
        attachment.directory = Some(directory.to_owned());
        attachment.pinned = pins::open(directory)?;
        if let Some(cgroup) = cgroup {
            // Opened once more: a pinned link does not show what it is.
            let links: Vec<FdLink> = pins::open(directory)?.into_iter().map(FdLink::from).collect();
            attachment.watch(cgroup, &links)?;
        }
        Ok(attachment)
    }

    /// The attachment is this process's: its drop takes the programs off. Said when the process that attached them has left them.
    pub fn own(&mut self) {
        self.is_left = false;
        // Without the thread they are recorded when the sandbox ends.
        if let Err(error) = self.reports.begin() {
            tracing::warn!(%error, "the kernel's refusals are recorded late");
        }
    }

    /// Leaves the reports of its [`Self::program_set`] to another process that has taken over.
    pub fn hush(&self) {
        self.reports.end();
    }

    /// The cgroup's id.
    pub fn cgroup_id(&self) -> u64 {
        self.cgroup_id
    }

    /// Where its programs are pinned, if they are.
    pub fn pins(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// What another process needs to go on with the same programs and maps beside [`Self::pins`]: see
    /// [`super::Enforcer::inherit`]. The same for every attachment of one [`Self::program_set`].
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = self.maps.descriptors();
        all.push(self.reports.descriptor());
        all
    }

    /// Tells one set of programs and maps of this process from another.
    pub fn program_set(&self) -> usize {
        Arc::as_ptr(&self.maps).addr()
    }

    /// Reports what the programs refuse from now on. To be called after the self-test, whose refusals concern nobody.
    ///
    /// # Errors
    ///
    /// When the programs cannot be told; nothing is reported then.
    pub fn report_to(&mut self, refusals: Arc<dyn Refusals>) -> Result<(), KernelError> {
        self.reports.listen(self.sandbox.id, refusals);
        let sandbox = Sandbox { flags: self.sandbox.flags | REPORTS, ..self.sandbox };
        self.maps.configure(self.cgroup_id, &sandbox)?;
        self.sandbox = sandbox;
        Ok(())
    }

    /// Passes on, before it returns, every refusal up to now: for the end of a sandbox whose processes are gone.
    pub fn flush_refusals(&self) {
        self.reports.flush(self.sandbox.id);
    }

    /// The hooks whose programs are no longer on the cgroup: somebody has taken them off, or the cgroup is gone.
    pub fn lost(&self) -> Vec<&'static str> {
        let Some((cgroup, programs)) = &self.programs else { return Vec::new() };
        HOOKS
            .iter()
            .zip(programs)
            .filter(|(hook, program)| {
                // Where the kernel does not say, nothing is known to be lost.
                sys::has_program(cgroup.as_fd(), hook.kind, **program).is_ok_and(|found| !found)
            })
            .map(|(hook, _)| hook.name)
            .collect()
    }

    /// Remembers what is where, once all links are made.
    pub(super) fn remember(&mut self, cgroup: BorrowedFd<'_>, links: Vec<FdLink>) -> Result<(), KernelError> {
        let cgroup = cgroup.try_clone_to_owned().map_err(examine);
        let watched = cgroup.and_then(|cgroup| self.watch(cgroup, &links));
        self.links = links;
        watched
    }

    /// Remembers the programs of links that are on the cgroup whose directory is given, for [`Self::lost`].
    fn watch(&mut self, cgroup: OwnedFd, links: &[FdLink]) -> Result<(), KernelError> {
        let programs = links
            .iter()
            .map(|link| Ok(link.info().map_err(std::io::Error::other)?.program_id()))
            .collect::<std::io::Result<_>>();
        self.programs = Some((cgroup, programs.map_err(examine)?));
        Ok(())
    }

    /// How many connections of the sandbox have been asked for and are neither accepted nor given up.
    pub fn half_open(&self) -> u64 {
        self.maps.half_open(self.sandbox.id).unwrap_or(0)
    }

    /// [`Self::half_open`] for those who look at it later.
    pub fn half_open_gauge(&self) -> HalfOpenGauge {
        HalfOpenGauge { maps: Arc::clone(&self.maps), sandbox: self.sandbox.id }
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
            self.reports.leave(self.sandbox.id);
            self.denied.iter_mut().chain(&mut self.allowed_loopback).for_each(NetworkSet::leave);
            return;
        }
        self.reports.forget(self.sandbox.id);
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

fn examine(source: std::io::Error) -> KernelError {
    KernelError::Io { action: "examine the links of a cgroup", source }
}
