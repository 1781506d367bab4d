//! The two roads to a sandbox of `interceptor run`: as root, and through the daemon for an ordinary
//! user, who then owns what root owns on the other road.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::people::Account;
use crate::running::{parent, processes};

/// The road of a test's sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// As root.
    Root,
    /// Through the daemon.
    Daemon,
}

/// A user for whom a daemon makes sandboxes.
#[derive(Debug)]
pub struct Member {
    uid: u32,
    gid: u32,
    name: String,
    socket: PathBuf,
    daemon: Pid,
}

impl Member {
    pub(super) fn of(account: &Account, daemon: &Daemon<'_>) -> Member {
        Member {
            uid: account.uid(),
            gid: account.gid(),
            name: account.name().to_owned(),
            socket: daemon.members(),
            daemon: daemon.running().pid(),
        }
    }

    /// The login name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A program started by the member.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.gid));
        command.args(["--init-groups", program]);
        command
    }

    /// The processes of the daemon that make sandboxes, the first of them first.
    pub fn supervisors(&self) -> Vec<Pid> {
        let is = |pid: i32, what: &str| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == what.as_bytes()))
        };
        let own = |pid: i32| parent(pid) == Some(self.daemon.as_raw()) && is(pid, "member-door");
        let made = |pid: &i32| is(*pid, "member-run") && parent(*pid).is_some_and(own);
        let mut all: Vec<i32> = processes().filter(made).collect();
        all.sort_unstable();
        all.into_iter().map(Pid::from_raw).collect()
    }

    /// Makes a directory of the member's.
    pub(crate) fn own_directory(&self, above: &Path, name: &str) -> PathBuf {
        let path = above.join(name);
        let _ = fs::create_dir(&path);
        chown(&path, Some(self.uid), Some(self.gid)).expect("own directory");
        path
    }

    /// Makes an empty file of the member's.
    pub(crate) fn own_file(&self, path: &Path) {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).open(path).expect("own directory");
        chown(path, Some(self.uid), Some(self.gid)).expect("own directory");
    }

    /// Gives the member the files in a directory that root alone may read, but for the daemon's.
    pub fn own_secrets(&self, directory: &Path) {
        for entry in fs::read_dir(directory).expect("own directory").flatten() {
            let status = entry.metadata().expect("own directory");
            let is_daemons = entry.file_name().to_string_lossy().contains("daemon");
            if status.is_file() && status.mode() & 0o077 == 0 && !is_daemons {
                chown(entry.path(), Some(self.uid), Some(self.gid)).expect("own directory");
            }
        }
    }
}
