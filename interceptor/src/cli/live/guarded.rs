//! A policy's file, opened so that nobody can put another in its place meanwhile: one component of
//! its path after the other, each held open, and judged by what was opened.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open as open_at_root, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use crate::files;
use crate::sandbox::access;
use crate::sandbox::user::UserIdentity;

/// The most symlinks in a path, as for the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// What a path leads to.
#[derive(Debug)]
pub(in crate::cli) struct Guarded {
    /// The file itself, opened without reading it.
    file: OwnedFd,
    /// Whether the user could have put what is there: could write the file, or replace it or any
    /// directory or link on the way. So could anybody else but root and the person.
    pub(in crate::cli) is_changeable: bool,
    /// Whether nobody but root could, outside the sandbox.
    pub(super) is_roots: bool,
    /// The directories in which an entry decides where the path leads, and that are watched: those
    /// with links, and the last.
    directories: Vec<OwnedFd>,
}

impl Guarded {
    /// Follows an absolute path. The sandbox's user is judged, and everybody but the person, by
    /// number, who typed the command.
    ///
    /// # Errors
    /// If it leads to no regular file, or that cannot be told.
    pub(super) fn open(path: &Path, user: &UserIdentity, person: u32) -> io::Result<Guarded> {
        let found = Guarded::any(path, user, person)?;
        match kind(&fstat(&found.file)?) {
            SFlag::S_IFREG => Ok(found),
            _ => Err(files::unfit("it is not a regular file")),
        }
    }

    /// Follows an absolute path to whatever it leads to.
    ///
    /// # Errors
    /// If it leads to nothing, or that cannot be told.
    pub(in crate::cli) fn any(
        path: &Path,
        user: &UserIdentity,
        person: u32,
    ) -> io::Result<Guarded> {
        let root = || open_at_root("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let mut at: OwnedFd = root()?;
        let mut left = components(path);
        let (mut directories, mut links) = (Vec::new(), 0);
        let judges = Judges { user, person };
        let mut judged = judges.of_content(&at)?;
        while let Some(name) = left.pop_front() {
            if name == ".." {
                at = openat(&at, "..", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
                continue;
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let next = openat(&at, name.as_os_str(), flags, Mode::empty())?;
            let status = fstat(&next)?;
            judged.add(judges.of_entry(&at, &status)?);
            if kind(&status) == SFlag::S_IFLNK {
                links += 1;
                if links > MOST_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                let target = PathBuf::from(readlinkat(&next, "")?);
                let mut all = components(&target);
                all.extend(left);
                left = all;
                let directory = if target.is_absolute() { root()? } else { at.try_clone()? };
                directories.push(std::mem::replace(&mut at, directory));
                continue;
            }
            if !left.is_empty() {
                at = next;
                continue;
            }
            judged.add(judges.of_content(&next)?);
            directories.push(at);
            let Judged { is_changeable, is_others } = judged;
            let is_roots = !is_changeable && !is_others;
            return Ok(Guarded { file: next, is_changeable, is_roots, directories });
        }
        Err(files::unfit("it is not a regular file"))
    }

    /// The file that was judged, for reading. Needs this process's rights.
    ///
    /// # Errors
    /// As of open(2).
    pub(super) fn reader(&self) -> io::Result<File> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        OpenOptions::new().read(true).custom_flags(flags).open(own_path(&self.file))
    }

    /// Paths of the file and the directories to watch, which hold while this value lives.
    pub(super) fn watched(&self) -> (PathBuf, impl Iterator<Item = PathBuf> + '_) {
        (own_path(&self.file), self.directories.iter().map(own_path))
    }
}

/// Who is judged.
struct Judges<'a> {
    user: &'a UserIdentity,
    person: u32,
}

/// Who could have changed something.
struct Judged {
    /// The user, or anybody but root and the person.
    is_changeable: bool,
    /// Anybody but root.
    is_others: bool,
}

impl Judges<'_> {
    /// Of what a file or directory holds.
    fn of_content(&self, descriptor: &OwnedFd) -> io::Result<Judged> {
        let is_changeable = access::may_write(descriptor, self.user)?
            || access::may_others_write(descriptor, self.person)?;
        Ok(Judged { is_changeable, is_others: access::may_others_write(descriptor, 0)? })
    }

    /// Of an entry of a directory.
    fn of_entry(&self, directory: &OwnedFd, entry: &FileStat) -> io::Result<Judged> {
        let is_changeable = access::may_replace(directory, entry, self.user)?
            || access::may_others_replace(directory, entry, self.person)?;
        Ok(Judged { is_changeable, is_others: access::may_others_replace(directory, entry, 0)? })
    }
}

impl Judged {
    fn add(&mut self, other: Judged) {
        self.is_changeable |= other.is_changeable;
        self.is_others |= other.is_others;
    }
}

/// A path of what is open, which holds while it is.
pub(super) fn own_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    const USER: u32 = 54321;

    fn identity(found: &Guarded) -> (u64, u64) {
        let status = fstat(&found.file).unwrap();
        (status.st_dev, status.st_ino)
    }

    fn user() -> UserIdentity {
        UserIdentity::of_number(USER, Some(USER)).unwrap()
    }

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Tree {
            let tree = Tree(tempfile::tempdir().unwrap());
            fs::set_permissions(tree.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
            fs::create_dir_all(tree.at("one/two")).unwrap();
            fs::write(tree.at("one/two/p.json"), "{}").unwrap();
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn open(&self, path: &str) -> io::Result<Guarded> {
            Guarded::open(&self.at(path), &user(), USER)
        }

        fn mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn a_file_is_changeable_by_itself_or_by_any_directory_above_it() {
        let tree = Tree::new();
        assert!(!tree.open("one/two/p.json").unwrap().is_changeable);
        for (path, mode) in [("one/two/p.json", 0o646), ("one/two", 0o757), ("one", 0o757)] {
            tree.mode(path, mode);
            assert!(tree.open("one/two/p.json").unwrap().is_changeable, "{path}");
            tree.mode(path, 0o755);
            assert!(!tree.open("one/two/p.json").unwrap().is_changeable, "{path}");
            let group = nix::unistd::getegid().as_raw();
            chown(tree.at(path), Some(USER), Some(group)).unwrap();
            assert!(tree.open("one/two/p.json").unwrap().is_changeable, "{path}");
            chown(tree.at(path), Some(0), Some(group)).unwrap();
        }
        // In a sticky directory the user moves only own entries.
        tree.mode("one", 0o1777);
        assert!(!tree.open("one/two/p.json").unwrap().is_changeable);
        // What is below the file's directory has no part in it.
        fs::create_dir(tree.at("one/two/own")).unwrap();
        chown(tree.at("one/two/own"), Some(USER), None).unwrap();
        assert!(!tree.open("one/two/own/../p.json").unwrap().is_changeable);
    }

    #[test]
    fn what_the_person_or_anybody_else_could_change_is_not_roots() {
        let tree = Tree::new();
        let open = |person: u32| {
            let found = Guarded::open(&tree.at("one/two/p.json"), &user(), person).unwrap();
            (found.is_changeable, found.is_roots)
        };
        const PERSON: u32 = 54320;
        assert_eq!(open(PERSON), (false, true));
        for path in ["one/two/p.json", "one/two", "one"] {
            let group = nix::unistd::getegid().as_raw();
            chown(tree.at(path), Some(PERSON), Some(group)).unwrap();
            assert_eq!((open(PERSON), open(0)), ((false, false), (true, false)), "{path}");
            chown(tree.at(path), Some(0), Some(group)).unwrap();
            // A group of which the user is none.
            tree.mode(path, 0o775);
            assert_eq!(open(PERSON), (true, false), "{path}");
            tree.mode(path, 0o755);
        }
        assert_eq!(open(PERSON), (false, true));
    }

    #[test]
    fn links_count_with_the_directory_they_are_in_and_what_they_lead_to() {
        let tree = Tree::new();
        symlink("two/p.json", tree.at("one/relative")).unwrap();
        symlink(tree.at("one/relative"), tree.at("absolute")).unwrap();
        let found = tree.open("absolute").unwrap();
        assert!(!found.is_changeable);
        assert_eq!(found.watched().1.count(), 3);
        let mut text = String::new();
        found.reader().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "{}");
        tree.mode("one", 0o777);
        assert!(tree.open("absolute").unwrap().is_changeable);
        tree.mode("one", 0o755);
        // A link of the user's own in a directory of root's cannot be changed; one in a sticky
        // directory can.
        let link = tree.at("one/relative");
        std::os::unix::fs::lchown(&link, Some(USER), Some(USER)).unwrap();
        assert!(!tree.open("absolute").unwrap().is_changeable);
        tree.mode("one", 0o1777);
        assert!(tree.open("absolute").unwrap().is_changeable);
        symlink("loop", tree.at("loop")).unwrap();
        assert_eq!(tree.open("loop").unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(tree.open("one/two").is_err() && tree.open("one/none").is_err());
    }

    #[test]
    fn what_is_read_is_what_was_judged() {
        let tree = Tree::new();
        let found = tree.open("one/two/p.json").unwrap();
        fs::rename(tree.at("one/two"), tree.at("one/gone")).unwrap();
        fs::create_dir(tree.at("one/two")).unwrap();
        fs::write(tree.at("one/two/p.json"), "planted").unwrap();
        let mut text = String::new();
        found.reader().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "{}");
        assert_ne!(identity(&tree.open("one/two/p.json").unwrap()), identity(&found));
    }
}
