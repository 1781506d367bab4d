//! Who runs the command of `run`: `--user` if given, else the person who called sudo, else, for
//! root, the owner of the working directory. Also the messages if that does not work.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::bail;
use caps::{CapSet, Capability};

use super::install::daemon;
use super::person::Person;
use crate::credential::{KeyError, KeyLocation, KeyProblem};
use crate::ipc::SentPath;
use crate::sandbox::user::UserIdentity;

/// What `run` needs of root.
pub(super) const NEEDED: [Capability; 7] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_BPF,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_MKNOD,
];

/// Who runs the command.
#[derive(Debug)]
pub(super) struct Runner {
    /// The user, with groups and home.
    pub(super) identity: UserIdentity,
    /// The umask to give the command; `None` keeps this process's.
    pub(super) umask: Option<u32>,
    /// What to say about a choice that the user did not make.
    pub(super) note: Option<String>,
}

/// Chooses who runs the command in this working directory.
///
/// # Errors
/// If the user does not exist, or cannot be looked up.
pub(super) fn choose(
    wanted: Option<&str>,
    person: &Person,
    directory: &Path,
) -> anyhow::Result<Runner> {
    if let Some(wanted) = wanted {
        let identity = UserIdentity::choose(Some(wanted), None)?;
        return Ok(Runner { identity, umask: person.umask(), note: None });
    }
    if !person.identity.is_root() {
        let mut identity = person.identity.clone();
        // The person's own HOME, if it is a directory.
        identity.home = person.home().filter(|home| home.is_dir()).map(SentPath);
        return Ok(Runner { identity, umask: person.umask(), note: None });
    }
    let owner = fs::metadata(directory).ok().map(|found| (found.uid(), found.gid()));
    let (identity, why) = match owner {
        Some((uid, gid)) if uid != 0 => {
            (UserIdentity::owner(uid, gid)?, format!("who owns {}", directory.display()))
        }
        _ => {
            (UserIdentity::choose(None, None)?, format!("since root owns {}", directory.display()))
        }
    };
    let note = format!(
        "you are root, and no user called sudo: the command runs as {}, {why} (--user chooses \
         another)",
        identity.name
    );
    Ok(Runner { identity, umask: None, note: Some(note) })
}

/// How to get unset key variables past sudo; `None` if sudo is not the cause.
pub(super) fn sets_keys(errors: &[KeyError], person: &Person) -> Option<String> {
    let unset = errors.iter().filter_map(|error| match &error.place {
        KeyLocation::Variable(name) if matches!(error.problem.itself(), KeyProblem::Unset) => {
            Some(name.as_str())
        }
        _ => None,
    });
    let mut unset: Vec<&str> = unset.collect();
    unset.dedup();
    let names = unset.join(",");
    match (unset.is_empty(), person.by_sudo, person.lost_environment()) {
        (true, ..) | (_, false, _) => None,
        (_, _, true) => Some(format!(
            "sudo drops variables; type: sudo --preserve-env={names} interceptor run …"
        )),
        _ => {
            Some(format!("neither sudo nor the shell that called it has {names}: export it first"))
        }
    }
}

/// The capabilities that `run` needs and this process lacks.
pub(super) fn lacking() -> Vec<String> {
    let has =
        |needed: &&Capability| caps::has_cap(None, CapSet::Effective, **needed).unwrap_or(false);
    NEEDED.iter().filter(|needed| !has(needed)).map(Capability::to_string).collect()
}

/// Refuses to go on without the rights that `attach` needs.
///
/// # Errors
/// What is missing, and what to type.
pub(super) fn needs_rights_to_attach() -> anyhow::Result<()> {
    let missing = lacking();
    if missing.is_empty() || nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "attach needs root, which loads its programs. Type: sudo interceptor attach … \
         (missing: {})",
        missing.join(", ")
    );
}

/// Refuses to go on without the rights that `run` needs.
///
/// # Errors
/// What is missing, and what to type.
pub(super) fn needs_rights() -> anyhow::Result<()> {
    let missing = lacking();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    if nix::unistd::geteuid().is_root() {
        bail!(
            "root lacks {missing} here: grant them to the container (--cap-add, or --privileged), \
             or run outside of it; `interceptor doctor` checks the rest"
        );
    }
    if let Some(start) = daemon::start() {
        bail!(
            "the daemon, which makes the sandboxes of runs without sudo, does not run. Type: sudo \
             {start}; or: sudo interceptor run … (missing: {missing})"
        );
    }
    bail!(
        "run needs root, which sets up the sandbox; the command itself runs as you. Type: sudo \
         interceptor run …; or, once, for runs without sudo: sudo interceptor install daemon \
         (missing: {missing})"
    );
}
