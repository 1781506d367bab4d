//! The person who typed a command: under sudo the user who called it, else the user of this
//! process; and the directories where that person keeps what is theirs.
//!
//! Files below these directories are read and written with the person's rights ([`Person::act`]),
//! so that no link in them leads root elsewhere, and what is made there belongs to the person.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::files;
use crate::sandbox::as_user::AsUser;
use crate::sandbox::user::UserIdentity;

/// The most ancestors among which sudo is looked for.
const ANCESTORS: usize = 64;
/// The largest environment that is read, in bytes.
const MAX_ENVIRONMENT: usize = 4 << 20;

/// The person who typed the command.
#[derive(Clone, Debug)]
pub(super) struct Person {
    /// The person's ids, groups, name and home, as the system's database has them.
    pub(super) identity: UserIdentity,
    /// Whether the person called sudo.
    pub(super) by_sudo: bool,
    /// What sudo was called with, before it dropped or replaced any of it; `None` if that cannot
    /// be known, or nobody called sudo.
    typed: Option<Vec<(OsString, OsString)>>,
}

impl Person {
    /// The person who typed this command.
    ///
    /// # Errors
    /// If the system's database of users cannot be read.
    pub(super) fn invoking() -> anyhow::Result<Person> {
        Person::of(caller_of_sudo())
    }

    fn of(sudo: Option<(u32, u32)>) -> anyhow::Result<Person> {
        let (uid, gid) = match sudo {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (nix::unistd::getuid().as_raw(), None),
        };
        let identity = UserIdentity::of_number(uid, gid).context("cannot tell who you are")?;
        let typed = sudo.and_then(|_| environment_of_sudo());
        Ok(Person { identity, by_sudo: sudo.is_some(), typed })
    }

    /// A variable as the person has it: under sudo from sudo's own environment where that can be
    /// read, else from this process's.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        match &self.typed {
            Some(typed) => {
                typed.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            None => env::var_os(name),
        }
    }

    /// The home directory: HOME as the person has it, else the one of the user database.
    pub(super) fn home(&self) -> Option<PathBuf> {
        // Under sudo, HOME of this process may be root's.
        let own = self.typed.is_some() || !self.by_sudo;
        let variable = own.then(|| self.absolute("HOME")).flatten();
        variable.or_else(|| self.identity.home.as_ref().map(|home| home.0.clone()))
    }

    /// Where the person's settings of this program are: `$XDG_CONFIG_HOME/interceptor`.
    pub(super) fn config_directory(&self) -> Option<PathBuf> {
        self.directory("XDG_CONFIG_HOME", ".config")
    }

    /// Where this program keeps what it remembers for the person: `$XDG_STATE_HOME/interceptor`.
    pub(super) fn state_directory(&self) -> Option<PathBuf> {
        self.directory("XDG_STATE_HOME", ".local/state")
    }

    /// Does work on files with the person's rights, on a thread of its own where they differ from
    /// this process's.
    ///
    /// # Errors
    /// What `work` fails with, or if the rights cannot be taken on.
    pub(super) fn act<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        if self.identity.is_root() || !nix::unistd::geteuid().is_root() {
            return work();
        }
        std::thread::scope(|scope| {
            let acting = scope.spawn(|| {
                let _as_user = AsUser::begin(&self.identity)?;
                work()
            });
            acting.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }

    /// The base directory that a variable names, which must be absolute, or the default below the
    /// home (XDG Base Directory Specification).
    fn directory(&self, variable: &str, below_home: &str) -> Option<PathBuf> {
        let base = self.absolute(variable).or_else(|| Some(self.home()?.join(below_home)));
        base.map(|base| base.join("interceptor"))
    }

    fn absolute(&self, variable: &str) -> Option<PathBuf> {
        self.variable(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

/// The user and group in SUDO_UID and SUDO_GID, which only root is believed.
pub(super) fn caller_of_sudo() -> Option<(u32, u32)> {
    let number = |name| env::var(name).ok()?.parse().ok();
    let root = nix::unistd::getuid().is_root();
    Some((number("SUDO_UID")?, number("SUDO_GID")?)).filter(|_| root)
}

/// The environment that the nearest sudo among this process's ancestors was started with.
fn environment_of_sudo() -> Option<Vec<(OsString, OsString)>> {
    let mut process = nix::unistd::getppid().as_raw();
    for _ in 0..ANCESTORS {
        let directory = PathBuf::from(format!("/proc/{process}"));
        if process <= 1 {
            return None;
        }
        if is_sudo(&fs::read_link(directory.join("exe")).ok()?) {
            let (bytes, _) = files::read(&directory.join("environ"), MAX_ENVIRONMENT).ok()?;
            return Some(variables(&bytes));
        }
        process = parent(&fs::read_to_string(directory.join("status")).ok()?)?;
    }
    None
}

/// Whether a program is sudo; Debian and Ubuntu also install it as `sudo.ws` and `sudo-rs`.
fn is_sudo(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().as_bytes();
    [&b"sudo"[..], b"sudo.ws", b"sudo-rs"].contains(&name)
}

/// The parent in the text of `/proc/PID/status`.
fn parent(status: &str) -> Option<i32> {
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// The variables in the bytes of `/proc/PID/environ`.
fn variables(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let split = |entry: &[u8]| {
        let at = entry.iter().position(|byte| *byte == b'=')?;
        let value = OsStr::from_bytes(&entry[at + 1..]).to_owned();
        Some((OsString::from_vec(entry[..at].to_vec()), value))
    };
    bytes.split(|byte| *byte == 0).filter_map(split).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn person(uid: u32, typed: &[(&str, &str)]) -> Person {
        let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        Person {
            identity: UserIdentity::of_number(uid, Some(uid)).unwrap(),
            by_sudo: true,
            typed: Some(typed.iter().map(pair).collect()),
        }
    }

    #[test]
    fn directories_are_those_that_the_person_named_or_below_the_home() {
        let typed =
            [("HOME", "/home/me"), ("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "not/abs")];
        let me = person(54321, &typed);
        assert_eq!(me.home(), Some("/home/me".into()));
        assert_eq!(me.config_directory(), Some("/c/interceptor".into()));
        assert_eq!(me.state_directory(), Some("/home/me/.local/state/interceptor".into()));
        // Nothing is known of a user without an entry and a home.
        let nobody = person(54321, &[]);
        assert_eq!((nobody.home(), nobody.state_directory()), (None, None));
    }

    #[test]
    fn what_sudo_was_called_with_is_read_from_proc() {
        let read = variables(b"PATH=/a:/b\0EMPTY=\0=odd\0broken\0X=a=b\0");
        let expected = [("PATH", "/a:/b"), ("EMPTY", ""), ("", "odd"), ("X", "a=b")];
        let expected = expected.map(|(name, value)| (name.into(), value.into()));
        assert_eq!(read, expected);
        assert_eq!(parent("Name:\tsh\nPPid:\t17\nTgid:\t3\n"), Some(17));
        assert!(is_sudo(Path::new("/usr/bin/sudo")) && !is_sudo(Path::new("/usr/bin/sudoku")));
    }

    #[test]
    fn files_are_made_with_the_persons_rights_and_this_thread_keeps_its_own() {
        let home = tempfile::tempdir().unwrap();
        let owned = home.path().join("owned");
        fs::create_dir(&owned).unwrap();
        std::os::unix::fs::chown(&owned, Some(54321), Some(54321)).unwrap();
        fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let me = person(54321, &[]);
        me.act(|| fs::write(owned.join("mine"), "x")).unwrap();
        let made = fs::metadata(owned.join("mine")).unwrap();
        assert_eq!((made.uid(), made.gid()), (54321, 54321));
        let refused = me.act(|| fs::write(home.path().join("roots"), "x")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        fs::write(home.path().join("roots"), "x").unwrap();
        assert_eq!(fs::metadata(home.path().join("roots")).unwrap().uid(), 0);
    }
}
