//! Where a person's policies are: by name in the person's and the operator's directory, or in the
//! working directory and those above it. All but the operator's are read with the person's rights.

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

/// The names under which `run` finds a policy by itself.
pub(super) const FOUND: [&str; 2] = ["interceptor.json", "interceptor.jsonc"];
/// The extensions of a named policy.
const ENDINGS: [&str; 2] = ["json", "jsonc"];
/// The operator's named policies.
const SYSTEM: &str = "/etc/interceptor/policies";
/// The directory of named policies, below the person's settings.
const POLICIES: &str = "policies";

/// Whether `--policy` names a policy rather than a file: it has neither slash nor dot.
pub(super) fn is_name(policy: &Path) -> bool {
    let text = policy.to_string_lossy();
    !text.is_empty() && text != "-" && !text.contains(['/', '.'])
}

/// Whether a file is in the directory of the operator's policies. Says nothing of who can write it.
pub(super) fn is_operators(file: &Path) -> bool {
    let file = std::path::absolute(file).unwrap_or_default();
    file.file_name().is_some() && file.parent() == Some(Path::new(SYSTEM))
}

/// A directory of named policies.
struct NamedPolicies<'a> {
    path: PathBuf,
    /// The person whose directory it is; `None` for the operator's, which this process reads.
    person: Option<&'a Person>,
}

/// The policy of this name: the person's own, else the operator's.
///
/// # Errors
/// If there is none, or it cannot be read.
pub(super) fn named(person: &Person, name: &Path) -> anyhow::Result<Written> {
    let directories = directories(person);
    let (path, found_in) = path_of(&name.to_string_lossy(), &directories)?;
    match found_in.person {
        Some(person) => read(person, &path),
        None => Written::read(&path),
    }
}

/// The path of the operator's policy of this name.
///
/// # Errors
/// If there is none.
pub(super) fn of_operator(name: &Path) -> anyhow::Result<PathBuf> {
    let directories = [operators()];
    path_of(&name.to_string_lossy(), &directories).map(|(path, _)| path)
}

fn operators() -> NamedPolicies<'static> {
    NamedPolicies { path: PathBuf::from(SYSTEM), person: None }
}

/// The path of the policy of this name, in the first directory that has it.
fn path_of<'a, 'p>(
    name: &str,
    directories: &'a [NamedPolicies<'p>],
) -> anyhow::Result<(PathBuf, &'a NamedPolicies<'p>)> {
    for directory in directories {
        if let Some(path) = directory.file(name)? {
            return Ok((path, directory));
        }
    }
    let known: Vec<String> = directories.iter().flat_map(NamedPolicies::names).collect();
    let hint = did_you_mean(name, known.iter().map(String::as_str));
    let places: Vec<String> =
        directories.iter().map(|directory| directory.path.display().to_string()).collect();
    bail!(
        "there is no policy {name:?} in {}{hint}; a file is named with a slash or a dot: ./{name}",
        places.join(" or ")
    )
}

/// The person's own policy of this name.
///
/// # Errors
/// If it cannot be read.
pub(super) fn own(person: &Person, name: &Path) -> anyhow::Result<Option<Written>> {
    let Some(settings) = person.config_directory() else { return Ok(None) };
    let directory = NamedPolicies { path: settings.join(POLICIES), person: Some(person) };
    let file = directory.file(&name.to_string_lossy())?;
    file.map(|path| read(person, &path)).transpose()
}

/// The system's policy of this name, for root.
pub(super) fn of_the_system(name: &str) -> Option<PathBuf> {
    operators().file(name).ok().flatten()
}

impl NamedPolicies<'_> {
    /// The file of the policy of this name.
    fn file(&self, name: &str) -> anyhow::Result<Option<PathBuf>> {
        for ending in ENDINGS {
            let path = self.path.join(format!("{name}.{ending}"));
            if exists(self.person, &path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// The names in it.
    fn names(&self) -> Vec<String> {
        let listed = look(self.person, || {
            let entries = std::fs::read_dir(&self.path)?.filter_map(Result::ok);
            let policies = entries.map(|entry| entry.path()).filter(|path| {
                path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
            });
            Ok(policies.filter_map(|path| path.file_stem()?.to_str().map(str::to_owned)).collect())
        });
        listed.unwrap_or_default()
    }
}

/// The names of all policies that the person may name.
pub(super) fn known(person: &Person) -> Vec<String> {
    let mut known: Vec<String> =
        directories(person).iter().flat_map(NamedPolicies::names).collect();
    known.sort();
    known.dedup();
    known
}

fn directories(person: &Person) -> Vec<NamedPolicies<'_>> {
    let own = person.config_directory().map(|directory| directory.join(POLICIES));
    let own = own.map(|path| NamedPolicies { path, person: Some(person) });
    own.into_iter().chain([operators()]).collect()
}

/// Does work with a person's rights, or with this process's.
fn look<T: Send>(
    person: Option<&Person>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match person {
        Some(person) => person.act(work),
        None => work(),
    }
}

/// The policy file in a directory, or in the nearest one above it; not above the person's home.
///
/// # Errors
/// If a directory cannot be searched, or has both files.
pub(super) fn nearest(person: &Person, from: &Path) -> anyhow::Result<Option<PathBuf>> {
    let home = person.home().map(|home| std::fs::canonicalize(&home).unwrap_or(home));
    let above = |directory: &Path| {
        home.as_deref().is_some_and(|home| home != directory && home.starts_with(directory))
    };
    for directory in from.ancestors().take_while(|directory| !above(directory)) {
        let mut found = Vec::new();
        for name in FOUND {
            let path = directory.join(name);
            if exists(Some(person), &path)? {
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

/// The directory of the person's named policies, which is hidden in the sandbox: what runs there
/// must not write the policy of a later run. Created if missing, since the sandbox could create it.
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
    // What the person cannot create, the command cannot either.
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

fn exists(person: Option<&Person>, path: &Path) -> anyhow::Result<bool> {
    match look(person, || std::fs::metadata(path)) {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                // A file that the person cannot reach is not that person's policy.
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
