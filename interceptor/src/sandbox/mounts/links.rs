//! Keeps the symlinks on the way to hidden places.
//!
//! A hidden place is covered where it is, but a link that leads to it may lie where the command can
//! write. The command could put a directory of its own in the link's place, which the next sandbox,
//! and the person outside, would take for the hidden one. Nobody can remove, rename or replace a
//! mount point, so each such link becomes one, of itself.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open as open_at_root, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::super::bundles::path_of;
use super::super::error::IoContext;
use super::super::user::UserIdentity;
use super::super::{SandboxError, access, sys};

/// The most symlinks in a path, as for the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// A directory and a name in it.
type Entry = (u64, u64, OsString);

/// The links that the command could replace, each once.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: BTreeSet<Entry>,
    found: Vec<OwnedFd>,
}

impl Links {
    /// Adds those on the way to a place, with the rights that this thread has. Returns what the
    /// path lacks, without links: where the first missing entry would be, and all below it.
    pub(super) fn add(&mut self, path: &Path, user: &UserIdentity) -> Option<PathBuf> {
        // What cannot be followed ends the way, for the command too.
        self.follow(path, user).ok().flatten()
    }

    fn follow(&mut self, path: &Path, user: &UserIdentity) -> io::Result<Option<PathBuf>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let root = || open_at_root("/", flags, Mode::empty());
        let mut at = root()?;
        let (mut left, mut links) = (components(path), 0);
        while let Some(name) = left.pop_front() {
            let next = match openat(&at, name.as_os_str(), flags, Mode::empty()) {
                Ok(next) => next,
                Err(nix::errno::Errno::ENOENT) => {
                    let at = fs::read_link(path_of(&at))?;
                    return Ok(Some(std::iter::once(name).chain(left).fold(at, lower)));
                }
                Err(error) => return Err(error.into()),
            };
            let status = fstat(&next)?;
            if status.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
                at = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = PathBuf::from(readlinkat(&next, "")?);
            let mut all = components(&target);
            all.extend(left);
            left = all;
            // Where that cannot be told, it counts as replaceable.
            if access::may_replace(&at, &status, user).unwrap_or(true) {
                let directory = fstat(&at)?;
                if self.known.insert((directory.st_dev, directory.st_ino, name)) {
                    self.found.push(next);
                }
            }
            if target.is_absolute() {
                at = root()?;
            }
        }
        Ok(None)
    }

    /// Keeps them all, and returns their paths: the directories above must stay too.
    pub(super) fn pin(&self) -> Result<Vec<PathBuf>, SandboxError> {
        let pin = |link: &OwnedFd| {
            let path = fs::read_link(path_of(link));
            let path = path.context(|| "cannot tell where a link is".into())?;
            let what = || format!("cannot keep the link {} as it is", path.display());
            sys::pin_link(link).context(what)?;
            Ok(path)
        };
        self.found.iter().map(pin).collect()
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// A path with one more component.
fn lower(path: PathBuf, name: OsString) -> PathBuf {
    match name.to_str() {
        Some("..") => path.parent().map(Path::to_owned).unwrap_or(path),
        _ => path.join(name),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn links_that_the_user_could_replace_are_found_once_and_what_a_path_lacks_is_told() {
        let home = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(home.path()).unwrap();
        let user = UserIdentity::of_number(54321, Some(54321)).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["mine", "roots", "to/a"] {
            fs::create_dir_all(home.join(name)).unwrap();
        }
        chown(home.join("mine"), Some(54321), None).unwrap();
        symlink("../to", home.join("mine/link")).unwrap();
        symlink(home.join("mine/link"), home.join("roots/link")).unwrap();
        symlink("../none/x", home.join("mine/dangling")).unwrap();
        symlink("loop", home.join("mine/loop")).unwrap();
        let mut links = Links::default();
        let mut add = |path: &str| (links.add(&home.join(path), &user), links.found.len());
        assert_eq!(add("to/a"), (None, 0));
        assert_eq!(add("roots/link/a"), (None, 1));
        assert_eq!(add("mine/link/a"), (None, 1));
        assert_eq!(add("mine/link/b/c"), (Some(home.join("to/b/c")), 1));
        assert_eq!(add("mine/dangling/y"), (Some(home.join("none/x/y")), 2));
        assert_eq!(add("mine/loop/y"), (None, 3));
    }
}
