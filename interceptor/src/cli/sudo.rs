//! What sudo was called with. It drops and replaces variables, and changes groups and umask. Its
//! own process still has the variables, and the process that called it the groups and umask
//! (proc(5)).
//!
//! Only a process that is really sudo, and really this user's, is believed: an ancestor of this
//! process with root's rights, started by the user, whose program is a set-user-id file of root's.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::files;

/// How many ancestors are searched for sudo.
const ANCESTORS: usize = 64;
/// The largest environment that is read, in bytes.
const MAX_ENVIRONMENT: usize = 4 << 20;

/// A call of sudo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SudoCall {
    /// The environment that sudo was given.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The umask of the process that called it, if that still runs.
    pub(super) umask: Option<u32>,
    /// The supplementary groups of that process.
    pub(super) groups: Option<Vec<u32>>,
}

/// Finds the call by this user that started this process.
pub(super) fn call(user: u32) -> Option<SudoCall> {
    let mut process = Process::open(nix::unistd::getppid().as_raw())?;
    let mut left = ANCESTORS;
    while !process.is_sudo() {
        left = left.checked_sub(1)?;
        process = Process::open(process.parent()?)?;
    }
    // Only the nearest counts: one further up may be somebody else's.
    if !process.is_of(user) {
        return None;
    }
    let environment = process.environment()?;
    let own = process.umask();
    // With a terminal of its own, sudo is two processes.
    while left > 0 && process.is_sudo() {
        left -= 1;
        let Some(next) = process.parent().and_then(Process::open) else { break };
        process = next;
    }
    let caller = Some(process).filter(|caller| caller.ids("Uid:") == [user; 4]);
    Some(SudoCall {
        environment,
        umask: caller.as_ref().and_then(Process::umask).map(|caller| called_with(caller, own)),
        groups: caller.map(|caller| caller.ids("Groups:")),
    })
}

/// The umask that sudo was called with. sudo adds bits to it, usually 022, and keeps the result.
/// Its parent called it, unless a shell executed sudo in its own place: then the parent's umask
/// does not explain sudo's, and sudo's, which is at least as strict, is taken.
fn called_with(parent: u32, sudo: Option<u32>) -> u32 {
    /// What sudo adds (sudoers(5), `umask`).
    const ADDED: u32 = 0o022;
    sudo.filter(|sudo| parent | ADDED != *sudo).unwrap_or(parent)
}

/// A process, held by its directory in `/proc`, so that a reused id cannot be mistaken for it.
struct Process {
    directory: File,
    status: String,
}

impl Process {
    fn open(id: i32) -> Option<Process> {
        if id <= 0 {
            return None;
        }
        let directory = File::open(format!("/proc/{id}")).ok()?;
        let status = fs::read_to_string(below(&directory, "status")).ok()?;
        Some(Process { directory, status })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let numbers = self.field(name).unwrap_or_default().split_whitespace();
        numbers.filter_map(|number| number.parse().ok()).collect()
    }

    fn parent(&self) -> Option<i32> {
        self.field("PPid:")?.parse().ok()
    }

    fn umask(&self) -> Option<u32> {
        u32::from_str_radix(self.field("Umask:")?, 8).ok()
    }

    /// Whether its program is sudo, installed by root.
    fn is_sudo(&self) -> bool {
        let program = below(&self.directory, "exe");
        let installed = fs::metadata(&program).is_ok_and(|file| {
            file.uid() == 0 && file.mode() & 0o4000 != 0 && file.mode() & 0o022 == 0
        });
        installed && fs::read_link(&program).is_ok_and(|path| names_sudo(&path))
    }

    /// Whether this user started it and it runs as root.
    fn is_of(&self, user: u32) -> bool {
        matches!(self.ids("Uid:")[..], [real, effective, ..] if real == user && effective == 0)
    }

    fn environment(&self) -> Option<Vec<(OsString, OsString)>> {
        let (bytes, _) = files::read(&below(&self.directory, "environ"), MAX_ENVIRONMENT).ok()?;
        Some(variables(&bytes))
    }
}

fn below(directory: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()).into()
}

/// Debian and Ubuntu also install it as `sudo.ws` and `sudo-rs`.
fn names_sudo(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().as_bytes();
    [&b"sudo"[..], b"sudo.ws", b"sudo-rs"].contains(&name)
}

/// The variables in the bytes of `/proc/PID/environ`.
fn variables(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let split = |entry: &[u8]| {
        let at = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        let value = OsStr::from_bytes(&entry[at + 1..]).to_owned();
        Some((OsString::from_vec(entry[..at].to_vec()), value))
    };
    bytes.split(|byte| *byte == 0).filter_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_split_at_the_first_equals_sign() {
        let read = variables(b"PATH=/a:/b\0EMPTY=\0=odd\0broken\0X=a=b\0");
        let expected = [("PATH", "/a:/b"), ("EMPTY", ""), ("X", "a=b")];
        assert_eq!(read, expected.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn a_umask_that_does_not_explain_sudos_is_not_the_callers() {
        for (parent, sudo, expected) in [
            (0o002, Some(0o022), 0o002),
            (0o077, Some(0o077), 0o077),
            // A shell with 077 or 007 executed sudo; its parent has another.
            (0o022, Some(0o077), 0o077),
            (0o022, Some(0o027), 0o027),
            (0o077, Some(0o022), 0o022),
            (0o002, None, 0o002),
        ] {
            assert_eq!(called_with(parent, sudo), expected, "{parent:o} {sudo:?}");
        }
    }

    #[test]
    fn a_process_that_only_bears_the_name_is_not_sudo() {
        assert!(names_sudo(Path::new("/usr/bin/sudo")) && !names_sudo(Path::new("/bin/sudoku")));
        // A copy of a program, as anybody can make one.
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("sudo");
        fs::copy("/bin/sleep", &copy).unwrap();
        let mut sleeping = std::process::Command::new(&copy).arg("600").spawn().unwrap();
        let process = Process::open(sleeping.id().cast_signed()).unwrap();
        assert_eq!(process.parent(), Some(std::process::id().cast_signed()));
        assert!(!process.is_sudo());
        sleeping.kill().unwrap();
        sleeping.wait().unwrap();
    }

    #[test]
    fn this_process_was_not_started_by_sudo_of_a_user_without_a_number() {
        assert_eq!(call(u32::MAX - 7), None);
    }
}
