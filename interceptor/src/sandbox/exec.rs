//! Finds and executes the command as a shell would, with a shell's exit statuses.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

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
    let mut worst = Errno::ENOENT;
    for candidate in candidates(name, environment_path(&environment)) {
        let Ok(path) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        // Only failures return.
        let Err(error) = nix::unistd::execve(&path, &arguments, &environment);
        match error {
            Errno::ENOEXEC => return run_by_shell(&path, &arguments, &environment, &shown),
            // As execvp(3): continue the search, but remember that a file was there.
            Errno::ENOENT | Errno::ENOTDIR => {
                if candidate.exists() {
                    // The file exists, so its interpreter is missing.
                    return (NOT_EXECUTABLE, format!("{shown}: its interpreter was not found"));
                }
            }
            // The user cannot enter this directory of PATH, so this says nothing about its content.
            Errno::EACCES if !name.as_bytes().contains(&b'/') && !candidate.exists() => {}
            other => worst = other,
        }
    }
    match worst {
        Errno::ENOENT => (NOT_FOUND, format!("{shown}: command not found")),
        other => (NOT_EXECUTABLE, format!("{shown}: {}", io::Error::from(other))),
    }
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

fn environment_path(environment: &[CString]) -> &OsStr {
    environment
        .iter()
        .find_map(|line| line.as_bytes().strip_prefix(b"PATH="))
        .map_or(OsStr::new(""), OsStr::from_bytes)
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
        let run = |name: &str| execute(&[name.into()], &["PATH=/nowhere:/".into()]);
        assert_eq!(run("no-such-command").0, NOT_FOUND);
        assert_eq!(run("/no/such/command").0, NOT_FOUND);
        assert_eq!(run("").0, NOT_FOUND);
        assert_eq!(run("/").0, NOT_EXECUTABLE);
        assert_eq!(run("/etc/passwd").0, NOT_EXECUTABLE);
        assert_eq!(run(bad.to_str().unwrap()).0, NOT_EXECUTABLE, "not executable by mode");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&bad, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (status, why) = run(bad.to_str().unwrap());
        assert_eq!(status, NOT_EXECUTABLE);
        assert!(why.contains("interpreter"), "{why}");
    }
}
