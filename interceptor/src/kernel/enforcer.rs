//! This process's programs and maps, loaded once.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use aya::{Ebpf, EbpfLoader};
use interceptor_ebpf::layout::{HALF_OPEN_LIMIT, SHARED_NETNS};
use interceptor_ebpf::{Endpoint, Sandbox};
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;

use super::attachment::Attachment;
use super::destinations::Accepted;
use super::events::KernelLog;
use super::fill::MapGauge;
use super::hooks::HOOKS;
use super::inherited::Inherited;
use super::maps::Maps;
use super::numbers::Numbers;
use super::pins::remove_pins;
use super::refusals::Reports;
use super::{KernelError, cgroup};
use crate::seam::Destinations;

/// The programs, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/interceptor.o");

/// What the programs enforce on one cgroup.
#[derive(Clone, Debug)]
pub struct Enforcement {
    /// The cgroup's id: the inode number of its directory.
    pub cgroup_id: u64,
    /// Whether others share the sandbox's network namespace; its loopback is not its own then.
    pub shared_netns: bool,
    /// The listener for TCP over IPv4, mapped addresses included.
    pub tcp4: SocketAddrV4,
    /// The listener for TCP over IPv6; without one, TCP over IPv6 is refused.
    pub tcp6: Option<SocketAddrV6>,
    /// The resolver for UDP over IPv4.
    pub dns4: SocketAddrV4,
    /// The resolver for UDP over IPv6; without one, UDP over IPv6 is refused.
    pub dns6: Option<SocketAddrV6>,
    /// Networks to which `connect` fails with `EPERM`. Synthetic addresses and port 53 are exempt.
    pub denied: Vec<IpNet>,
    /// In a shared namespace: loopback networks whose connections go to the proxy instead of
    /// failing.
    pub allowed_loopback: Vec<IpNet>,
}

/// Load options.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// The number of sandboxes the maps have room for. Each costs 16 KiB of kernel memory in the
    /// table of half-open connections.
    pub sandboxes: u32,
    /// Whether the programs emit debug events for their refusals (`tracing` target
    /// `interceptor::kernel::events`). Otherwise the verifier removes that code.
    pub debug: bool,
}

impl Default for LoadOptions {
    /// 64 sandboxes; debug events if a subscriber wants them.
    fn default() -> Self {
        Self { sandboxes: 64, debug: KernelLog::is_wanted() }
    }
}

/// The loaded programs and their maps. Attachments may outlive it: each holds what it needs.
pub struct Enforcer {
    object: Mutex<Ebpf>,
    maps: Arc<Maps>,
    reports: Arc<Reports>,
    numbers: Arc<Numbers>,
    sandboxes: u32,
    _log: Option<KernelLog>,
}

impl fmt::Debug for Enforcer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Enforcer")
            .field("sandboxes", &self.sandboxes)
            .finish_non_exhaustive()
    }
}

impl Enforcer {
    /// Loads every program and creates every map with the default [`LoadOptions`].
    pub fn load() -> Result<Self, KernelError> {
        Self::load_with(LoadOptions::default())
    }

    /// Loads every program and creates every map.
    ///
    /// # Errors
    ///
    /// If the kernel refuses anything; the error names the remedy, and nothing stays loaded.
    pub fn load_with(options: LoadOptions) -> Result<Self, KernelError> {
        let mut object = load_object(options)?;
        for hook in &HOOKS {
            hook.load(&mut object)?;
        }
        let log = options.debug.then(|| KernelLog::start(&mut object)).transpose()?;
        let maps = Arc::new(Maps::take(&mut object)?);
        let reports = Reports::take(&mut object, Arc::clone(&maps))?;
        reports.begin()?;
        Ok(Self {
            object: Mutex::new(object),
            maps,
            reports,
            numbers: Arc::new(Numbers::new()),
            sandboxes: options.sandboxes,
            _log: log,
        })
    }

    /// Attaches the programs to a cgroup. They refuse everything until this returns, and enforce
    /// `enforcement` afterwards.
    ///
    /// # Errors
    ///
    /// If the directory is not a cgroup, if an interceptor already enforces a policy on, above or
    /// below it, or if the kernel refuses. Nothing stays attached then.
    pub fn attach(
        &self,
        cgroup: impl AsFd,
        enforcement: &Enforcement,
    ) -> Result<Attachment, KernelError> {
        self.attach_beside(cgroup.as_fd(), enforcement, cgroup::refuse_second)
    }

    /// As [`Self::attach`], and pins the programs under the new directory `pins`, so that they
    /// outlive this process. `stale` are the pin directories dead interceptors left for the same
    /// cgroup: their programs are removed once the new ones are pinned. Nothing gets out in
    /// between, since each set refuses the other's listener.
    ///
    /// # Errors
    ///
    /// As [`Self::attach`] and [`Attachment::pin`]; the old programs then stay.
    pub fn attach_pinned(
        &self,
        cgroup: impl AsFd,
        enforcement: &Enforcement,
        pins: &Path,
        stale: &[PathBuf],
    ) -> Result<Attachment, KernelError> {
        let permit = |cgroup: BorrowedFd<'_>| {
            if stale.is_empty() { cgroup::refuse_second(cgroup) } else { Ok(()) }
        };
        let mut attachment = self.attach_beside(cgroup.as_fd(), enforcement, permit)?;
        attachment.pin(pins)?;
        stale.iter().try_for_each(|directory| remove_pins(directory))?;
        Ok(attachment)
    }

    /// Attaches if `permit` succeeds.
    fn attach_beside(
        &self,
        cgroup: BorrowedFd<'_>,
        enforcement: &Enforcement,
        permit: impl FnOnce(BorrowedFd<'_>) -> Result<(), KernelError>,
    ) -> Result<Attachment, KernelError> {
        let actual = cgroup::id(cgroup)?;
        if actual != enforcement.cgroup_id {
            return Err(KernelError::WrongCgroup { actual, given: enforcement.cgroup_id });
        }
        // Held from the check to the last link: two threads may want the same cgroup.
        let mut object = self.object.lock().unwrap_or_else(PoisonError::into_inner);
        permit(cgroup)?;
        let sandbox = self.numbers.next();
        self.maps.admit(sandbox).map_err(|error| self.full(error))?;
        let mut attachment = Attachment::new(
            Arc::clone(&self.maps),
            Arc::clone(&self.reports),
            Arc::clone(&self.numbers),
            actual,
            self.describe(sandbox, enforcement),
        );
        attachment.write_networks(&enforcement.denied, &enforcement.allowed_loopback)?;
        attachment.remember(cgroup, attach_all(&mut object, cgroup)?)?;
        drop(object);
        attachment.configure()?;
        Ok(attachment)
    }

    /// Adopts the programs and maps of another process from its [`Attachment::descriptors`].
    ///
    /// # Errors
    ///
    /// If they are not such a set, or their layout differs from this build's.
    pub fn inherit(&self, descriptors: Vec<OwnedFd>) -> Result<Inherited, KernelError> {
        Inherited::open(descriptors, Arc::clone(&self.numbers))
    }

    /// The lookup of accepted connections' original destinations.
    pub fn destinations(&self) -> Arc<dyn Destinations> {
        Arc::new(Accepted(Arc::clone(&self.maps)))
    }

    /// A gauge of the maps' fill levels.
    pub fn gauge(&self) -> MapGauge {
        MapGauge { maps: Arc::clone(&self.maps), sandboxes: self.sandboxes }
    }

    /// The configuration of a sandbox, without its networks.
    fn describe(&self, id: u64, enforcement: &Enforcement) -> Sandbox {
        let endpoint6 = |address: Option<SocketAddrV6>| {
            address.map_or_else(Endpoint::default, |address| SocketAddr::V6(address).into())
        };
        Sandbox {
            id,
            denied: 0,
            allowed_loopback: 0,
            tcp4: SocketAddr::V4(enforcement.tcp4).into(),
            tcp6: endpoint6(enforcement.tcp6),
            dns4: SocketAddr::V4(enforcement.dns4).into(),
            dns6: endpoint6(enforcement.dns6),
            flags: if enforcement.shared_netns { SHARED_NETNS } else { 0 },
            half_open_limit: HALF_OPEN_LIMIT,
        }
    }

    /// Names the error of a full sandbox table.
    fn full(&self, error: KernelError) -> KernelError {
        match error {
            KernelError::Map { source: aya::maps::MapError::SyscallError(ref error), .. }
                if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
            {
                KernelError::Full { sandboxes: self.sandboxes }
            }
            error => error,
        }
    }

    /// The maps, for tests that look for leftovers.
    #[cfg(test)]
    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.reports.end();
    }
}

/// Creates the maps; loads no program yet.
pub(super) fn load_object(options: LoadOptions) -> Result<Ebpf, KernelError> {
    // aya-log's own levels: 0 is below all of them, 4 is debug.
    let level: u8 = if options.debug { 4 } else { 0 };
    let flows = options.sandboxes.saturating_mul(HALF_OPEN_LIMIT);
    blind_loader()
        // The programs need no relocation against kernel types, so the running kernel's BTF need
        // not exist or be parsed.
        .btf(None)
        .override_global("AYA_LOG_LEVEL", &level, true)
        .map_max_entries("FLOWS", flows)
        .map_max_entries("HALF_OPEN", options.sandboxes)
        .map_max_entries("REPORTED", options.sandboxes)
        .load(OBJECT)
        .map_err(KernelError::object)
}

/// A loader that skips the running kernel's BTF. aya reads and parses all of it (about 15 ms and 20
/// MiB) before it can be told not to. A thread with an empty root directory gives it nothing to
/// read.
fn blind_loader() -> EbpfLoader<'static> {
    let elsewhere = || {
        unshare(CloneFlags::CLONE_FS)
            .and_then(|()| chroot("/proc/self/fd"))
            .ok()
            .map(|()| EbpfLoader::new())
    };
    let made = thread::Builder::new().name("kernel-loader".to_owned()).spawn(elsewhere);
    // If the thread may not change its root, the loader parses the BTF for nothing.
    made.ok().and_then(|thread| thread.join().ok()).flatten().unwrap_or_default()
}

/// Attaches every program; on error, detaches those already attached.
fn attach_all(
    object: &mut Ebpf,
    cgroup: BorrowedFd<'_>,
) -> Result<Vec<aya::programs::links::FdLink>, KernelError> {
    HOOKS.iter().map(|hook| hook.attach(object, cgroup)).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_embedded_object_is_the_one_whose_hash_is_checked_in() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, OBJECT);
        let mut hash = String::new();
        digest.as_ref().iter().for_each(|byte| write!(hash, "{byte:02x}").unwrap());
        assert_eq!(
            include_str!("../../ebpf/interceptor.o.sha256"),
            format!("{hash}  interceptor.o\n")
        );
    }

    #[test]
    fn numbers_are_never_zero_and_never_come_twice() {
        let numbers = Numbers::new();
        let (first, second) = (numbers.next(), numbers.next());
        assert!(first > 0 && second > first);
    }
}
