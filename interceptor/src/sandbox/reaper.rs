//! Process 1 of a sandbox while the command runs: reaps orphans, forwards signals, and ends with
//! the command, which ends everything else inside (pid_namespaces(7)).

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, tcsetpgrp};

use super::error::{IoContext, SandboxError};
use super::handover::{Channel, InitEvent, Order};
use super::sys;

/// Waits for the command to end: its exit status, or 128 plus the signal number. All signals are
/// blocked.
pub(crate) fn wait(channel: &Channel, command: Pid) -> Result<i32, SandboxError> {
    let set: SigSet = [Signal::SIGCHLD].into_iter().collect();
    let children = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context(|| "cannot watch the command".into())?;
    loop {
        if let Some(status) = reap(channel, command) {
            return Ok(status);
        }
        let mut watched = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(channel.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context(|| "cannot wait for the command".into()),
        }
        let ordered = watched[1].any().unwrap_or(false);
        while let Ok(Some(_)) = children.read_signal() {}
        if ordered {
            // The recipient of a signal may already be gone.
            match channel.receive() {
                Ok(Some((Order::Signal(number), _))) => {
                    let _ = Signal::try_from(number).and_then(|signal| kill(command, signal));
                }
                Ok(Some((Order::GroupSignal(number), _))) => {
                    let _ = Signal::try_from(number).and_then(|signal| kill_group(command, signal));
                }
                Ok(Some((Order::Foreground, terminal))) => {
                    if let Some(terminal) = terminal.first() {
                        let _ = tcsetpgrp(terminal, command);
                    }
                    let _ = kill_group(command, Signal::SIGCONT);
                }
                // The supervisor is gone, so the sandbox ends.
                Ok(None) | Err(_) => return Ok(128 + Signal::SIGKILL as i32),
                Ok(Some(_)) => {}
            }
        }
    }
}

/// Signals the command's process group, which the command may have left.
fn kill_group(command: Pid, signal: Signal) -> nix::Result<()> {
    killpg(command, signal).or_else(|_| kill(command, signal))
}

/// Reaps every ended child. Returns the command's status once it has one.
fn reap(channel: &Channel, command: Pid) -> Option<i32> {
    loop {
        let Ok(Some((pid, status))) = sys::reap() else { return None };
        if pid != command {
            continue;
        }
        if libc::WIFSTOPPED(status) {
            let _ = channel.send(&InitEvent::Stopped(libc::WSTOPSIG(status)), &[]);
        } else if libc::WIFSIGNALED(status) {
            return Some(128 + libc::WTERMSIG(status));
        } else if libc::WIFEXITED(status) {
            return Some(libc::WEXITSTATUS(status));
        }
    }
}
