//! What is kept of a container's sandbox while it lives: `BASE/SANDBOX/` with the supervisor's socket, the trust files that are
//! mounted in the container, and a record of what must be removed should the supervisor be killed. No key is ever there.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Attempt, OciError};
use crate::sandbox::trust::TrustFile;

/// Others must get through to the trust files, which a container's user namespace may make them; to nothing else.
const THROUGH: u32 = 0o711;
/// Sandboxes whose records are read at the end of a container.
const MOST: usize = 65_536;

/// All of them.
#[derive(Debug)]
pub(crate) struct Store(PathBuf);

/// One sandbox's.
#[derive(Debug)]
pub(crate) struct Entry(PathBuf);

/// What a killed supervisor leaves behind, beside this directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The container's id.
    pub(crate) container: String,
    /// The cgroup of the container.
    pub(crate) cgroup: PathBuf,
    /// The cgroup's id, by which its pins are found.
    pub(crate) cgroup_id: u64,
    /// Whether the cgroup was made for it.
    pub(crate) made: bool,
}

impl Store {
    /// The one at `base`, which is made where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or belongs to somebody else.
    pub(crate) fn open(base: &Path) -> Result<Self, OciError> {
        let fail = || format!("cannot make the directory {}", base.display());
        DirBuilder::new().recursive(true).mode(THROUGH).create(base).attempt(fail)?;
        let found = fs::symlink_metadata(base).attempt(fail)?;
        if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(OciError::Refused(format!("{} is not root's alone to change", base.display())));
        }
        Ok(Store(base.to_owned()))
    }

    /// A new one.
    ///
    /// # Errors
    /// When it exists, or cannot be made.
    pub(crate) fn make(&self, id: &str) -> Result<Entry, OciError> {
        let entry = self.entry(id)?;
        for (path, mode) in [(entry.0.clone(), THROUGH), (entry.trust(), 0o755)] {
            let fail = || format!("cannot make the directory {}", path.display());
            fs::create_dir(&path).attempt(fail)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).attempt(fail)?;
        }
        Ok(entry)
    }

    /// The one of a sandbox, whether it exists or not.
    ///
    /// # Errors
    /// When this can be no sandbox's id.
    pub(crate) fn entry(&self, id: &str) -> Result<Entry, OciError> {
        let plain = id
            .strip_prefix("sb-")
            .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit()));
        if plain {
            Ok(Entry(self.0.join(id)))
        } else {
            Err(OciError::Refused("this is no id of a sandbox".into()))
        }
    }

    /// Those of a container: one, or none.
    pub(crate) fn of_container(&self, container: &str) -> Vec<(Entry, Record)> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().take(MOST);
        let entries = entries.filter_map(|entry| self.entry(entry.file_name().to_str()?).ok());
        entries
            .filter_map(|entry| Some((Entry(entry.0.clone()), entry.record()?)))
            .filter(|(_, record)| record.container == container)
            .collect()
    }
}

impl Entry {
    /// Where the supervisor listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join("control")
    }

    /// The directory of the trust files.
    pub(crate) fn trust(&self) -> PathBuf {
        self.0.join("trust")
    }

    /// Writes the trust files. Those that exist keep their inodes, which may be mounted in the container by now.
    pub(crate) fn write_trust(&self, files: &[TrustFile]) -> Result<(), OciError> {
        for file in files {
            let path = self.trust().join(file.name);
            let fail = || format!("cannot write {}", path.display());
            let mut open = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o644)
                .open(&path)
                .attempt(fail)?;
            open.write_all(&file.content).attempt(fail)?;
            open.set_permissions(fs::Permissions::from_mode(0o644)).attempt(fail)?;
        }
        Ok(())
    }

    /// Records what must be removed should the supervisor be killed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write_record(&self, record: &Record) -> Result<(), OciError> {
        let path = self.0.join("record.json");
        let text = serde_json::to_vec(record).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(&path, text)).attempt(|| format!("cannot write {}", path.display()))
    }

    /// What was recorded: nothing, as long as it has no container.
    pub(crate) fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.0.join("record.json")).ok()?).ok()
    }

    /// Whether it is still there.
    pub(crate) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Removes all of it.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.0.display(), %error, "cannot remove the directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_container_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("oci")).unwrap();
        let entry = store.make("sb-0123456789abcdef").unwrap();
        assert!(store.make("sb-0123456789abcdef").is_err());
        let record = Record { container: "c1".into(), cgroup: "/g".into(), cgroup_id: 7, made: true };
        entry.write_record(&record).unwrap();
        assert_eq!(
            store.of_container("c1").into_iter().map(|(_, record)| record).collect::<Vec<_>>(),
            [record]
        );
        assert!(store.of_container("c2").is_empty());
        entry.remove();
        assert!(store.of_container("c1").is_empty());
        for id in ["../x", "sb-", "sb-0123456789abcdeg", "sb-0123456789abcde/", ""] {
            assert!(store.entry(id).is_err(), "{id}");
        }
    }

    #[test]
    fn trust_files_keep_their_inodes() {
        let directory = tempfile::tempdir().unwrap();
        let entry = Store::open(&directory.path().join("oci")).unwrap().make("sb-0123456789abcdef").unwrap();
        let file = |content: &str| TrustFile { name: "f", content: content.into(), covers: vec![] };
        entry.write_trust(&[file("a longer text")]).unwrap();
        let before = fs::metadata(entry.trust().join("f")).unwrap();
        entry.write_trust(&[file("text")]).unwrap();
        let after = fs::metadata(entry.trust().join("f")).unwrap();
        assert_eq!(
            (before.ino(), after.ino(), after.len(), after.mode() & 0o777),
            (before.ino(), before.ino(), 4, 0o644)
        );
    }
}
