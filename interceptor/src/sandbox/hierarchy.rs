//! Where cgroups are, and how processes get into them (cgroups(7)).

use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::error::IoContext;
use super::{SandboxError, mountinfo};

/// The parent directory of all our cgroups, below the mount.
pub(super) const PARENT: &str = "interceptor";

/// The mount point of cgroup v2.
pub(crate) fn mount_point() -> Result<PathBuf, SandboxError> {
    let mounts = mountinfo::read().context(|| "cannot read /proc/self/mountinfo".into())?;
    // Prefer the whole tree to a bind mount of a part of it, and skip a mount that a later one
    // covers.
    let visible = |point: &Path| point.join("cgroup.procs").exists();
    let found = mounts.iter().filter(|mount| mount.kind == "cgroup2" && visible(&mount.point));
    let found = found.min_by_key(|mount| mount.root != Path::new("/"));
    found.map(|mount| mount.point.clone()).ok_or_else(|| SandboxError::Missing {
        what: "cgroup v2 is not mounted".into(),
        remedy: "mount it with `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 \
                 /sys/fs/cgroup/unified`"
            .into(),
    })
}

/// The deepest cgroup that is looked for.
const DEEPEST: usize = 64;

/// Where the cgroup with this id is, as /proc shows it; `None` if it is not below the mount. Reads
/// directories until it is found.
pub(crate) fn find(mount: &Path, id: u64) -> io::Result<Option<PathBuf>> {
    if fs::metadata(mount)?.ino() == id {
        return Ok(Some(PathBuf::from("/")));
    }
    let mut open = vec![(PathBuf::from("/"), 0)];
    while let Some((path, depth)) = open.pop() {
        let shown = mount.join(path.strip_prefix("/").unwrap_or(&path));
        // It may be gone by now.
        for entry in fs::read_dir(shown).into_iter().flatten().filter_map(Result::ok) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let below = path.join(entry.file_name());
            if entry.ino() == id {
                return Ok(Some(below));
            }
            if depth < DEEPEST {
                open.push((below, depth + 1));
            }
        }
    }
    Ok(None)
}

/// Moves a process into the cgroup at `path`.
pub(crate) fn add(path: &Path, process: Pid) -> Result<(), SandboxError> {
    let file = path.join("cgroup.procs");
    fs::write(&file, process.to_string())
        .context(|| format!("cannot move process {process} into the cgroup {}", path.display()))
}

/// Makes the directory of a cgroup, unless it is there.
pub(super) fn make_directory(path: &Path) -> Result<(), SandboxError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.context(|| format!("cannot make the cgroup {}", path.display())),
    }
}
