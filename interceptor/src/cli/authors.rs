//! Who could have written the file of a policy that names programs or services: programs run with
//! the rights of the person who typed the command, and services are sent that person's secrets,
//! from that person's place in the network.

use std::path::{Path, PathBuf};
use std::{fs, io};

use interceptor_policy::{Catalogue, Policy};

use super::live::guarded::Guarded;
use super::person::Person;
use super::written::Written;
use super::{setup, trust};
use crate::credential::{Kinds, Sources};
use crate::sandbox::user::UserIdentity;

/// The number of a user without rights (linux/highuid.h).
const NOBODY: u32 = 65534;

/// What root inside can write, besides the working directory.
pub(super) const WRITABLE: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];

/// Why no program of a doubtful policy is run, and no service asked.
pub(super) const DOUBTFUL: &str = "others, or a sandbox, could have written the policy's file, \
    and its content is not trusted yet (see interceptor trust; --skip-keys leaves this check out)";

/// Whether a policy's file names programs or services, and the sandbox's user could have written
/// it, or anybody else but root and the person. The user may be the person: then a sandbox could
/// have.
pub(super) fn is_doubtful(policy: &Policy, file: Option<&Path>, sources: &Sources) -> bool {
    file.is_some_and(|file| !sources.accept(file, Kinds::of(setup::secrets(policy))))
}

/// Accepts a policy unless it is doubtful and its content is not trusted.
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

/// Whether nobody could have written a file but root, a person, and not even the person if a
/// sandbox is the person's. What cannot be told may be anybody's.
pub(super) fn only_they_could(
    file: &Path,
    runner: &UserIdentity,
    person: u32,
    directory: &Path,
) -> bool {
    let is_changeable = || -> io::Result<bool> {
        let file = std::path::absolute(file)?;
        if !runner.is_root() {
            return Ok(Guarded::any(&file, runner, person)?.is_changeable);
        }
        // Inside, all else is read-only for root.
        let writable: Vec<PathBuf> =
            WRITABLE.iter().map(PathBuf::from).chain([directory.to_owned()]).collect();
        let is_inside = |path: &Path| writable.iter().any(|place| path.starts_with(place));
        Ok(is_inside(&file)
            || is_inside(&fs::canonicalize(&file)?)
            || Guarded::any(&file, &nobody(), person)?.is_changeable)
    };
    matches!(is_changeable(), Ok(false))
}

/// Whether nobody but root could have written a file. What cannot be told may be anybody's.
pub(super) fn only_root_could(file: &Path) -> bool {
    only_they_could(file, &nobody(), 0, Path::new("/"))
}

/// A user without rights.
fn nobody() -> UserIdentity {
    let (name, groups) = (NOBODY.to_string(), Vec::new());
    UserIdentity { uid: NOBODY, gid: NOBODY, groups, name, home: None, shell: None }
}
