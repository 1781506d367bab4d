//! The trust files of a sandbox on the host, for processes that share the host's files and for
//! containers that bind-mount them. They contain only certificates.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::FleetError;
use super::error::IoContext;
use crate::sandbox::trust;

/// Writes the trust files for the sandbox on this cgroup into a fresh directory below `root`, which
/// it returns. Replaces what a dead daemon left for the same cgroup.
pub(super) fn write(root: &Path, cgroup_id: u64, ca_pem: &str) -> Result<PathBuf, FleetError> {
    own_directory(root)?;
    let directory = root.join(cgroup_id.to_string());
    remove(&directory);
    let written = write_files(&directory, ca_pem);
    if written.is_err() {
        remove(&directory);
    }
    written.map(|()| directory)
}

fn write_files(directory: &Path, ca_pem: &str) -> Result<(), FleetError> {
    let make = || format!("cannot make {}", directory.display());
    DirBuilder::new().mode(0o755).create(directory).context(make)?;
    // World-readable whatever the umask: anybody may read certificates.
    fs::set_permissions(directory, Permissions::from_mode(0o755)).context(make)?;
    for file in trust::files(ca_pem) {
        let path = directory.join(file.name);
        let mut options = OpenOptions::new();
        let opened = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        opened
            .and_then(|mut opened| {
                opened.write_all(&file.content)?;
                opened.set_permissions(Permissions::from_mode(0o644))
            })
            .context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Removes the trust files of a sandbox.
pub(super) fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(
                directory = %directory.display(),
                %error,
                "cannot remove the trust files"
            );
        }
        _ => {}
    }
}

/// Creates the directory, or verifies that nobody else can write to an existing one.
fn own_directory(path: &Path) -> Result<(), FleetError> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).context(|| format!("cannot make {}", path.display()));
        }
        Err(_) => {}
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755))
            .context(|| format!("cannot make {}", path.display()))?,
    }
    let found =
        fs::symlink_metadata(path).context(|| format!("cannot examine {}", path.display()))?;
    let own = found.is_dir()
        && found.uid() == nix::unistd::geteuid().as_raw()
        && found.mode() & 0o022 == 0;
    if own {
        return Ok(());
    }
    let why = "others could put certificates there: remove it, or give another directory with \
               --trust-dir";
    Err(std::io::Error::other(why)).context(|| format!("cannot use {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p2_files_are_written_for_all_to_read_and_never_through_a_link() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("trust");
        let pem = crate::tls::ca::Ca::new("test").unwrap().pem().to_owned();
        let elsewhere = home.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let written = write(&root, 7, &pem).unwrap();
        assert_eq!(fs::read_to_string(written.join(trust::AUTHORITY)).unwrap(), pem);
        assert_eq!(fs::metadata(written.join(trust::BUNDLE)).unwrap().mode() & 0o777, 0o644);
        remove(&written);
        // A symlink in its place is replaced, not followed.
        std::os::unix::fs::symlink(&elsewhere, root.join("7")).unwrap();
        let _ = write(&root, 7, &pem);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);

        let link = home.path().join("link");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        assert!(write(&link, 7, &pem).is_err());
        fs::set_permissions(&root, Permissions::from_mode(0o777)).unwrap();
        assert!(write(&root, 8, &pem).is_err());
    }
}
