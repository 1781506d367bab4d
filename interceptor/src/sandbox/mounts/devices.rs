//! The sandbox's own `/dev`: only the devices every program expects; no disks (which root owns),
//! `/dev/net/tun`, `/dev/vsock`, `/dev/vhost-net` or the host's log socket.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, makedev, mknod};
use nix::unistd::{Group, isatty};

use super::super::SandboxError;
use super::super::error::IoContext;
use super::super::handover::Launch;
use super::steps::{bind_open, fresh, make_directory, make_empty, open_path, tmpfs};

/// Name, major and minor number (Documentation/admin-guide/devices.txt of the kernel).
const DEVICES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// The terminal among the command's standard descriptors, opened in this mount namespace. Its name
/// is the user's to choose, and may lead to something else here: then there is none.
pub(super) fn terminal(stdio: &[BorrowedFd<'_>], launch: &Launch) -> Option<OwnedFd> {
    let descriptor = stdio.iter().find(|descriptor| isatty(descriptor).unwrap_or(false))?;
    let path = fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()?;
    let _rights = launch.rights().ok()?;
    let opened = open_path(&path).ok()?;
    let which = |status: FileStat| (status.st_dev, status.st_ino, status.st_rdev);
    let is_it = which(fstat(descriptor).ok()?) == which(fstat(&opened).ok()?);
    is_it.then_some(opened)
}

/// Replaces `/dev`. The terminal, whose name is in the host's `/dev/pts`, becomes `/dev/console`,
/// where ttyname(3) finds it.
pub(super) fn replace(terminal: Option<OwnedFd>) -> Result<(), SandboxError> {
    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    tmpfs(Path::new("/dev"), sealed, "mode=755,size=64k")?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&Path::new("/dev").join(name), SFlag::S_IFCHR, mode, makedev(major, minor))
            .context(|| format!("cannot make the device /dev/{name}"))?;
    }
    for (target, link) in LINKS {
        std::os::unix::fs::symlink(target, link).context(|| format!("cannot make {link}"))?;
    }
    for directory in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        make_directory(Path::new(directory))?;
    }
    let group = Group::from_name("tty")
        .ok()
        .flatten()
        .map_or(String::new(), |tty| format!(",gid={}", tty.gid));
    fresh(
        "devpts",
        Path::new("/dev/pts"),
        sealed,
        &format!("newinstance,ptmxmode=0666,mode=0620{group}"),
    )?;
    tmpfs(Path::new("/dev/shm"), sealed | MsFlags::MS_NODEV, "mode=1777")?;
    // POSIX message queues are optional in the kernel.
    let _ = fresh("mqueue", Path::new("/dev/mqueue"), sealed | MsFlags::MS_NODEV, "");
    if let Some(terminal) = terminal {
        let console = Path::new("/dev/console");
        make_empty(console)?;
        bind_open(&terminal, console)?;
    }
    Ok(())
}
