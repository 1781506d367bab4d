//! Finds and executes the command as a shell would, with a shell's exit statuses.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Uid, User, access};

/// Exit status for a failure of interceptor itself.
pub(crate) const OUR_FAILURE: i32 = 125;
/// Exit status of a command that was not found (POSIX 2.8.2, "Exit Status for Commands").
pub(crate) const NOT_FOUND: i32 = 127;
/// Exit status of a command that was found but could not be executed.
pub(crate) const NOT_EXECUTABLE: i32 = 126;

/// Replaces this process with the command. Returns only on failure: the exit status and the reason.
pub(crate) fn execute(command: &[OsString], environment: &[OsString]) -> (i32, String) {
    let Some(name) = command.first() else { return (NOT_FOUND, "no command was given".into()) };
    let shown = name.to_string_lossy();
    let (Ok(arguments), Ok(environment)) = (c_strings(command), c_strings(environment)) else {
        return (NOT_EXECUTABLE, format!("{shown}: an argument contains a NUL"));
    };
    let user = variable(&environment, "USER=").to_string_lossy().into_owned();
    let path = variable(&environment, "PATH=");
    let mut worst = (Errno::ENOENT, PathBuf::new());
    for candidate in candidates(name, path) {
        let Ok(file) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        // Only failures return.
        let Err(error) = nix::unistd::execve(&file, &arguments, &environment);
        match error {
            Errno::ENOEXEC => return run_by_shell(&file, &arguments, &environment, &shown),
            // As execvp(3): continue the search, but remember that a file was there.
            Errno::ENOENT | Errno::ENOTDIR => {
                if candidate.exists() {
                    // The file exists, so its interpreter is missing.
                    return (NOT_EXECUTABLE, format!("{shown}: its interpreter was not found"));
                }
            }
            // The user cannot enter this directory of PATH, so this says nothing about its content.
            Errno::EACCES
                if !name.as_bytes().contains(&b'/') && candidate.symlink_metadata().is_err() => {}
            other => worst = (other, candidate),
        }
    }
    match worst {
        (Errno::ENOENT, _) if name.as_bytes().contains(&b'/') => {
            (NOT_FOUND, format!("{shown}: command not found: there is no such file"))
        }
        (Errno::ENOENT, _) => {
            let path = path.to_string_lossy();
            (NOT_FOUND, format!("{shown}: command not found on the PATH of {user}, {path}"))
        }
        (Errno::EACCES, file) => {
            let why = forbidden(&file).unwrap_or_else(|| "execute it".to_owned());
            (NOT_EXECUTABLE, format!("{shown}: {user} may not {why}"))
        }
        (other, _) => (NOT_EXECUTABLE, format!("{shown}: {}", io::Error::from(other))),
    }
}

/// What this process's user may not do with a file or a directory above it, with its mode and
/// owner.
fn forbidden(file: &Path) -> Option<String> {
    let mut file = std::path::absolute(file).ok()?;
    // At most as many symlinks as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let above: Vec<&Path> = file.ancestors().skip(1).collect();
        let closed = above
            .into_iter()
            .rev()
            .find(|directory| access(*directory, AccessFlags::X_OK).is_err());
        if let Some(directory) = closed {
            return Some(format!("enter {}{}", directory.display(), rights(directory)));
        }
        let Ok(target) = std::fs::read_link(&file) else { break };
        file = file.parent()?.join(target);
    }
    if file.is_dir() {
        return Some(format!("execute {}: it is a directory", file.display()));
    }
    if access(&file, AccessFlags::X_OK).is_err() {
        return Some(format!("execute {}{}", file.display(), rights(&file)));
    }
    Some(format!("execute {}: its file system is mounted noexec", file.display()))
}

/// The mode and owner of a file, if they can be seen.
fn rights(path: &Path) -> String {
    let Ok(status) = path.metadata() else { return String::new() };
    let owner = User::from_uid(Uid::from_raw(status.uid())).ok().flatten();
    let owner = owner.map_or_else(|| status.uid().to_string(), |owner| owner.name);
    format!(", which belongs to {owner} and has mode {:04o}", status.mode() & 0o7777)
}

/// A file without an interpreter line is a shell script (POSIX 2.9.1.1).
fn run_by_shell(
    path: &CString,
    arguments: &[CString],
    environment: &[CString],
    shown: &str,
) -> (i32, String) {
    let mut all = vec![c"sh".to_owned(), path.clone()];
    all.extend(arguments.iter().skip(1).cloned());
    let Err(error) = nix::unistd::execve(c"/bin/sh", &all, environment);
    (NOT_EXECUTABLE, format!("{shown}: {}", io::Error::from(error)))
}

fn c_strings(strings: &[OsString]) -> Result<Vec<CString>, std::ffi::NulError> {
    strings.iter().map(|string| CString::new(string.as_bytes())).collect()
}

/// The value of a variable, named with its `=`.
fn variable<'a>(environment: &'a [CString], name: &str) -> &'a OsStr {
    let mut values =
        environment.iter().filter_map(|line| line.as_bytes().strip_prefix(name.as_bytes()));
    values.next().map_or(OsStr::new(""), OsStr::from_bytes)
}

/// A name with a slash is a path; otherwise search PATH, where an empty entry is the current
/// directory.
fn candidates(name: &OsStr, path: &OsStr) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![name.into()];
    }
    if name.is_empty() {
        return Vec::new();
    }
    std::env::split_paths(path)
        .map(|directory| {
            if directory.as_os_str().is_empty() {
                Path::new(".").join(name)
            } else {
                directory.join(name)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_looked_for_where_a_shell_would() {
        let found = |name: &str, path: &str| candidates(OsStr::new(name), OsStr::new(path));
        assert_eq!(found("./x", "/bin"), [PathBuf::from("./x")]);
        assert_eq!(
            found("x", "/a::/b"),
            [PathBuf::from("/a/x"), PathBuf::from("./x"), PathBuf::from("/b/x")]
        );
        assert!(found("", "/bin").is_empty());
    }

    #[test]
    fn what_cannot_be_executed_has_a_shells_status() {
        let directory = tempfile::tempdir().unwrap();
        let bad = directory.path().join("script");
        std::fs::write(&bad, "#!/no/such/interpreter\n").unwrap();
        let run =
            |name: &str| execute(&[name.into()], &["PATH=/nowhere:/".into(), "USER=lena".into()]);
        let (status, why) = run("no-such-command");
        assert_eq!(status, NOT_FOUND);
        let told = "no-such-command: command not found on the PATH of lena, /nowhere:/";
        assert_eq!(why, told);
        assert_eq!(run("/no/such/command").0, NOT_FOUND);
        assert_eq!(run("").0, NOT_FOUND);
        assert_eq!(run("/").0, NOT_EXECUTABLE);
        let (status, why) = run("/etc/passwd");
        assert_eq!(status, NOT_EXECUTABLE);
        let told = "/etc/passwd: lena may not execute /etc/passwd, which belongs to root and has \
                    mode 0644";
        assert_eq!(why, told);
        assert_eq!(run(bad.to_str().unwrap()).0, NOT_EXECUTABLE, "not executable by mode");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (status, why) = run(bad.to_str().unwrap());
        assert_eq!(status, NOT_EXECUTABLE);
        assert!(why.contains("interpreter"), "{why}");
    }
}
