//! An empty `/run`: there the host's services keep their sockets (container engines, D-Bus, systemd, resolvers, agents of the
//! user), and we our control socket. Whoever reaches one of those can have a process started outside (attack K9, K11).

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::super::SandboxError;
use super::super::error::Context;
use super::{bind_open, make_directory, open_path, set_mode, tmpfs};

/// Entries that hold programs or a person's disks, never sockets.
const KEPT: [&str; 6] =
    ["current-system", "booted-system", "opengl-driver", "opengl-driver-32", "wrappers", "media"];

enum Kept {
    Link(PathBuf),
    Directory(OwnedFd),
}

/// Replaces `/run`, and `/var/run` where it is a directory of its own. The working directory stays reachable.
pub(super) fn replace(directory: &Path) -> Result<(), SandboxError> {
    let run = Path::new("/run");
    let mut kept = Vec::new();
    for name in KEPT {
        let path = run.join(name);
        if let Ok(target) = fs::read_link(&path) {
            kept.push((path, Kept::Link(target)));
        } else if path.is_dir() {
            let open = open_path(&path).context(|| format!("cannot open {}", path.display()))?;
            kept.push((path, Kept::Directory(open)));
        }
    }
    if directory.starts_with(run) && directory != run {
        let open = open_path(directory).context(|| format!("cannot open {}", directory.display()))?;
        kept.push((directory.to_owned(), Kept::Directory(open)));
    }

    let sealed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    tmpfs(run, sealed, "mode=755")?;
    for (path, what) in kept {
        match what {
            Kept::Link(target) => std::os::unix::fs::symlink(target, &path)
                .context(|| format!("cannot make {}", path.display()))?,
            Kept::Directory(open) => {
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
