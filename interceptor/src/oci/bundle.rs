//! The files of a bundle that are edited: its configuration, and the description of a further
//! process. Root reads them, so they are neither followed elsewhere nor left half written.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::config::Config;
use super::{Attempt, OciError, input};

/// The configuration's name in a bundle.
pub(crate) const CONFIG: &str = "config.json";

/// A file to be replaced.
#[derive(Debug)]
pub(crate) struct Edited {
    path: PathBuf,
    owner: (u32, u32),
    mode: u32,
}

impl Edited {
    /// Reads the file, which is a regular one.
    ///
    /// # Errors
    /// If it is anything else, too long, or writable by everybody.
    pub(crate) fn read(path: &Path) -> Result<(Self, Vec<u8>), OciError> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file: File = opened.attempt(|| format!("cannot open {}", path.display()))?;
        let fail = || format!("cannot examine {}", path.display());
        let metadata = file.metadata().attempt(fail)?;
        if !metadata.is_file() {
            return Err(OciError::Refused(format!("{} is no regular file", path.display())));
        }
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        for (what, found) in
            [(path, &metadata), (directory, &fs::metadata(directory).attempt(fail)?)]
        {
            let others = found.mode() & 0o002 != 0;
            if others && (found.is_file() || found.mode() & 0o1000 == 0) {
                return Err(OciError::Refused(format!(
                    "everybody may change {}: the container's configuration is the engine's",
                    what.display()
                )));
            }
        }
        let edited = Edited {
            path: path.to_owned(),
            owner: (metadata.uid(), metadata.gid()),
            mode: metadata.mode() & 0o7777,
        };
        Ok((edited, input::read(file)?))
    }

    /// Replaces it, whole or not at all.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn replace(&self, text: &str) -> Result<(), OciError> {
        let fail = || format!("cannot replace {}", self.path.display());
        let mut partial = self.path.clone().into_os_string();
        partial.push(format!(".interceptor-{}", std::process::id()));
        let partial = PathBuf::from(partial);
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            file.write_all(text.as_bytes())?;
            fchown(&file, Some(self.owner.0), Some(self.owner.1))?;
            file.set_permissions(fs::Permissions::from_mode(self.mode))?;
            fs::rename(&partial, &self.path)
        })();
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written.attempt(fail)
    }
}

/// The configuration of a bundle, and its file.
///
/// # Errors
/// If there is none.
pub(crate) fn open(bundle: &Path) -> Result<(Edited, Config), OciError> {
    let (edited, bytes) = Edited::read(&bundle.join(CONFIG))?;
    Ok((edited, input::configuration(&bytes)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_in_place_with_its_owner_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONFIG);
        fs::write(&path, r#"{"root":{"path":"r"}}"#).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(&path, Some(1000), Some(1001)).unwrap();
        let (edited, config) = open(directory.path()).unwrap();
        assert_eq!(config.root(Some(Path::new("/b"))).unwrap(), Path::new("/b/r"));
        edited.replace("new").unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.uid(), after.gid(), after.mode() & 0o777), (1000, 1001, 0o640));
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_a_pipe_and_what_everybody_may_change_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONFIG);
        let real = directory.path().join("real");
        fs::write(&real, r#"{"root":{}}"#).unwrap();
        symlink(&real, &path).unwrap();
        assert!(open(directory.path()).is_err());
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open(directory.path()).is_err());
        fs::remove_file(&path).unwrap();
        fs::rename(&real, &path).unwrap();
        open(directory.path()).unwrap();
        for (changed, mode) in [(path.as_path(), 0o666), (directory.path(), 0o777)] {
            let before = fs::metadata(changed).unwrap().permissions();
            fs::set_permissions(changed, fs::Permissions::from_mode(mode)).unwrap();
            assert!(open(directory.path()).unwrap_err().to_string().contains("everybody"));
            fs::set_permissions(changed, before).unwrap();
        }
        fs::write(&path, r#"{"bundle":"/b","id":"x","status":"created"}"#).unwrap();
        assert!(open(directory.path()).is_err());
    }
}
