//! An empty `/run`: the host's services keep their sockets there (container engines, D-Bus,
//! systemd, resolvers, user agents), and so do we. Through one of them a process could start
//! another outside (attack K9, K11).

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::super::SandboxError;
use super::super::error::IoContext;
use super::super::handover::Launch;
use super::steps::{bind_open, make_directory, open_path, set_mode, tmpfs};

/// Entries that hold programs or removable disks, never sockets.
const KEPT: [&str; 6] =
    ["current-system", "booted-system", "opengl-driver", "opengl-driver-32", "wrappers", "media"];

enum RunEntry {
    Link(PathBuf),
    Directory(OwnedFd),
}

/// Replaces `/run`, and `/var/run` if it is a separate directory. The working directory stays
/// reachable.
pub(super) fn replace(launch: &Launch) -> Result<(), SandboxError> {
    let (run, directory) = (Path::new("/run"), launch.directory.0.as_path());
    let mut kept = Vec::new();
    for name in KEPT {
        let path = run.join(name);
        if let Ok(target) = fs::read_link(&path) {
            kept.push((path, RunEntry::Link(target)));
        } else if path.is_dir() {
            let open = open_path(&path).context(|| format!("cannot open {}", path.display()))?;
            kept.push((path, RunEntry::Directory(open)));
        }
    }
    if directory.starts_with(run) && directory != run {
        let rights = launch.rights().context(|| "cannot take on the user's rights".into())?;
        let open = open_path(directory);
        drop(rights);
        let open = open.context(|| format!("cannot open {}", directory.display()))?;
        kept.push((directory.to_owned(), RunEntry::Directory(open)));
    }

    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    tmpfs(run, sealed, "mode=755")?;
    for (path, what) in kept {
        match what {
            RunEntry::Link(target) => std::os::unix::fs::symlink(target, &path)
                .context(|| format!("cannot make {}", path.display()))?,
            RunEntry::Directory(open) => {
                make_directory(&path)?;
                bind_open(&open, &path)?;
            }
        }
    }
    let lock = run.join("lock");
    make_directory(&lock)?;
    set_mode(&lock, 0o1777)?;
    let _ = std::os::unix::fs::symlink("/dev/shm", run.join("shm"));
    let var_run = Path::new("/var/run");
    if fs::symlink_metadata(var_run).is_ok_and(|metadata| metadata.is_dir()) {
        tmpfs(var_run, sealed, "mode=755")?;
    }
    Ok(())
}
