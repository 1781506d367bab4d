//! Whose policies name programs that are run, or services that are asked: those whose content the
//! person has trusted, and the operator's. Programs run with the rights of the person who typed the
//! command, services are sent that person's secrets, and who could have written a file does not
//! tell who did: a repository that root cloned is somebody else's.

use std::path::{Path, PathBuf};
use std::{fs, io};

use interceptor_policy::{Catalogue, Policy};

use super::live::guarded::Guarded;
use super::person::Person;
use super::written::Written;
use super::{discovery, setup, trust};
use crate::credential::{Kinds, Sources};
use crate::sandbox::user::UserIdentity;

/// The number of a user without rights (linux/highuid.h).
const NOBODY: u32 = 65534;

/// What root inside can write, besides the working directory.
pub(super) const WRITABLE: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];

/// Why no program of a policy is run, and no service asked.
pub(super) const UNTRUSTED: &str = "the policy's content is not trusted yet";

/// Whether a policy's file names programs or services, and is none of the operator's: its content
/// must be trusted first.
pub(super) fn is_doubtful(policy: &Policy, file: Option<&Path>, sources: &Sources) -> bool {
    file.is_some_and(|file| !sources.accept(file, Kinds::of(setup::secrets(policy))))
}

/// Accepts a policy whose programs may be run, or that names none.
///
/// # Errors
/// As [`trust::require`].
pub(super) fn require(
    written: Written,
    person: &Person,
    sources: &Sources,
    catalogue: &Catalogue,
) -> anyhow::Result<Written> {
    // Options add no programs and no services.
    let text = written.own.as_ref().unwrap_or(&written.text);
    let Some(policy) = interceptor_policy::check(text, catalogue).policy else {
        // It is refused for its errors.
        return Ok(written);
    };
    let file = written.file.as_deref();
    if written.is_trusted || !is_doubtful(&policy, file, sources) {
        return Ok(written);
    }
    let file = file.map(std::path::absolute).transpose()?;
    let (name, text) = (written.name.clone(), text.clone());
    let named = Written { name, text, own: None, file, is_trusted: false };
    trust::require(person, named, catalogue)?;
    Ok(Written { is_trusted: true, ..written })
}

/// Whether a policy is the operator's: in the directory of those, and no sandbox of this user in
/// this directory could have written it, nor anybody but root.
pub(super) fn is_operators(file: &Path, runner: &UserIdentity, directory: &Path) -> bool {
    discovery::is_operators(file) && only_root_could(file, runner, directory)
}

/// Whether nobody could have written a file but root, and not even root inside, with this working
/// directory. What cannot be told may be anybody's.
pub(super) fn only_root_could(file: &Path, runner: &UserIdentity, directory: &Path) -> bool {
    let is_changeable = || -> io::Result<bool> {
        let file = std::path::absolute(file)?;
        if !runner.is_root() {
            return Ok(Guarded::any(&file, runner, 0)?.is_changeable);
        }
        // Inside, all else is read-only for root.
        let writable: Vec<PathBuf> =
            WRITABLE.iter().map(PathBuf::from).chain([directory.to_owned()]).collect();
        let is_inside = |path: &Path| writable.iter().any(|place| path.starts_with(place));
        Ok(is_inside(&file)
            || is_inside(&fs::canonicalize(&file)?)
            || Guarded::any(&file, &nobody(), 0)?.is_changeable)
    };
    matches!(is_changeable(), Ok(false))
}

/// A user without rights: what this one can change, every user can.
pub(super) fn nobody() -> UserIdentity {
    let (name, groups) = (NOBODY.to_string(), Vec::new());
    UserIdentity { uid: NOBODY, gid: NOBODY, groups, name, home: None, shell: None }
}
