//! The user that runs the command: `--user` if given, else the caller of sudo, else `nobody`.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use serde::{Deserialize, Serialize};

use super::SandboxError;
use super::error::IoContext;
use crate::ipc::SentPath;

/// A process's user and groups, and the values its environment shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UserIdentity {
    /// The user id.
    pub(crate) uid: u32,
    /// The primary group id.
    pub(crate) gid: u32,
    /// The supplementary group ids.
    pub(crate) groups: Vec<u32>,
    /// The login name, or the number if there is none.
    pub(crate) name: String,
    /// The home directory, if it exists.
    pub(crate) home: Option<SentPath>,
    /// The login shell, if there is a usable one.
    pub(crate) shell: Option<SentPath>,
}

impl UserIdentity {
    /// Chooses the user of a sandbox. `wanted` is `USER[:GROUP]`, by name or number; `sudo` is
    /// SUDO_UID and SUDO_GID. Root is used only if asked for explicitly.
    pub(crate) fn choose(
        wanted: Option<&str>,
        sudo: Option<(u32, u32)>,
    ) -> Result<Self, SandboxError> {
        match (wanted, sudo) {
            (Some(wanted), _) => Self::parse(wanted),
            (None, Some((uid, gid))) if uid != 0 => Self::of_number(uid, Some(gid)),
            (None, _) => Self::parse("nobody"),
        }
    }

    fn parse(wanted: &str) -> Result<Self, SandboxError> {
        let (user, group) = match wanted.split_once(':') {
            Some((user, group)) => (user, Some(group_number(group)?)),
            None => (wanted, None),
        };
        let known = User::from_name(user).context(|| format!("cannot look up the user {user}"))?;
        match (known, user.parse::<u32>()) {
            (Some(known), _) => Self::of(known, group),
            (None, Ok(number)) => Self::of_number(number, group),
            (None, Err(_)) => Err(SandboxError::Refused(format!(
                "there is no user {user:?}: name one of /etc/passwd, or a number, with --user"
            ))),
        }
    }

    /// The user of this number, known to the system or not.
    pub(crate) fn of_number(uid: u32, group: Option<u32>) -> Result<Self, SandboxError> {
        let known = User::from_uid(Uid::from_raw(uid))
            .context(|| format!("cannot look up the user {uid}"))?;
        let gid = group.unwrap_or(uid);
        match known {
            Some(known) => Self::of(known, group),
            None => Ok(UserIdentity {
                uid,
                gid,
                groups: vec![gid],
                name: uid.to_string(),
                home: None,
                shell: None,
            }),
        }
    }

    /// The owner of a file: with the groups of the system's database, or the file's if the user is
    /// not there.
    pub(crate) fn owner(uid: u32, gid: u32) -> Result<Self, SandboxError> {
        let known = User::from_uid(Uid::from_raw(uid))
            .context(|| format!("cannot look up the user {uid}"))?;
        match known {
            Some(known) => Self::of(known, None),
            None => Self::of_number(uid, Some(gid)),
        }
    }

    fn of(user: User, group: Option<u32>) -> Result<Self, SandboxError> {
        let gid = group.unwrap_or(user.gid.as_raw());
        let name = CString::new(user.name.as_bytes())
            .map_err(|_| SandboxError::Refused("the user name contains a NUL".into()))?;
        let groups = getgrouplist(&name, Gid::from_raw(gid))
            .context(|| format!("cannot look up the groups of {}", user.name))?;
        let path = |path: PathBuf| {
            let usable = path.is_absolute() && !path.as_os_str().as_bytes().contains(&b'\n');
            usable.then_some(SentPath(path))
        };
        Ok(UserIdentity {
            uid: user.uid.as_raw(),
            gid,
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            home: path(user.dir).filter(|home| home.0.is_dir()),
            // Service accounts have a "shell" that only refuses.
            shell: path(user.shell)
                .filter(|shell| !shell.0.ends_with("nologin") && !shell.0.ends_with("false")),
            name: user.name,
        })
    }

    /// Whether this is uid 0, which owns most host files.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// The number of user namespaces an ordinary user may create on this machine.
///
/// # Errors
/// Why none can be created, and what would permit it.
pub(crate) fn user_namespaces() -> Result<u64, (&'static str, &'static str)> {
    let read = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (
        read("/proc/sys/user/max_user_namespaces"),
        read("/proc/sys/kernel/unprivileged_userns_clone"),
    ) {
        (None, _) => Err(("this kernel has no user namespaces", "boot one with CONFIG_USER_NS=y")),
        (Some(0), _) => {
            Err(("no user namespace can be created here", "sysctl user.max_user_namespaces=10000"))
        }
        (_, Some(0)) => Err((
            "ordinary users cannot create user namespaces here",
            "sysctl kernel.unprivileged_userns_clone=1",
        )),
        // Ubuntu permits it only to programs with a matching profile.
        _ if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) => Err((
            "AppArmor forbids user namespaces to ordinary users here",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or a profile that permits \
             them to the program",
        )),
        (Some(most), _) => Ok(most),
    }
}

fn group_number(group: &str) -> Result<u32, SandboxError> {
    let known = Group::from_name(group).context(|| format!("cannot look up the group {group}"))?;
    match (known, group.parse()) {
        (Some(known), _) => Ok(known.gid.as_raw()),
        (None, Ok(number)) => Ok(number),
        (None, Err(_)) => Err(SandboxError::Refused(format!("there is no group {group:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_caller_of_sudo_and_else_nobody() {
        let nobody = UserIdentity::choose(None, None).unwrap();
        assert_eq!((nobody.name.as_str(), nobody.home.clone()), ("nobody", None));
        assert_ne!(nobody.uid, 0);
        assert_eq!(UserIdentity::choose(None, Some((0, 0))).unwrap(), nobody);
        let caller = UserIdentity::choose(None, Some((54321, 54322))).unwrap();
        assert_eq!(
            (caller.uid, caller.gid, caller.groups.as_slice()),
            (54321, 54322, [54322].as_slice())
        );
    }

    #[test]
    fn a_user_is_named_by_name_or_number_with_or_without_a_group() {
        let root = UserIdentity::choose(Some("root"), Some((1000, 1000))).unwrap();
        assert!(root.is_root());
        assert_eq!(root.home, Some(SentPath("/root".into())));
        assert_eq!(UserIdentity::choose(Some("0"), None).unwrap(), root);
        assert_eq!(UserIdentity::choose(Some("nobody:12345"), None).unwrap().gid, 12345);
        assert_eq!(UserIdentity::choose(Some("4242:root"), None).unwrap().gid, 0);
    }

    #[test]
    fn a_user_or_group_that_does_not_exist_is_refused() {
        for wanted in ["no-such-user", "", "root:no-such-group", "-1", "nobody:", "99999999999"] {
            assert!(UserIdentity::choose(Some(wanted), None).is_err(), "{wanted:?}");
        }
    }
}
