//! Where `attach` and `serve` pin their programs, so that their death leaves the wall standing: `<bpffs>/interceptor/<cgroup's id>/`, one directory
//! there for each attachment. Whoever holds the lock of the cgroup's directory enforces on the cgroup; what is found there by the
//! next one to hold it was left by the dead.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::FleetError;
use super::error::Context;
use crate::kernel;

/// Between an id, which has none, and a number that tells directories of one id apart.
const MARK: char = '~';
/// How often a directory that a normal end removes at the same moment is made again.
const ATTEMPTS: u32 = 10;

/// The locked directory of a cgroup. Dropping it removes it, if nothing is pinned there any more.
#[derive(Debug)]
pub(crate) struct Pins {
    base: PathBuf,
    /// Locked until this process ends.
    lock: File,
    /// What dead interceptors have left pinned.
    pub(crate) stale: Vec<PathBuf>,
}

impl Pins {
    /// Of the cgroup with this id; refused where a living interceptor has them.
    pub(crate) fn of(cgroup_id: u64) -> Result<Self, FleetError> {
        // Programs are pinned in bpffs, so that the wall outlives this process; the error says how to mount it.
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
                    let message = "an `interceptor attach` or `interceptor serve` already enforces a policy on this cgroup: remove that sandbox (`interceptor ctl sandboxes delete ID`) or stop that process first";
                    return Err(FleetError::Taken(message.to_owned()));
                }
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).context(|| format!("cannot lock {}", base.display()));
                }
            }
            // Locked too late, if its last holder has removed it in the meantime.
            let locked = lock.metadata().context(|| format!("cannot examine {}", base.display()))?;
            let named = fs::symlink_metadata(&base);
            if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
                let list = || format!("cannot list {}", base.display());
                let entries = fs::read_dir(&base).context(list)?;
                let stale =
                    entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>().context(list)?;
                return Ok(Pins { base, lock, stale });
            }
        }
        Err(FleetError::Taken(format!(
            "another interceptor keeps removing {}: stop it first",
            base.display()
        )))
    }

    /// Those that another process holds: the directory of the cgroup and its lock, which is one lock for both processes.
    pub(crate) fn inherit(base: PathBuf, lock: File) -> Self {
        Pins { base, lock, stale: Vec::new() }
    }

    /// The directory of the cgroup and its lock.
    pub(crate) fn parts(&self) -> (&Path, &File) {
        (&self.base, &self.lock)
    }

    /// Where to pin the programs of the sandbox with this id. The place of a dead one's, which stay until the new ones are there, is
    /// never used again.
    pub(crate) fn fresh(&self, id: &str) -> PathBuf {
        let taken = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
        let plain = self.base.join(id);
        let others = (1_u64..).map(|number| self.base.join(format!("{id}{MARK}{number}")));
        // There is one directory for each death at most, so that the search ends soon.
        std::iter::once(plain.clone()).chain(others).find(|path| !taken(path)).unwrap_or(plain)
    }

    /// The id of the sandbox whose programs are pinned in a directory.
    pub(super) fn id_of(directory: &Path) -> String {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        name.split(MARK).next().unwrap_or_default().to_owned()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Fails, as it should, when something is left there on purpose.
        let _ = fs::remove_dir(&self.base);
    }
}

/// Makes the directory, or makes sure that nobody else has made it: a bpffs may be open to everybody.
fn directory(path: &Path) -> Result<(), FleetError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    if let Err(error) = made
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(error).context(|| format!("cannot make {}", path.display()));
    }
    let found = fs::symlink_metadata(path).context(|| format!("cannot examine {}", path.display()))?;
    let own = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if !own {
        return Err(FleetError::Taken(format!(
            "{} does not belong to the user that interceptor runs as, or others can write to it: check who \
             made it, then remove it as root",
            path.display()
        )));
    }
    Ok(())
}
