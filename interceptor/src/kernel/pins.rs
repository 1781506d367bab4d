//! Links pinned in bpffs, so that enforcement survives the death of the interceptor (`BPF_OBJ_PIN`,
//! bpf(2)).
//!
//! A private namespace does not need that: without the programs there is still no way out. In a
//! shared one, a dead interceptor's pinned programs keep refusing whatever they would have
//! redirected, because no marked socket is left at the other end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::links::{FdLink, PinnedLink};
use nix::mount::{MsFlags, mount};

use super::hooks::HOOKS;
use super::{KernelError, sys};

/// The usual mount point of bpffs.
const USUAL: &str = "/sys/fs/bpf";

/// Returns the mount point of bpffs; mounts it at the usual place if it is not mounted.
///
/// # Errors
///
/// If it is not mounted and cannot be, which needs CAP_SYS_ADMIN and a `/sys`.
pub fn bpffs() -> Result<PathBuf, KernelError> {
    let mounts = fs::read_to_string("/proc/self/mounts")
        .map_err(|source| io("read /proc/self/mounts", source))?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    if let Some(found) = fields.find(|fields| fields.get(2) == Some(&"bpf")) {
        // Spaces are written as \040 there (getmntent(3)).
        return Ok(PathBuf::from(found[1].replace("\\040", " ")));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), USUAL, Some("bpf"), flags, Some("mode=700")).map_err(|error| {
        io("mount bpffs on /sys/fs/bpf (`mount -t bpf bpf /sys/fs/bpf`)", error.into())
    })?;
    Ok(PathBuf::from(USUAL))
}

/// Detaches an attachment's pinned programs from their cgroup and removes the directory. First end
/// the sandbox's processes, or attach other programs to the cgroup.
///
/// # Errors
///
/// If a pin cannot be opened or removed; the remaining pins are removed anyway.
pub fn remove_pins(directory: &Path) -> Result<(), KernelError> {
    let mut outcome = Ok(());
    for hook in &HOOKS {
        let path = directory.join(hook.name);
        if !path.exists() {
            continue;
        }
        let removed = PinnedLink::from_pin(&path)
            .map_err(io::Error::other)
            .and_then(PinnedLink::unpin)
            .map(|link| detach(&link))
            .map_err(|source| io("remove a pinned link", source));
        outcome = outcome.and(removed);
    }
    outcome.and(
        fs::remove_dir(directory)
            .map_err(|source| io("remove the directory of pinned links", source)),
    )
}

/// Pins links, in the order of [`HOOKS`], in a new directory, each under its hook's name. On error
/// nothing is pinned.
pub(super) fn pin(links: Vec<FdLink>, directory: &Path) -> Result<Vec<PinnedLink>, KernelError> {
    fs::create_dir(directory).map_err(|source| io("make a directory for pinned links", source))?;
    HOOKS
        .iter()
        .zip(links)
        .map(|(hook, link)| link.pin(directory.join(hook.name)))
        .collect::<Result<_, PinError>>()
        .map_err(|error| {
            let _ = remove_pins(directory);
            io("pin a link: the directory must be on a bpffs", io::Error::other(error))
        })
}

/// Opens the links pinned in a directory, in the order of [`HOOKS`].
pub(super) fn open(directory: &Path) -> Result<Vec<PinnedLink>, KernelError> {
    let open = |path| PinnedLink::from_pin(path).map_err(io::Error::other);
    HOOKS
        .iter()
        .map(|hook| {
            open(directory.join(hook.name)).map_err(|source| io("open a pinned link", source))
        })
        .collect()
}

/// Detaches a link from its cgroup, even if others hold it open.
pub(super) fn detach(link: &FdLink) {
    // Closing the last descriptor would too, but this may not be the last.
    let _ = link.info().map(|info| sys::detach_link(info.id()));
}

fn io(action: &'static str, source: io::Error) -> KernelError {
    KernelError::Io { action, source }
}
