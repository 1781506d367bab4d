//! The process between the supervisor and the sandbox, outside the sandbox's PID namespace.
//!
//! It passes the exit status on. If the supervisor is killed, its end of the guard socket closes:
//! this process then kills the sandbox, and only afterwards closes the links it was given. So
//! nothing in the sandbox ever runs without enforcement, even in a shared network namespace.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

use super::exec::OUR_FAILURE;
use super::sys;

/// How often to try to remove the cgroup, and how far apart: its last process may not be reaped
/// yet.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Waits for process 1 of the sandbox and returns its status. All signals are blocked.
pub(crate) fn wait(first: Pid, guard: UnixStream, parents: &[OwnedFd], cgroup: &str) -> i32 {
    let set: SigSet = [Signal::SIGCHLD].into_iter().collect();
    let Ok(children) = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
    else {
        // Process 1 dies with this process.
        return OUR_FAILURE;
    };
    // Held until this process ends.
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut orphaned = false;
    loop {
        let status = match waitpid(first, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Some(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
            Err(Errno::ECHILD) => Some(OUR_FAILURE),
            _ => None,
        };
        if let Some(status) = status {
            if orphaned || matches!(take(&guard, &mut held), Some(Guard::Closed)) {
                parents.iter().for_each(|parent| remove_cgroup(parent, cgroup));
            }
            return status;
        }
        let mut watched = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(guard.as_fd(), PollFlags::POLLIN),
        ];
        // Once the supervisor is gone, ignore the guard socket, which would always be ready.
        let watched = if orphaned { &mut watched[..1] } else { &mut watched[..] };
        if poll(watched, PollTimeout::NONE).is_err_and(|error| error != Errno::EINTR) {
            return OUR_FAILURE;
        }
        while let Ok(Some(_)) = children.read_signal() {}
        if !orphaned && matches!(take(&guard, &mut held), Some(Guard::Closed)) {
            orphaned = true;
            // Kills every process of its namespace too.
            let _ = kill(first, Signal::SIGKILL);
        }
    }
}

/// An event on the guard socket.
enum Guard {
    /// Descriptors to hold.
    Descriptors,
    /// The supervisor is gone.
    Closed,
}

/// Reads the guard socket without blocking; `None` if there is nothing to read.
fn take(guard: &UnixStream, held: &mut Vec<OwnedFd>) -> Option<Guard> {
    if guard.set_nonblocking(true).is_err() {
        return Some(Guard::Closed);
    }
    match sys::receive(guard, &mut [0; 64]) {
        Ok((0, _)) => Some(Guard::Closed),
        Ok((_, descriptors)) => {
            held.extend(descriptors);
            Some(Guard::Descriptors)
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            None
        }
        Err(_) => Some(Guard::Closed),
    }
}

/// Leaves the sandbox's cgroup, which is empty then, and removes it. On failure the next supervisor
/// does.
fn remove_cgroup(parent: &OwnedFd, cgroup: &str) {
    // A cgroup that delegates controllers accepts no processes; the root does.
    let leaves = |path: &str| {
        openat(parent, path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|processes| File::from(processes).write_all(b"0"))
    };
    if leaves("cgroup.procs").or_else(|_| leaves("../cgroup.procs")).is_err() {
        return;
    }
    for _ in 0..ATTEMPTS {
        if unlinkat(parent, cgroup, UnlinkatFlags::RemoveDir).is_ok() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
