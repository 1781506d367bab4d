//! The sandbox's own `/proc` and `/sys`, without access to kernel controls.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};

use super::super::SandboxError;
use super::super::error::IoContext;
use super::super::mountinfo::Mount;
use super::steps::{bind, bind_read_only, fresh, tmpfs};

/// File systems that control the kernel or show the host's processes; unmounted wherever they are.
const CONTROLS: [&str; 17] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "bpf",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "pstore",
    "efivarfs",
    "binfmt_misc",
    "rpc_pipefs",
    "nsfs",
];

/// Entries of `/proc` that reveal more about the host's kernel than a sandbox needs.
const UNREADABLE: [&str; 11] = [
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "latency_stats",
    "sched_debug",
    "timer_list",
    "timer_stats",
];

/// Replaces `/proc` and `/sys`, and unmounts every other mount of their kind.
pub(super) fn replace(mounts: &[Mount]) -> Result<(), SandboxError> {
    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Mounts below these points are covered here, and only CAP_SYS_ADMIN uncovers them.
    let covered = [Path::new("/proc"), Path::new("/sys"), Path::new("/dev"), Path::new("/run")];
    for mount in mounts.iter().rev() {
        let control = CONTROLS.contains(&mount.kind.as_str());
        if !control
            || covered.iter().any(|point| mount.point.starts_with(point))
            || mount.point == Path::new("/")
        {
            continue;
        }
        match umount2(&mount.point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Already detached with the mount above it.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => {
                return Err(error).context(|| format!("cannot unmount {}", mount.point.display()));
            }
        }
    }
    fresh("proc", Path::new("/proc"), sealed, "")?;
    // In a shared network namespace sysfs is the host's own, which the kernel refuses to mount over
    // itself.
    let sys = Path::new("/sys");
    tmpfs(sys, sealed, "mode=755,size=4k")?;
    fresh("sysfs", sys, sealed | MsFlags::MS_RDONLY, "")
}

/// Makes writable parts of `/proc` read-only, except for the processes' own directories, and hides
/// revealing entries. Must come last, because the other steps use `/proc`.
pub(super) fn close_proc() -> Result<(), SandboxError> {
    let entries = fs::read_dir("/proc").context(|| "cannot list /proc".into())?;
    for entry in entries {
        let entry = entry.context(|| "cannot list /proc".into())?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_symlink() || name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        if UNREADABLE.contains(&name.as_ref()) {
            if metadata.is_dir() {
                tmpfs(&path, MsFlags::MS_RDONLY, "mode=0")?;
            } else {
                bind(Path::new("/dev/null"), &path)?;
            }
        } else if metadata.is_dir() || metadata.permissions().mode() & 0o222 != 0 {
            bind_read_only(&path, &path)?;
        }
    }
    Ok(())
}
