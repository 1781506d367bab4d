//! The person who typed a command: under sudo the user who called it, else the user of this
//! process; and that person's directories.
//!
//! Files below these directories are read and written with the person's rights ([`Person::act`]),
//! so that a symlink cannot lead root elsewhere, and new files belong to the person.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use anyhow::Context;

use super::sudo::{self, SudoCall};
use crate::sandbox::as_user::AsUser;
use crate::sandbox::user::UserIdentity;

/// Variables that sudo sets for the user whom the command runs as.
const REPLACED: [&str; 6] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "MAIL"];

/// The person who typed the command.
#[derive(Clone, Debug)]
pub(super) struct Person {
    /// The person's ids, groups, name and home from the user database.
    pub(super) identity: UserIdentity,
    /// Whether the person called sudo.
    pub(super) by_sudo: bool,
    /// What sudo was called with, before it dropped or replaced anything; `None` without sudo, or
    /// if this cannot be known.
    call: Option<SudoCall>,
}

impl Person {
    /// The person who typed this command.
    ///
    /// # Errors
    /// If the user database cannot be read.
    pub(super) fn invoking() -> anyhow::Result<Person> {
        Person::of(caller_of_sudo())
    }

    /// Somebody else than the user of this process, with these variables.
    pub(super) fn of_member(
        identity: &UserIdentity,
        environment: Vec<(OsString, OsString)>,
    ) -> Person {
        let call = Some(SudoCall { environment, ..SudoCall::default() });
        Person { identity: identity.clone(), by_sudo: false, call }
    }

    /// A caller of sudo with these variables.
    #[cfg(test)]
    pub(super) fn with_variables(uid: u32, typed: &[(&str, &str)]) -> Person {
        let pair = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        let identity = UserIdentity::of_number(uid, Some(uid)).expect("the database can be read");
        let environment = typed.iter().map(pair).collect();
        let call = Some(SudoCall { environment, ..SudoCall::default() });
        Person { identity, by_sudo: true, call }
    }

    fn of(sudo: Option<(u32, u32)>) -> anyhow::Result<Person> {
        let (uid, gid) = match sudo {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (nix::unistd::getuid().as_raw(), None),
        };
        let mut identity = UserIdentity::of_number(uid, gid).context("cannot tell who you are")?;
        let call = sudo.and_then(|_| sudo::call(uid));
        if let Some(groups) = call.as_ref().and_then(|call| call.groups.as_ref()) {
            identity.groups.clone_from(groups);
        }
        Ok(Person { identity, by_sudo: sudo.is_some(), call })
    }

    /// A variable as the person set it: under sudo from sudo's own environment if that can be read,
    /// else from this process's.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        match &self.call {
            Some(call) => {
                let mut typed = call.environment.iter();
                typed.find(|(known, _)| known == name).map(|(_, value)| value.clone())
            }
            None => env::var_os(name),
        }
    }

    /// A variable of this process (`sudo NAME=VALUE …`), else the person's.
    pub(super) fn given(&self, name: &str) -> Option<OsString> {
        env::var_os(name).or_else(|| self.variable(name))
    }

    /// The environment as if sudo had not been called, plus what sudo was told to set.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        let own = env::vars_os();
        let Some(call) = &self.call else { return own.collect() };
        let replaced = |name: &OsStr| REPLACED.iter().any(|known| name == OsStr::new(known));
        let mut all: Vec<(OsString, OsString)> = Vec::new();
        for (name, value) in
            own.filter(|(name, _)| !replaced(name)).chain(call.environment.iter().cloned())
        {
            if all.iter().all(|(known, _)| *known != name) {
                all.push((name, value));
            }
        }
        all
    }

    /// Whether sudo was called and its environment cannot be read.
    pub(super) fn lost_environment(&self) -> bool {
        self.by_sudo && self.call.is_none()
    }

    /// The umask where the person typed the command, if sudo may have replaced it.
    pub(super) fn umask(&self) -> Option<u32> {
        self.call.as_ref()?.umask
    }

    /// The home directory: HOME as the person has it, else the one of the user database.
    pub(super) fn home(&self) -> Option<PathBuf> {
        // Under sudo, HOME of this process may be root's.
        let own = !self.lost_environment();
        let variable = own.then(|| self.absolute("HOME")).flatten();
        variable.or_else(|| self.identity.home.as_ref().map(|home| home.0.clone()))
    }

    /// The person's settings of this program: `$XDG_CONFIG_HOME/interceptor`.
    pub(super) fn config_directory(&self) -> Option<PathBuf> {
        self.directory("XDG_CONFIG_HOME", ".config")
    }

    /// This program's state for the person: `$XDG_STATE_HOME/interceptor`.
    pub(super) fn state_directory(&self) -> Option<PathBuf> {
        self.directory("XDG_STATE_HOME", ".local/state")
    }

    /// Does work on files with the person's rights; on a separate thread if they differ from this
    /// process's.
    ///
    /// # Errors
    /// Those of `work`, or if the process cannot take on the person's rights.
    pub(super) fn act<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        act_as(&self.identity, work)
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

/// Does work on files with a user's rights; on a separate thread if they differ from this
/// process's.
///
/// # Errors
/// Those of `work`, or if the process cannot take on the user's rights.
pub(super) fn act_as<T: Send>(
    identity: &UserIdentity,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    if identity.is_root() || !nix::unistd::geteuid().is_root() {
        return work();
    }
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let _as_user = AsUser::begin(identity)?;
            work()
        });
        acting.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

/// The user and group in SUDO_UID and SUDO_GID, believed only if this process is root's.
pub(super) fn caller_of_sudo() -> Option<(u32, u32)> {
    let number = |name| env::var(name).ok()?.parse().ok();
    let root = nix::unistd::getuid().is_root();
    Some((number("SUDO_UID")?, number("SUDO_GID")?)).filter(|_| root)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn person(uid: u32, typed: &[(&str, &str)]) -> Person {
        Person::with_variables(uid, typed)
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
    fn what_sudo_replaced_is_as_it_was_and_what_it_was_told_to_add_is_there() {
        let me = person(54321, &[("PATH", "/mine:/bin"), ("MY_OWN", "1"), ("USER", "me")]);
        let all = me.environment();
        let value = |name: &str| {
            let found = all.iter().filter(|(known, _)| known == name);
            found.map(|(_, value)| value.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((value("PATH"), value("MY_OWN")), (vec!["/mine:/bin"], vec!["1"]));
        // Cargo sets it for the tests; `me` does not have it.
        assert_eq!(value("CARGO_PKG_NAME"), ["interceptor"]);
        assert_eq!(me.variable("CARGO_PKG_NAME"), None);
        assert!(me.given("CARGO_PKG_NAME").is_some() && me.given("MY_OWN").is_some());
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
