//! Which policies a container may ask for: those in the operator's directory. Anybody who may start
//! containers chooses among them; no annotation can name another file on the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::{Attempt, OciError};

/// Maximum length of the annotation, in bytes.
const LONGEST: usize = 1024;

/// Resolves `asked` to a file below `directory`, by path or by name, with or without `.json`.
///
/// # Errors
/// If it is elsewhere, missing, or writable by anybody except root.
pub(crate) fn resolve(directory: &Path, asked: &str) -> Result<PathBuf, OciError> {
    let shown = asked.get(..LONGEST.min(asked.len())).unwrap_or_default().escape_debug();
    let unknown = || {
        OciError::Refused(format!(
            "unknown policy `{shown}` in the annotation {}; policies are files NAME.json in {}",
            super::POLICY,
            directory.display()
        ))
    };
    let refused = |why: &str| {
        OciError::Refused(format!(
            "the annotation {} asks for the policy \"{shown}\": {why}; policies for containers \
             are files in {}",
            super::POLICY,
            directory.display()
        ))
    };
    let path = Path::new(asked);
    let plain =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir));
    if asked.is_empty() || asked.len() > LONGEST || !plain || asked.contains('\0') {
        return Err(refused("no file there has this name"));
    }
    // `join` keeps an absolute path unchanged.
    let named = directory.join(path);
    let mut with_suffix = named.clone().into_os_string();
    with_suffix.push(".json");
    let base = fs::canonicalize(directory)
        .attempt(|| format!("cannot open the directory {}", directory.display()))?;
    let found =
        [named, with_suffix.into()].into_iter().find_map(|path| fs::canonicalize(path).ok());
    let Some(found) = found.filter(|found| found.starts_with(&base) && found.is_file()) else {
        return Err(unknown());
    };
    for part in found.ancestors().take_while(|part| part.starts_with(&base)) {
        let metadata =
            fs::metadata(part).attempt(|| format!("cannot examine {}", part.display()))?;
        if metadata.mode() & 0o022 != 0 || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(refused(&format!("{} is writable by others than root", part.display())));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_files_below_the_directory_are_policies() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.json"), "{}").unwrap();
        let directory = outside.path().join("policies");
        fs::create_dir_all(directory.join("team")).unwrap();
        for path in [directory.clone(), directory.join("team")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for name in ["p.json", "team/q.json", "open.json"] {
            fs::write(directory.join(name), "{}").unwrap();
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::set_permissions(directory.join("open.json"), fs::Permissions::from_mode(0o622))
            .unwrap();
        symlink("../secret.json", directory.join("link.json")).unwrap();
        let absolute = directory.join("p.json");
        for asked in ["p", "p.json", "team/q", absolute.to_str().unwrap()] {
            assert!(resolve(&directory, asked).is_ok(), "{asked}");
        }
        let long = "a".repeat(2000);
        for asked in [
            "",
            "none",
            "../secret.json",
            "team/../../secret",
            "/etc/passwd",
            "link",
            "team",
            "open",
            "p\0",
            &long,
        ] {
            assert!(resolve(&directory, asked).is_err(), "{asked}");
        }
    }
}
