//! The terminal of a member's `run`: the command gets one of its own (pty(7)), and this process
//! passes bytes between the two. So the process with root's rights never holds the member's
//! terminal, and the command cannot reach it.
//!
//! As with a shell's jobs, the member's terminal is the command's only while it needs it: before,
//! it stays as it is, since another part of a pipeline, such as a pager, may use it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, killpg, raise};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use crate::sandbox::sys;

/// The most bytes that wait for the command to read them.
const MOST_WAITING: usize = 64 * 1024;
/// How long the last output may take to arrive.
const FAREWELL: Duration = Duration::from_secs(2);

/// The member's terminal, and the command's.
pub(super) struct Relay {
    /// The member's.
    terminal: File,
    /// This side of the command's.
    ours: File,
    /// The other side, until it is given away.
    theirs: Option<OwnedFd>,
    /// How the member's was set before the command got it.
    before: Option<Termios>,
    /// What was typed and is not passed on yet.
    waiting: Vec<u8>,
    /// Whether anything may still come from the command.
    is_open: bool,
}

impl Relay {
    /// Makes a terminal for the command, if this process has one.
    ///
    /// # Errors
    /// If none can be made.
    pub(super) fn open(standard: [BorrowedFd<'_>; 3]) -> io::Result<Option<Relay>> {
        let Some(terminal) = controlling(standard) else { return Ok(None) };
        let size = sys::window_size(terminal.as_fd()).ok();
        let made = openpty(size.as_ref(), Some(&tcgetattr(&terminal)?))?;
        let ours = File::from(made.master);
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Some(Relay {
            terminal,
            ours,
            theirs: Some(made.slave),
            before: None,
            waiting: Vec::new(),
            is_open: true,
        }))
    }

    /// The command's terminal.
    pub(super) fn theirs(&self) -> Option<BorrowedFd<'_>> {
        self.theirs.as_ref().map(AsFd::as_fd)
    }

    /// Forgets the command's side, which has been sent.
    pub(super) fn give_away(&mut self) {
        self.theirs = None;
    }

    /// Whether this process is in the foreground of the member's terminal.
    pub(super) fn is_in_foreground(&self) -> bool {
        tcgetpgrp(&self.terminal) == Ok(getpgrp())
    }

    /// Gives the command the member's terminal: from now on what is typed is the command's.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.before.is_some() {
            return Ok(());
        }
        let before = tcgetattr(&self.terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&self.terminal, SetArg::TCSADRAIN, &raw)?;
        self.before = Some(before);
        self.resize();
        Ok(())
    }

    /// Takes the member's terminal back, as it was.
    pub(super) fn end(&mut self) {
        if let Some(before) = self.before.take() {
            // The terminal may be gone.
            let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &before);
        }
    }

    /// Makes the command's terminal as large as the member's; the kernel tells the command.
    pub(super) fn resize(&self) {
        if let Ok(size) = sys::window_size(self.terminal.as_fd()) {
            let _ = sys::set_window_size(self.ours.as_fd(), &size);
        }
    }

    /// Stops this process like the command, with the rest of its job, so that the shell shows a
    /// stopped job.
    pub(super) fn stop(&mut self) {
        self.pass_output();
        self.end();
        // Blocked here; the SIGCONT that continues the job discards it (signal(7)).
        let _ = killpg(getpgrp(), Signal::SIGTSTP);
        let _ = raise(Signal::SIGSTOP);
    }

    /// What to wait for.
    pub(super) fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        let mut ours = PollFlags::empty();
        ours.set(PollFlags::POLLIN, self.is_open);
        ours.set(PollFlags::POLLOUT, !self.waiting.is_empty());
        let command = self.is_open.then(|| PollFd::new(self.ours.as_fd(), ours));
        let types = self.before.is_some() && self.waiting.len() < MOST_WAITING;
        let typed = types.then(|| PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN));
        command.into_iter().chain(typed)
    }

    /// Passes on what there is.
    ///
    /// # Errors
    /// If the member's terminal is gone.
    pub(super) fn pass(&mut self) -> io::Result<()> {
        if self.before.is_some() && self.waiting.len() < MOST_WAITING && self.has_input() {
            let mut typed = [0; 4096];
            let read = self.terminal.read(&mut typed)?;
            self.waiting.extend_from_slice(&typed[..read]);
        }
        while !self.waiting.is_empty() {
            match self.ours.write(&self.waiting) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody reads it any more.
                Err(_) => self.waiting.clear(),
            }
        }
        self.pass_output();
        Ok(())
    }

    /// Passes on the last output, once the command has ended.
    pub(super) fn finish(mut self) {
        let timeout = PollTimeout::try_from(FAREWELL).unwrap_or(PollTimeout::NONE);
        self.waiting.clear();
        while self.is_open {
            let mut watched = [PollFd::new(self.ours.as_fd(), PollFlags::POLLIN)];
            match poll(&mut watched, timeout) {
                Ok(0) => break,
                Err(error) if error != Errno::EINTR => break,
                _ => self.pass_output(),
            }
        }
        self.end();
    }

    fn has_input(&self) -> bool {
        let mut watched = [PollFd::new(self.terminal.as_fd(), PollFlags::POLLIN)];
        poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    fn pass_output(&mut self) {
        let mut output = [0; 16384];
        while self.is_open {
            match self.ours.read(&mut output) {
                // The member's terminal may be gone; the command must not wait for it.
                Ok(read @ 1..) => drop(self.terminal.write_all(&output[..read])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // EIO: nobody has the other side any more.
                Ok(0) | Err(_) => self.is_open = false,
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.end();
    }
}

/// This process's controlling terminal.
fn controlling(standard: [BorrowedFd<'_>; 3]) -> Option<File> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let device = nix::fcntl::open("/dev/tty", flags, Mode::empty()).ok();
    // Some containers have no usable /dev/tty.
    let device = device.filter(|device| tcgetpgrp(device).is_ok()).or_else(|| {
        let own = standard.into_iter().find(is_controlling)?;
        own.try_clone_to_owned().ok()
    });
    device.map(File::from)
}

/// Whether a descriptor is this process's controlling terminal (tcgetpgrp(3)).
pub(super) fn is_controlling(descriptor: &impl AsFd) -> bool {
    tcgetpgrp(descriptor).is_ok()
}
