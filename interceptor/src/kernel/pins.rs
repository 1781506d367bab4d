//! Links pinned in bpffs, so that the death of the interceptor leaves the wall standing (`BPF_OBJ_PIN`, bpf(2)).
//!
//! In a private namespace that is not needed: without the programs there is still no way out. In a shared one, a dead interceptor's pinned
//! programs go on refusing what they would have redirected, since nobody they know is at the other end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::links::{FdLink, PinnedLink};
use nix::mount::{MsFlags, mount};

use super::hooks::HOOKS;
use super::{KernelError, sys};

/// Where bpffs is usually mounted.
const USUAL: &str = "/sys/fs/bpf";

/// Where bpffs is mounted; mounts it at its usual place if it is nowhere.
///
/// # Errors
///
/// When it is not mounted and cannot be, which needs CAP_SYS_ADMIN and a `/sys`.
pub fn bpffs() -> Result<PathBuf, KernelError> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").map_err(|source| io("read /proc/self/mounts", source))?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    if let Some(found) = fields.find(|fields| fields.get(2) == Some(&"bpf")) {
        // Spaces are written as \040 there (getmntent(3)).
        return Ok(PathBuf::from(found[1].replace("\\040", " ")));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), USUAL, Some("bpf"), flags, Some("mode=700"))
        .map_err(|error| io("mount bpffs on /sys/fs/bpf (`mount -t bpf bpf /sys/fs/bpf`)", error.into()))?;
    Ok(PathBuf::from(USUAL))
}

/// Takes the pinned programs of an attachment off their cgroup, and removes the directory. End the sandbox's processes before, or
/// have another attachment on the cgroup.
///
/// # Errors
///
/// When a pin cannot be opened or removed; those after it are removed all the same.
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
    outcome
        .and(fs::remove_dir(directory).map_err(|source| io("remove the directory of pinned links", source)))
}

/// Pins links, in the order of [`HOOKS`], each under its hook's name in a new directory. On an error nothing is pinned.
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

/// Opens the links that are pinned in a directory, in the order of [`HOOKS`].
pub(super) fn open(directory: &Path) -> Result<Vec<PinnedLink>, KernelError> {
    let open = |path| PinnedLink::from_pin(path).map_err(io::Error::other);
    HOOKS
        .iter()
        .map(|hook| open(directory.join(hook.name)).map_err(|source| io("open a pinned link", source)))
        .collect()
}

/// Takes a link off its cgroup, whoever else has it open.
pub(super) fn detach(link: &FdLink) {
    // Closing the last descriptor does it too; this one may not be the last.
    let _ = link.info().map(|info| sys::detach_link(info.id()));
}

fn io(action: &'static str, source: io::Error) -> KernelError {
    KernelError::Io { action, source }
}
