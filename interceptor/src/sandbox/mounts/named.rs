//! Opens places that somebody named, to mount something on what was opened: a name may lead
//! elsewhere by then.
//!
//! What the user named is looked up with the user's rights. Otherwise mounts would tell of files
//! that only root can see, and stand where only root may go.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::SandboxError;
use super::super::bundles::path_of;
use super::super::error::IoContext;
use super::super::user::UserIdentity;
use super::steps::open_path;

/// What a name leads to.
pub(super) struct Named {
    file: OwnedFd,
    /// Its kind, mode and owner.
    pub(super) status: Metadata,
}

impl Named {
    /// Opens it with this thread's rights, without following a final symlink.
    pub(super) fn open(path: &Path) -> io::Result<Named> {
        let file = open_path(path)?;
        let status = File::from(file.try_clone()?).metadata()?;
        Ok(Named { file, status })
    }

    /// The path to mount on, or from.
    pub(super) fn path(&self) -> PathBuf {
        path_of(&self.file)
    }
}

/// What was found of a place that is hidden, by a thread that still has the rights that it was
/// opened with. `None` if the command cannot reach it either.
///
/// # Errors
/// If the command could let itself in.
pub(super) fn found<T>(
    opened: io::Result<T>,
    path: &Path,
    user: &UserIdentity,
) -> Result<Option<T>, SandboxError> {
    let error = match opened {
        Ok(found) => return Ok(Some(found)),
        Err(error) => error,
    };
    if error.kind() == io::ErrorKind::PermissionDenied && is_barred_by(path, user.uid) {
        return Err(error).context(|| format!("cannot examine {}, to hide it", path.display()));
    }
    Ok(None)
}

/// Whether the directory that bars the way is this user's.
fn is_barred_by(path: &Path, user: u32) -> bool {
    let bars = path.ancestors().skip(1).find_map(|above| fs::metadata(above).ok());
    bars.is_some_and(|status| status.uid() == user)
}
