//! The single steps: mounts, and the files and directories they need.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::super::error::IoContext;
use super::super::{SandboxError, sys};

/// Mounts an empty file system over a directory.
pub(super) fn tmpfs(target: &Path, flags: MsFlags, options: &str) -> Result<(), SandboxError> {
    fresh("tmpfs", target, flags, options)
}

/// Mounts a kernel file system over a directory.
pub(super) fn fresh(
    kind: &str,
    target: &Path,
    flags: MsFlags,
    options: &str,
) -> Result<(), SandboxError> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .context(|| format!("cannot mount {kind} on {}", target.display()))
}

/// Bind-mounts `source` at `target`, with the mounts below it.
pub(super) fn bind(source: &Path, target: &Path) -> Result<(), SandboxError> {
    let none: Option<&Path> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .context(|| format!("cannot mount {} on {}", source.display(), target.display()))
}

/// Bind-mounts an open `source` at `target`, even if a later mount covers its path.
pub(super) fn bind_open(source: &OwnedFd, target: &Path) -> Result<(), SandboxError> {
    bind(&PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd())), target)
}

/// Bind-mounts `source` at `target`, read-only, nosuid and nodev.
pub(super) fn bind_read_only(source: &Path, target: &Path) -> Result<(), SandboxError> {
    bind(source, target)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    sys::set_mount_attributes(target, attributes, 0, true)
        .context(|| format!("cannot make {} read-only", target.display()))
}

/// Opens a path to mount it elsewhere later, without following a final symlink.
pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    Ok(fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

pub(super) fn make_directory(path: &Path) -> Result<(), SandboxError> {
    fs::create_dir_all(path).context(|| format!("cannot make the directory {}", path.display()))
}

pub(super) fn make_file(path: &Path, content: &[u8]) -> Result<(), SandboxError> {
    fs::write(path, content).context(|| format!("cannot write {}", path.display()))?;
    set_mode(path, 0o444)
}

pub(super) fn make_empty(path: &Path) -> Result<(), SandboxError> {
    File::create(path).map(drop).context(|| format!("cannot make {}", path.display()))
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), SandboxError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(|| format!("cannot set the mode of {}", path.display()))
}
