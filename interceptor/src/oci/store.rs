//! The on-disk state of a container's sandbox: `BASE/SANDBOX/` holds the supervisor's socket, the
//! trust files mounted in the container, and a record of what to clean up if the supervisor is
//! killed. It never holds a key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::names::is_sandbox_id;
use super::{Attempt, OciError};
use crate::sandbox::trust::TrustFile;

/// A container's user namespace may turn its processes into other users, who must reach the trust
/// files but nothing else.
const THROUGH: u32 = 0o711;
/// Maximum sandboxes examined when a container ends.
const MOST: usize = 65_536;

/// The state directory.
#[derive(Debug)]
pub(crate) struct Store(PathBuf);

/// One sandbox's directory.
#[derive(Debug)]
pub(crate) struct Entry {
    path: PathBuf,
    /// Held by the supervisor for its life: whoever gets it knows that there is none.
    _lock: Option<File>,
}

/// What a killed supervisor leaves behind, besides this directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// The container's id.
    pub(crate) container: String,
    /// The cgroup of the container.
    pub(crate) cgroup: PathBuf,
    /// The cgroup's id, which identifies its pins.
    pub(crate) cgroup_id: u64,
    /// Whether the cgroup was created for the container.
    pub(crate) made: bool,
}

impl Store {
    /// Opens the store at `base`; creates it if missing.
    ///
    /// # Errors
    /// If it cannot be created, or belongs to another user.
    pub(crate) fn open(base: &Path) -> Result<Self, OciError> {
        let fail = || format!("cannot make the directory {}", base.display());
        DirBuilder::new().recursive(true).mode(THROUGH).create(base).attempt(fail)?;
        let found = fs::symlink_metadata(base).attempt(fail)?;
        if !found.is_dir()
            || found.uid() != nix::unistd::geteuid().as_raw()
            || found.mode() & 0o022 != 0
        {
            return Err(OciError::Refused(format!(
                "{} is writable by others than root",
                base.display()
            )));
        }
        Ok(Store(base.to_owned()))
    }

    /// Creates an entry.
    ///
    /// # Errors
    /// If it exists, or cannot be created.
    pub(crate) fn make(&self, id: &str) -> Result<Entry, OciError> {
        let mut entry = self.entry(id)?;
        // Nobody takes a new entry for one that a supervisor has left.
        let _whole = self.lock()?;
        for (path, mode) in [(entry.path.clone(), THROUGH), (entry.trust(), 0o755)] {
            let fail = || format!("cannot make the directory {}", path.display());
            fs::create_dir(&path).attempt(fail)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).attempt(fail)?;
        }
        entry._lock = Some(lock(&entry.path)?);
        Ok(entry)
    }

    /// The entry of a sandbox, which need not exist.
    ///
    /// # Errors
    /// If the id is invalid.
    pub(crate) fn entry(&self, id: &str) -> Result<Entry, OciError> {
        if is_sandbox_id(id) {
            Ok(Entry { path: self.0.join(id), _lock: None })
        } else {
            Err(OciError::Refused("this is not a sandbox id".into()))
        }
    }

    /// The entries of a container: one, or none.
    pub(crate) fn of_container(&self, container: &str) -> Vec<(Entry, ContainerRecord)> {
        self.entries()
            .filter_map(|entry| entry.record().map(|record| (entry, record)))
            .filter(|(_, record)| record.container == container)
            .collect()
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().take(MOST);
        entries.filter_map(|entry| self.entry(entry.file_name().to_str()?).ok())
    }

    /// Removes the entries whose supervisors are dead, where `clean_up` succeeds with what else
    /// they have left.
    ///
    /// # Errors
    /// If the store cannot be locked.
    pub(crate) fn sweep(
        &self,
        clean_up: impl Fn(&ContainerRecord) -> bool,
    ) -> Result<(), OciError> {
        let _whole = self.lock()?;
        for entry in self.entries().filter(Entry::is_left) {
            if entry.record().is_none_or(|record| clean_up(&record)) {
                entry.remove();
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<File, OciError> {
        lock(&self.0)
    }
}

impl Entry {
    /// Whether it is that of a sandbox.
    pub(crate) fn is_of(&self, id: &str) -> bool {
        self.path.file_name().is_some_and(|name| name == id)
    }

    /// Whether it has no supervisor any more.
    pub(crate) fn is_left(&self) -> bool {
        File::open(&self.path).is_ok_and(|directory| directory.try_lock().is_ok())
    }

    /// The path of the supervisor's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("control")
    }

    /// The directory of the trust files.
    pub(crate) fn trust(&self) -> PathBuf {
        self.path.join("trust")
    }

    /// Writes the trust files. Existing ones keep their inodes, which may already be mounted in the
    /// container.
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

    /// Records what to clean up if the supervisor is killed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write_record(&self, record: &ContainerRecord) -> Result<(), OciError> {
        let path = self.path.join("record.json");
        let text = serde_json::to_vec(record).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(&path, text))
            .attempt(|| format!("cannot write {}", path.display()))
    }

    /// The record; `None` until the container exists.
    pub(crate) fn record(&self) -> Option<ContainerRecord> {
        serde_json::from_slice(&fs::read(self.path.join("record.json")).ok()?).ok()
    }

    /// Whether it still exists.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Removes the directory.
    pub(crate) fn remove(&self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %self.path.display(), %error, "cannot remove the directory");
        }
    }
}

/// Locks a directory until the file is closed.
fn lock(directory: &Path) -> Result<File, OciError> {
    let fail = || format!("cannot lock {}", directory.display());
    let file = File::open(directory).attempt(fail)?;
    file.lock().attempt(fail)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_supervisor_left_is_swept_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("oci")).unwrap();
        let record = |container: &str| ContainerRecord {
            container: container.into(),
            ..ContainerRecord::default()
        };
        let living = store.make("sb-0123456789abcde0").unwrap();
        living.write_record(&record("lives")).unwrap();
        drop(store.make("sb-0123456789abcde1").unwrap());
        for (id, container) in [("sb-0123456789abcde2", "ended"), ("sb-0123456789abcde3", "busy")] {
            store.make(id).unwrap().write_record(&record(container)).unwrap();
        }
        fs::create_dir(directory.path().join("oci/other")).unwrap();
        store.sweep(|record| record.container != "busy").unwrap();
        let mut left: Vec<_> = fs::read_dir(directory.path().join("oci"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["other", "sb-0123456789abcde0", "sb-0123456789abcde3"]);
        assert!(!living.is_left());
    }

    #[test]
    fn an_entry_is_found_by_its_container_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("oci")).unwrap();
        let entry = store.make("sb-0123456789abcdef").unwrap();
        assert!(store.make("sb-0123456789abcdef").is_err());
        let record = ContainerRecord {
            container: "c1".into(),
            cgroup: "/g".into(),
            cgroup_id: 7,
            made: true,
        };
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
        let entry = Store::open(&directory.path().join("oci"))
            .unwrap()
            .make("sb-0123456789abcdef")
            .unwrap();
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
