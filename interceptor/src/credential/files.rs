//! The files that a key was read from, to read it again when one has changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The state of a file when its key was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The current stamp of a file.
    pub(super) fn now(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
    }
}

/// A file with a key, or with a part of one.
#[derive(Clone, Debug)]
pub(super) struct WatchedFile {
    /// Which part of the key it has.
    pub(super) part: usize,
    pub(super) path: PathBuf,
    /// Its stamp when it was last read.
    pub(super) stamp: Option<Stamp>,
}

/// The files of one key.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(Vec<WatchedFile>);

impl Files {
    /// The file with all of a key.
    pub(super) fn of(path: PathBuf, stamp: Stamp) -> Files {
        Files(vec![WatchedFile { part: 0, path, stamp: Some(stamp) }])
    }

    /// Files that were read by another process.
    pub(super) fn unread(files: impl Iterator<Item = (usize, PathBuf)>) -> Files {
        Files(files.map(|(part, path)| WatchedFile { part, path, stamp: None }).collect())
    }

    /// The same files, with that part of a key.
    pub(super) fn of_part(self, part: usize) -> Files {
        Files(self.0.into_iter().map(|file| WatchedFile { part, ..file }).collect())
    }

    pub(super) fn extend(&mut self, more: Files) {
        self.0.extend(more.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &WatchedFile> {
        self.0.iter()
    }

    /// Takes the stamps that the files have now, and returns whether one has changed.
    pub(super) fn look(&mut self) -> bool {
        let mut has_changed = false;
        for file in &mut self.0 {
            let now = Stamp::now(&file.path);
            has_changed |= now != file.stamp;
            file.stamp = now;
        }
        has_changed
    }
}
