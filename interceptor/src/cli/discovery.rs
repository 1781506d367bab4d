//! Where a person's policies are: by name in the person's and the system's directory, or in the
//! working directory and those above it. All are read with the person's rights.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use interceptor_policy::did_you_mean;
use zeroize::Zeroizing;

use super::person::Person;
use super::policy_file;
use super::written::Written;
use crate::ipc::SentPath;

/// The names of a policy that is found by itself.
pub(super) const FOUND: [&str; 2] = ["interceptor.json", "interceptor.jsonc"];
/// The endings of a named policy.
const ENDINGS: [&str; 2] = ["json", "jsonc"];
/// The system's named policies.
const SYSTEM: &str = "/etc/interceptor/policies";
/// The directory of named policies, below the person's settings.
const POLICIES: &str = "policies";

/// Whether `--policy` names a policy rather than a file: it has neither slash nor dot.
pub(super) fn is_name(policy: &Path) -> bool {
    let text = policy.to_string_lossy();
    !text.is_empty() && text != "-" && !text.contains(['/', '.'])
}

/// The policy of this name.
///
/// # Errors
/// If there is none, or it cannot be read.
pub(super) fn named(person: &Person, name: &Path) -> anyhow::Result<Written> {
    let name = name.to_string_lossy();
    let directories = directories(person);
    for directory in &directories {
        if let Some(path) = file_in(person, directory, &name)? {
            return read(person, &path);
        }
    }
    let known = known(person);
    let hint = did_you_mean(&name, known.iter().map(String::as_str));
    let places: Vec<String> =
        directories.iter().map(|directory| directory.display().to_string()).collect();
    bail!(
        "there is no policy {name:?} in {}{hint}; a file is named with a slash or a dot: \
         --policy ./{name}",
        places.join(" or ")
    )
}

/// The person's own policy of this name.
///
/// # Errors
/// If it cannot be read.
pub(super) fn own(person: &Person, name: &Path) -> anyhow::Result<Option<Written>> {
    let Some(settings) = person.config_directory() else { return Ok(None) };
    let file = file_in(person, &settings.join(POLICIES), &name.to_string_lossy())?;
    file.map(|path| read(person, &path)).transpose()
}

/// The system's policy of this name, for root.
pub(super) fn of_the_system(name: &str) -> Option<PathBuf> {
    let files = ENDINGS.iter().map(|ending| Path::new(SYSTEM).join(format!("{name}.{ending}")));
    files.into_iter().find(|path| path.is_file())
}

fn file_in(person: &Person, directory: &Path, name: &str) -> anyhow::Result<Option<PathBuf>> {
    for ending in ENDINGS {
        let path = directory.join(format!("{name}.{ending}"));
        if exists(person, &path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The names of all policies that the person may name.
pub(super) fn known(person: &Person) -> Vec<String> {
    let mut known: Vec<String> =
        directories(person).iter().flat_map(|directory| names(person, directory)).collect();
    known.sort();
    known.dedup();
    known
}

fn directories(person: &Person) -> Vec<PathBuf> {
    let own = person.config_directory().map(|directory| directory.join(POLICIES));
    own.into_iter().chain([PathBuf::from(SYSTEM)]).collect()
}

/// The names of the policies in a directory.
fn names(person: &Person, directory: &Path) -> Vec<String> {
    let listed = person.act(|| {
        let entries = std::fs::read_dir(directory)?.filter_map(Result::ok);
        let policies = entries.map(|entry| entry.path()).filter(|path| {
            path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
        });
        Ok(policies.filter_map(|path| path.file_stem()?.to_str().map(str::to_owned)).collect())
    });
    listed.unwrap_or_default()
}

/// The policy file in a directory, or in the nearest one above it; not above the person's home.
///
/// # Errors
/// If that cannot be told.
pub(super) fn nearest(person: &Person, from: &Path) -> anyhow::Result<Option<PathBuf>> {
    let home = person.home().map(|home| std::fs::canonicalize(&home).unwrap_or(home));
    let above = |directory: &Path| {
        home.as_deref().is_some_and(|home| home != directory && home.starts_with(directory))
    };
    for directory in from.ancestors().take_while(|directory| !above(directory)) {
        let mut found = Vec::new();
        for name in FOUND {
            let path = directory.join(name);
            if exists(person, &path)? {
                found.push(path);
            }
        }
        match found.as_slice() {
            [] => {}
            [path] => return Ok(Some(path.clone())),
            [one, other, ..] => bail!(
                "there are both {} and {}: remove one, or name one with --policy",
                one.display(),
                other.display()
            ),
        }
    }
    Ok(None)
}

/// The person's named policies, which are hidden in the sandbox: what runs there must not write the
/// policy of a later run. The directory is made if it is missing, since the sandbox could make it.
///
/// # Errors
/// If the command would run in it.
pub(super) fn hidden_settings(
    person: &Person,
    working_directory: &Path,
) -> anyhow::Result<Option<SentPath>> {
    let Some(settings) = person.config_directory() else { return Ok(None) };
    let made = person.act(|| {
        DirBuilder::new().recursive(true).mode(0o700).create(&settings).ok();
        std::fs::canonicalize(&settings)
    });
    // Where the person can make nothing, the command cannot either.
    let Ok(settings) = made else { return Ok(None) };
    // The usual place is hidden with the other secrets of the home.
    if person.home().is_some_and(|home| settings == home.join(".config/interceptor")) {
        return Ok(None);
    }
    if working_directory.starts_with(&settings) {
        bail!(
            "the working directory is in {}, which the interceptor hides from every sandbox; \
             change to another directory",
            settings.display()
        );
    }
    Ok(Some(SentPath(settings)))
}

/// Reads a policy with the person's rights.
///
/// # Errors
/// If it cannot be read.
pub(super) fn read(person: &Person, path: &Path) -> anyhow::Result<Written> {
    let text = Zeroizing::new(person.act(|| Ok(policy_file::read(path)))??);
    let name = path.display().to_string();
    Ok(Written { name, text, own: None, file: Some(path.to_owned()), is_trusted: false })
}

fn exists(person: &Person, path: &Path) -> anyhow::Result<bool> {
    match person.act(|| std::fs::metadata(path)) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                // What the person may not see is no policy of that person's.
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).with_context(|| format!("cannot look for {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    const USER: u32 = 54321;

    fn place() -> (tempfile::TempDir, PathBuf, Person) {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = fs::canonicalize(place.path()).unwrap().join("home");
        fs::create_dir_all(home.join("project/deep")).unwrap();
        let person = Person::with_variables(USER, &[("HOME", home.to_str().unwrap())]);
        (place, home, person)
    }

    #[test]
    fn the_nearest_file_is_found_and_none_above_the_home() {
        let (_place, home, person) = place();
        let deep = home.join("project/deep");
        fs::write(home.parent().unwrap().join("interceptor.json"), "{}").unwrap();
        assert_eq!(nearest(&person, &deep).unwrap(), None);
        for directory in [&home, &home.join("project"), &deep] {
            let path = directory.join("interceptor.jsonc");
            fs::write(&path, "{}").unwrap();
            assert_eq!(nearest(&person, &deep).unwrap(), Some(path));
        }
        fs::write(deep.join("interceptor.json"), "{}").unwrap();
        let error = nearest(&person, &deep).unwrap_err().to_string();
        assert!(error.contains("--policy"), "{error}");
        // Outside the home, what is not above it counts.
        let outside = home.parent().unwrap().join("outside/deep");
        fs::create_dir_all(&outside).unwrap();
        assert_eq!(nearest(&person, &outside).unwrap(), None);
        let path = home.parent().unwrap().join("outside/interceptor.json");
        fs::write(&path, "{}").unwrap();
        assert_eq!(nearest(&person, &outside).unwrap(), Some(path));
    }

    #[test]
    fn a_policy_is_found_by_name_and_read_with_the_persons_rights() {
        let (_place, home, person) = place();
        let policies = home.join(".config/interceptor/policies");
        fs::create_dir_all(&policies).unwrap();
        fs::write(policies.join("agent.json"), "{ }").unwrap();
        assert_eq!(named(&person, Path::new("agent")).unwrap().text.as_str(), "{ }");
        let error = named(&person, Path::new("agnet")).unwrap_err().to_string();
        assert!(error.contains("did you mean `agent`?") && error.contains("./agnet"), "{error}");
        // A link leads nowhere that the person cannot read.
        let secret = home.join("secret.json");
        fs::write(&secret, "{}").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&secret, policies.join("link.json")).unwrap();
        assert!(named(&person, Path::new("link")).is_err());
        chown(&secret, Some(USER), Some(USER)).unwrap();
        assert!(named(&person, Path::new("link")).is_ok());
        for (text, expected) in
            [("agent", true), ("-", false), ("a.json", false), ("./agent", false), ("", false)]
        {
            assert_eq!(is_name(Path::new(text)), expected, "{text}");
        }
    }
}
