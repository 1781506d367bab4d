//! The programs on one cgroup.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::links::{FdLink, PinnedLink};
use interceptor_ebpf::Sandbox;
use interceptor_ebpf::layout::REPORTS;
use ipnet::IpNet;

use super::fill::HalfOpenGauge;
use super::hooks::HOOKS;
use super::maps::Maps;
use super::networks::NetworkSet;
use super::numbers::Numbers;
use super::refusals::Reports;
use super::{KernelError, pins, sys};
use crate::seam::{Listeners, Refusals};

/// The enforcement of one sandbox. Dropping it first refuses everything, then detaches the programs
/// and removes every map entry. End the sandbox's processes before: nothing intercepts the
/// survivors afterwards.
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
    /// The cgroup's directory, and the ids of its programs in the order of [`HOOKS`].
    programs: Option<(OwnedFd, Vec<u32>)>,
    pinned: Vec<PinnedLink>,
    directory: Option<PathBuf>,
    keeps_programs: bool,
}

impl Attachment {
    /// The turns of [`Self::holds`].
    pub const TURNS: usize = 4;

    /// For a sandbox that [`Maps::admit`] has admitted; has no links yet.
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
            keeps_programs: false,
        }
    }

    /// Atomically replaces the networks that `connect` refuses and the loopback networks that a
    /// shared namespace redirects: every `connect` sees either the old sets or the new ones. May
    /// block for milliseconds.
    ///
    /// # Errors
    ///
    /// If the kernel refuses an entry; the old sets then stay in force.
    pub fn set_networks(
        &mut self,
        denied: &[IpNet],
        allowed_loopback: &[IpNet],
    ) -> Result<(), KernelError> {
        let denied = NetworkSet::write(&self.maps, self.numbers.next(), denied)?;
        let allowed = NetworkSet::write(&self.maps, self.numbers.next(), allowed_loopback)?;
        let sandbox =
            Sandbox { denied: denied.number(), allowed_loopback: allowed.number(), ..self.sandbox };
        self.maps.configure(self.cgroup_id, &sandbox)?;
        self.sandbox = sandbox;
        // A program that has read the old numbers may not have looked up the old sets yet, so drop
        // the sets only after every running program has ended.
        sys::wait_for_programs();
        (self.denied, self.allowed_loopback) = (Some(denied), Some(allowed));
        Ok(())
    }

    /// Marks the interceptor's sockets in the sandbox as its own. In a shared namespace,
    /// connections are redirected only to marked sockets, so nobody can take a dead interceptor's
    /// port, and only a marked resolver may answer. In a private namespace the mark is optional. No
    /// process of the sandbox may ever get hold of one of these sockets.
    ///
    /// # Errors
    ///
    /// If the kernel has no memory for the mark.
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
    /// If the kernel has no memory for the mark.
    pub fn mark(&self, socket: impl AsFd) -> Result<(), KernelError> {
        self.maps.mark_own(socket.as_fd(), self.sandbox.id)
    }

    /// Pins the programs under a new directory, which must be on a bpffs (see [`super::bpffs`]), so
    /// that they stay on the cgroup when this process dies. Dropping the attachment still detaches
    /// them and removes the directory; after a crash, [`super::remove_pins`] or
    /// [`super::Enforcer::attach_pinned`] does.
    ///
    /// # Errors
    ///
    /// If the directory exists or is not on a bpffs. The programs are detached then: drop the
    /// attachment and do not start the sandbox.
    pub fn pin(&mut self, directory: &Path) -> Result<(), KernelError> {
        self.pinned = pins::pin(std::mem::take(&mut self.links), directory)?;
        self.directory = Some(directory.to_owned());
        Ok(())
    }

    /// Ends the attachment but keeps pinned programs on the cgroup. They refuse whatever they would
    /// redirect to the listeners this process is about to close. Unpinned programs are detached.
    pub fn keep_programs(mut self) {
        self.keeps_programs = !self.pinned.is_empty();
    }

    /// Adopts another process's programs, pinned in `directory`. Dropping the attachment keeps them
    /// until [`Self::take_ownership`].
    pub(super) fn inherit(
        (maps, reports): (Arc<Maps>, Arc<Reports>),
        numbers: Arc<Numbers>,
        cgroup_id: u64,
        sandbox: Sandbox,
        sets: [Option<NetworkSet>; 2],
        (directory, cgroup): (&Path, Option<OwnedFd>),
    ) -> Result<Self, KernelError> {
        let mut attachment = Self::new(maps, reports, numbers, cgroup_id, sandbox);
        // Set first, so that a failure below changes nothing.
        attachment.keeps_programs = true;
        [attachment.denied, attachment.allowed_loopback] = sets;
        attachment.directory = Some(directory.to_owned());
        attachment.pinned = pins::open(directory)?;
        if let Some(cgroup) = cgroup {
            // Reopened, because a pinned link does not expose its program.
            let links: Vec<FdLink> = pins::open(directory)?.into_iter().map(FdLink::from).collect();
            attachment.watch(cgroup, &links)?;
        }
        Ok(attachment)
    }

    /// Takes ownership of the programs: dropping the attachment now detaches them. Call it once the
    /// process that attached them has let go of them.
    pub fn take_ownership(&mut self) {
        self.keeps_programs = false;
        // Without the thread, refusals are recorded when the sandbox ends.
        if let Err(error) = self.reports.begin() {
            tracing::warn!(
                %error,
                "cannot read kernel refusals now; they will be recorded when the sandbox ends"
            );
        }
    }

    /// Stops reading the refusals of its [`Self::program_set`], because another process has taken
    /// over.
    pub fn stop_reporting(&self) {
        self.reports.end();
    }

    /// The cgroup's id.
    pub fn cgroup_id(&self) -> u64 {
        self.cgroup_id
    }

    /// The directory its programs are pinned in, if any.
    pub fn pins(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    /// The descriptors another process needs, besides [`Self::pins`], to continue with the same
    /// programs and maps: see [`super::Enforcer::inherit`]. Identical for every attachment of one
    /// [`Self::program_set`].
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = self.maps.descriptors();
        all.push(self.reports.descriptor());
        all
    }

    /// Identifies the set of programs and maps within this process.
    pub fn program_set(&self) -> usize {
        Arc::as_ptr(&self.maps).addr()
    }

    /// Reports the programs' refusals from now on. Call it after the self-test, whose refusals must
    /// not be recorded.
    ///
    /// # Errors
    ///
    /// If the programs cannot be configured; nothing is reported then.
    pub fn report_to(&mut self, refusals: Arc<dyn Refusals>) -> Result<(), KernelError> {
        self.reports.listen(self.sandbox.id, refusals);
        let sandbox = Sandbox { flags: self.sandbox.flags | REPORTS, ..self.sandbox };
        self.maps.configure(self.cgroup_id, &sandbox)?;
        self.sandbox = sandbox;
        Ok(())
    }

    /// Delivers every refusal so far before it returns. Call it at the end of a sandbox, when its
    /// processes are gone.
    pub fn flush_refusals(&self) {
        self.reports.flush(self.sandbox.id);
    }

    /// Whether the programs of this turn are certainly on the cgroup, which exists then. So many
    /// turns in a row, from any, look at every program; each costs as many fewer system calls.
    pub fn holds(&self, turn: usize) -> bool {
        let Some((cgroup, programs)) = &self.programs else { return false };
        let all = HOOKS.iter().zip(programs).enumerate();
        all.filter(|(number, _)| number % Self::TURNS == turn % Self::TURNS).all(
            |(_, (hook, program))| {
                sys::has_program(cgroup.as_fd(), hook.kind, *program).is_ok_and(|found| found)
            },
        )
    }

    /// The hooks whose programs are no longer on the cgroup: somebody detached them, or the cgroup
    /// is gone.
    pub fn lost(&self) -> Vec<&'static str> {
        let Some((cgroup, programs)) = &self.programs else { return Vec::new() };
        HOOKS
            .iter()
            .zip(programs)
            .filter(|(hook, program)| {
                // If the kernel does not tell, assume nothing is lost.
                sys::has_program(cgroup.as_fd(), hook.kind, **program).is_ok_and(|found| !found)
            })
            .map(|(hook, _)| hook.name)
            .collect()
    }

    /// Records the links and their programs, once all links exist.
    pub(super) fn remember(
        &mut self,
        cgroup: BorrowedFd<'_>,
        links: Vec<FdLink>,
    ) -> Result<(), KernelError> {
        let cgroup = cgroup.try_clone_to_owned().map_err(examine);
        let watched = cgroup.and_then(|cgroup| self.watch(cgroup, &links));
        self.links = links;
        watched
    }

    /// Records the ids of the programs behind `links`, for [`Self::lost`].
    fn watch(&mut self, cgroup: OwnedFd, links: &[FdLink]) -> Result<(), KernelError> {
        let programs = links
            .iter()
            .map(|link| Ok(link.info().map_err(std::io::Error::other)?.program_id()))
            .collect::<std::io::Result<_>>();
        self.programs = Some((cgroup, programs.map_err(examine)?));
        Ok(())
    }

    /// The number of half-open connections: requested, neither accepted nor given up yet.
    pub fn half_open(&self) -> u64 {
        self.maps.half_open(self.sandbox.id).unwrap_or(0)
    }

    /// A gauge for [`Self::half_open`].
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

    /// Writes the configuration that the programs read.
    pub(super) fn configure(&self) -> Result<(), KernelError> {
        self.maps.configure(self.cgroup_id, &self.sandbox)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.keeps_programs {
            self.reports.stop_delivery(self.sandbox.id);
            self.denied.iter_mut().chain(&mut self.allowed_loopback).for_each(NetworkSet::keep);
            return;
        }
        self.reports.forget(self.sandbox.id);
        // The cgroup may be gone, and its storage with it.
        let _ = self.maps.configure(self.cgroup_id, &Sandbox::default());
        self.links.drain(..).for_each(|link| pins::detach(&link));
        for link in self.pinned.drain(..) {
            // If somebody has already removed the pin, closing the last descriptor (this one)
            // detaches the link.
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
