//! The pin directories of `attach` and `serve`, which keep a cgroup closed after a crash:
//! `<bpffs>/interceptor/<cgroup id>/`, with one subdirectory per attachment. The process that holds
//! the lock of the cgroup's directory enforces on the cgroup; anything the next holder finds there
//! was left by a dead process.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::FleetError;
use super::error::IoContext;
use crate::kernel;

/// Separates an id, which cannot contain it, from the number that distinguishes directories of one
/// id.
const MARK: char = '~';
/// How often to recreate a directory that is removed concurrently.
const ATTEMPTS: u32 = 10;

/// The locked directory of a cgroup. Dropping it removes the directory if nothing is pinned there
/// any more.
#[derive(Debug)]
pub(crate) struct Pins {
    base: PathBuf,
    /// Locked until this process ends.
    lock: File,
    /// Pin directories left by dead interceptors.
    pub(crate) stale: Vec<PathBuf>,
}

impl Pins {
    /// Locks the directory of the cgroup with this id; refused while a living interceptor holds it.
    pub(crate) fn of(cgroup_id: u64) -> Result<Self, FleetError> {
        // Programs are pinned in bpffs so that enforcement survives this process; the error says
        // how to mount it.
        let root = kernel::bpffs()?.join("interceptor");
        directory(&root)?;
        let base = root.join(cgroup_id.to_string());
        for _ in 0..ATTEMPTS {
            directory(&base)?;
            let options = fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
                .open(&base);
            let Ok(lock) = options else { continue };
            match lock.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    let message = "an `interceptor attach` or `interceptor serve` already \
                                   enforces a policy on this cgroup: remove that sandbox \
                                   (`interceptor ctl sandboxes delete ID`), stop that process, \
                                   or replace that daemon with `interceptor serve --takeover`";
                    return Err(FleetError::Taken(message.to_owned()));
                }
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).context(|| format!("cannot lock {}", base.display()));
                }
            }
            // The last holder may have removed it before we got the lock.
            let locked =
                lock.metadata().context(|| format!("cannot examine {}", base.display()))?;
            let named = fs::symlink_metadata(&base);
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
                let list = || format!("cannot list {}", base.display());
                let entries = fs::read_dir(&base).context(list)?;
                let stale = entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<std::io::Result<_>>()
                    .context(list)?;
                return Ok(Pins { base, lock, stale });
            }
        }
        Err(FleetError::Taken(format!(
            "another interceptor keeps removing {}: stop it first",
            base.display()
        )))
    }

    /// Adopts another process's directory and lock; both processes share the one lock.
    pub(crate) fn inherit(base: PathBuf, lock: File) -> Self {
        Pins { base, lock, stale: Vec::new() }
    }

    /// The cgroup's directory and its lock.
    pub(crate) fn parts(&self) -> (&Path, &File) {
        (&self.base, &self.lock)
    }

    /// An unused directory for the programs of the sandbox with this id. It never reuses a dead
    /// sandbox's directory, whose programs stay until the new ones are attached.
    pub(crate) fn fresh(&self, id: &str) -> PathBuf {
        let taken = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
        let plain = self.base.join(id);
        let others = (1_u64..).map(|number| self.base.join(format!("{id}{MARK}{number}")));
        // At most one directory per crash, so the search is short.
        std::iter::once(plain.clone()).chain(others).find(|path| !taken(path)).unwrap_or(plain)
    }

    /// The id of the sandbox whose programs a directory holds.
    pub(super) fn id_of(directory: &Path) -> String {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        name.split(MARK).next().unwrap_or_default().to_owned()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Fails, as intended, if programs stay pinned there.
        let _ = fs::remove_dir(&self.base);
    }
}

/// Creates the directory, or verifies that an existing one is ours: anybody may be able to write to
/// bpffs.
fn directory(path: &Path) -> Result<(), FleetError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).context(|| format!("cannot make {}", path.display()));
    }
    let found =
        fs::symlink_metadata(path).context(|| format!("cannot examine {}", path.display()))?;
    let own = found.is_dir()
        && found.uid() == nix::unistd::geteuid().as_raw()
        && found.mode() & 0o022 == 0;
    if !own {
        return Err(FleetError::Taken(format!(
            "{} does not belong to the user that interceptor runs as, or others can write to it: \
             check who made it, then remove it as root",
            path.display()
        )));
    }
    Ok(())
}
