//! Checks whether a directory is a cgroup that programs can be attached to
//! (`Documentation/admin-guide/cgroup-v2.rst`).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::programs::loaded_programs;
use nix::sys::stat::fstat;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::{KernelError, sys};

/// The kernel keeps 15 bytes of the name `interceptor_connect4`.
const PROGRAM: &str = "interceptor_con";

/// The id of a cgroup: its directory's inode number, which the kernel never reuses.
pub(super) fn id(cgroup: BorrowedFd<'_>) -> Result<u64, KernelError> {
    let system =
        fstatfs(cgroup).map_err(|error| io("read the cgroup's file system", error.into()))?;
    if system.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(KernelError::NotCgroup2);
    }
    let status = fstat(cgroup).map_err(|error| io("read the cgroup's directory", error.into()))?;
    Ok(status.st_ino)
}

/// Refuses a cgroup if any interceptor already enforces a policy on it, above it or below it. With
/// two redirections, the second would take the first one's target for the destination.
pub(super) fn refuse_second(cgroup: BorrowedFd<'_>) -> Result<(), KernelError> {
    let inherited = query(cgroup, true)?;
    let below = descendants(cgroup);
    if inherited.is_empty() && below.is_empty() {
        return Ok(());
    }
    let ours: HashSet<u32> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str() == Some(PROGRAM))
        .map(|program| program.id())
        .collect();
    if inherited.iter().any(|program| ours.contains(program)) {
        let place = if query(cgroup, false)?.iter().any(|program| ours.contains(program)) {
            "this cgroup"
        } else {
            "a cgroup above this one"
        };
        return Err(KernelError::AlreadyEnforced { place: place.to_owned() });
    }
    for path in below {
        // The cgroup may be gone by now.
        let Ok(directory) = File::open(&path) else { continue };
        let programs =
            sys::programs(directory.as_fd(), sys::INET4_CONNECT, false).unwrap_or_default();
        if programs.iter().any(|program| ours.contains(program)) {
            return Err(KernelError::AlreadyEnforced { place: path.display().to_string() });
        }
    }
    Ok(())
}

/// Whether an interceptor's programs, of any process, living or dead, govern this cgroup: attached
/// to it or to a cgroup above.
///
/// # Errors
///
/// If the kernel gives no certain answer.
pub fn is_enforced(cgroup: &Path) -> Result<bool, KernelError> {
    let cgroup = File::open(cgroup).map_err(|error| io("open the cgroup's directory", error))?;
    let mut unknown: HashSet<u32> = query(cgroup.as_fd(), true)?.into_iter().collect();
    if unknown.is_empty() {
        return Ok(false);
    }
    for program in loaded_programs().filter_map(Result::ok) {
        if unknown.remove(&program.id()) && program.name_as_str() == Some(PROGRAM) {
            return Ok(true);
        }
    }
    // A program we cannot inspect may be ours.
    if unknown.is_empty() {
        Ok(false)
    } else {
        Err(KernelError::Incomplete { part: "a program's name" })
    }
}

/// The programs on a cgroup.
fn query(cgroup: BorrowedFd<'_>, inherited: bool) -> Result<Vec<u32>, KernelError> {
    sys::programs(cgroup, sys::INET4_CONNECT, inherited).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::EPERM) => {
                KernelError::Privilege { action: "ask for a cgroup's eBPF programs", source }
            }
            _ => io("ask for the cgroup's eBPF programs", source),
        }
    })
}

/// Every cgroup below, found through the path the descriptor was opened with; empty if unreadable.
fn descendants(cgroup: BorrowedFd<'_>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd()))
        .into_iter()
        .collect::<Vec<_>>();
    while let Some(directory) = open.pop() {
        for child in directories(&directory) {
            found.push(child.clone());
            open.push(child);
        }
    }
    found
}

/// The subdirectories of a directory.
fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn io(action: &'static str, source: io::Error) -> KernelError {
    KernelError::Io { action, source }
}
