//! Writes an edit into a policy's file, in a directory that somebody else may change. So one
//! descriptor is read, compared and written, and no path is opened twice.
//!
//! A daemon says which file to edit, and how. Root's rights count only if root's own daemon says
//! so, and in any case what is edited must be a policy, and stay one.
//!
//! The file keeps its inode: the mounts that hide it from a running sandbox would not cover a
//! replacement. So it is written in place, under a lock, once its blocks are there; what cannot be
//! written whole is taken back.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use interceptor_policy::{Catalogue, MAX_BYTES, Patch, Problem, check, edited};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use zeroize::Zeroizing;

use crate::audit::steers_or_hides;

/// How long an edit waits for another one of the same file.
const LOCKED_WITHIN: Duration = Duration::from_secs(5);
/// The pause between two looks at the lock.
const LOOK: Duration = Duration::from_millis(20);

/// An edit to a policy's file that is not written yet.
#[derive(Debug)]
pub(crate) struct PolicyEdit {
    /// Locked until this value is dropped.
    file: File,
    before: Zeroizing<String>,
    text: Zeroizing<String>,
}

/// Why a policy's file cannot be edited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// The edit is none that a question proposes.
    #[error("the question's patch: {0}")]
    Beyond(String),
    /// The file cannot be opened or read.
    #[error("the policy file {}: {cause}", printable(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// Another edit of it does not end.
    #[error("the policy file {} is locked by another program", printable(path))]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It may stand for another.
    #[error("the policy file {} is a link, or not a regular file", printable(path))]
    NotOwn {
        /// The file.
        path: PathBuf,
    },
    /// It was changed.
    #[error(
        "the policy file {} is no longer the policy in force: make the daemon reload it, or edit \
         it by hand",
        printable(path)
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The edit does not fit its text.
    #[error("the policy file {}: {why}", printable(path))]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is no policy, or would be none.
    #[error(
        "the policy file {}, with the edit or without: {}",
        printable(path),
        described(problem)
    )]
    NoPolicy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: Box<Problem>,
    },
}

impl PolicyEdit {
    /// Prepares the edit of a file that must still hold the policy in force, which `is_in_force`
    /// judges. Call it with the rights of whose file it is.
    ///
    /// # Errors
    /// If the file is not what it was, or the edit cannot be written into it, or is none that a
    /// question proposes.
    pub(crate) fn prepare(
        path: &Path,
        is_in_force: &dyn Fn(&str) -> bool,
        patch: &Patch,
        catalogue: &Catalogue,
    ) -> Result<PolicyEdit, EditError> {
        let own = || path.to_owned();
        patch.within_bounds().map_err(|error| EditError::Beyond(error.to_string()))?;
        let unreadable = |cause| EditError::Unreadable { path: own(), cause };
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        let mut file = opened.map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?;
        if !found.is_file() || found.nlink() != 1 {
            return Err(EditError::NotOwn { path: own() });
        }
        // Before it is read: an edit by somebody else would be lost.
        match locked(&file) {
            Ok(true) => {}
            Ok(false) => return Err(EditError::Locked { path: own() }),
            Err(cause) => return Err(unreadable(cause)),
        }
        let most = MAX_BYTES as u64;
        // Allocated up front: a growing string leaves copies of keys behind.
        let mut before = Zeroizing::new(String::with_capacity(MAX_BYTES + 2));
        (&mut file).take(most + 1).read_to_string(&mut before).map_err(unreadable)?;
        if before.len() > MAX_BYTES || !is_in_force(&before) {
            return Err(EditError::Changed { path: own() });
        }
        let text = edited(&before, patch)
            .map_err(|error| EditError::Unfit { path: own(), why: error.to_string() })?;
        for text in [&before, &text] {
            if let Some(problem) = check(text, catalogue).errors.into_iter().next() {
                return Err(EditError::NoPolicy { path: own(), problem: Box::new(problem) });
            }
        }
        Ok(PolicyEdit { file, before, text })
    }

    /// What the file held before.
    pub(crate) fn before(&self) -> &str {
        &self.before
    }

    /// The edited text, comments and all.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Writes it; if that fails, the file holds what it held before.
    ///
    /// # Errors
    /// As for fallocate(2), pwrite(2) and fsync(2).
    pub(crate) fn write(&self) -> io::Result<()> {
        self.reserve()?;
        let written = self.put(&self.text);
        if written.is_err() {
            // Into blocks that it had before. What failed is told, whatever becomes of this.
            let _ = self.put(&self.before);
        }
        written
    }

    /// Has the blocks of the whole new text, before a byte of the old one is written over.
    fn reserve(&self) -> io::Result<()> {
        let length = i64::try_from(self.text.len()).unwrap_or(i64::MAX);
        loop {
            match fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
                // Not every file system can.
                Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn put(&self, text: &str) -> io::Result<()> {
        self.file.write_all_at(text.as_bytes(), 0)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()
    }
}

/// Locks a file against other edits; whether that came about in time.
fn locked(file: &File) -> io::Result<bool> {
    let late = Instant::now() + LOCKED_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < late => thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(cause)) => return Err(cause),
        }
    }
}

/// A path whose characters steer no terminal.
fn printable(path: &Path) -> String {
    escaped(&path.display().to_string())
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match steers_or_hides(character) {
            true => out.extend(character.escape_unicode()),
            false => out.push(character),
        }
    }
    out
}

fn described(problem: &Problem) -> String {
    let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
    escaped(&format!("{line}{}: {}", problem.pointer, problem.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::TextDigest;
    use serde_json::{Value, json};

    const TEXT: &str = r#"{
  // the agent's hosts
  "network": { "allow": ["a.test"] },
  "credentials": { "openai": "sk-canary" },
}
"#;

    fn patch() -> Patch {
        let add = json!([{ "op": "add", "path": "/network/allow/-", "value": "b.test" }]);
        Patch::from_value(add).unwrap()
    }

    /// The edit of a file that held this text when it was loaded.
    fn prepare(path: &Path, loaded: &str, patch: &Patch) -> Result<PolicyEdit, EditError> {
        let loaded = TextDigest::of(loaded);
        let is_in_force = |text: &str| TextDigest::of(text) == loaded;
        PolicyEdit::prepare(path, &is_in_force, patch, &Catalogue::builtin())
    }

    #[test]
    fn an_edit_keeps_comments_keys_and_the_inode() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("p.jsonc");
        std::fs::write(&path, TEXT).unwrap();
        let before = std::fs::metadata(&path).unwrap().ino();
        prepare(&path, TEXT, &patch()).unwrap().write().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, TEXT.replace(r#"["a.test"]"#, r#"["a.test", "b.test"]"#));
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), before);
    }

    #[test]
    fn an_edit_cannot_be_made_to_point_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let (real, path) = (home.path().join("real"), home.path().join("p.jsonc"));
        std::fs::write(&real, TEXT).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        prepare(&path, TEXT, &patch()).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&real, &path).unwrap();
        prepare(&path, TEXT, &patch()).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "root:x:0:0::/root:/bin/sh\n").unwrap();
        prepare(&path, TEXT, &patch()).unwrap_err();
        // Somebody else's, also if only a key differs.
        for (old, new) in [("a.test", "c.test"), ("sk-canary", "sk-other")] {
            std::fs::write(&path, TEXT.replace(old, new)).unwrap();
            let error = prepare(&path, TEXT, &patch()).unwrap_err();
            assert!(matches!(error, EditError::Changed { .. }), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&real).unwrap(), TEXT);
    }

    #[test]
    fn an_edit_keeps_others_out_until_it_is_done() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("p.jsonc");
        std::fs::write(&path, TEXT).unwrap();
        let first = prepare(&path, TEXT, &patch()).unwrap();
        let other = File::open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        // Another edit waits for its end, and finds another text then.
        let second = thread::spawn({
            let path = path.clone();
            move || prepare(&path, TEXT, &patch()).map(drop)
        });
        first.write().unwrap();
        drop(first);
        assert!(matches!(second.join().unwrap(), Err(EditError::Changed { .. })));
        other.try_lock().unwrap();
    }

    #[test]
    fn only_a_policy_is_edited_and_only_as_a_question_proposes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("p.jsonc");
        let edit = |text: &str, patch: Value| {
            std::fs::write(&path, text).unwrap();
            let prepared = prepare(&path, text, &Patch::from_value(patch).unwrap());
            prepared.map(drop).map_err(|error| error.to_string())
        };
        let add = |path: &str, value: Value| json!([{ "op": "add", "path": path, "value": value }]);
        let host = add("/network/allow/-", "b.test".into());
        edit(TEXT, host.clone()).unwrap();
        let no_host = edit(TEXT, add("/network/allow/-", "not a host".into()));
        assert!(no_host.unwrap_err().contains("/network/allow/1"));
        for pointer in ["/upstream", "/credentials/x", "/netwrok", "/credentials_v2/own/hosts"] {
            let beyond = edit(TEXT, add(pointer, json!({}))).unwrap_err();
            assert!(beyond.contains("the question's patch"), "{beyond}");
        }
        let other = json!({ "scripts": {}, "network": { "allow": [] } });
        edit(&other.to_string(), host).unwrap_err();
    }
}
