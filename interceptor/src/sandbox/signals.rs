//! The signals that the supervisor forwards to the command.
//!
//! The command has its own process group, so `kill(0)` inside reaches nobody outside, and a signal
//! to the supervisor never reaches the command directly. Signals from the terminal (^C, ^\, ^Z,
//! hang-up, a new window size) go to the command's whole group, those from another process to the
//! command alone. The kernel tells which is which (`si_code`, sigaction(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Forwarded signals. Job control signals are included so that the supervisor does not stop by
/// itself; it stops when the command does.
const PASSED_ON: [Signal; 12] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
];

/// Sent by the kernel, which for these signals means the terminal.
const SI_KERNEL: i32 = 0x80;

/// Blocks signals sent to this process, to forward them.
pub(crate) struct Signals {
    descriptor: SignalFd,
    ignored: Vec<Signal>,
    on_hangup: Option<Box<dyn Fn()>>,
}

impl Signals {
    /// Blocks them in this thread and the threads it starts later: call it before any other thread
    /// exists.
    pub(crate) fn hold() -> io::Result<Self> {
        // Blocked signals are queued even if ignored, and `nohup` must keep working.
        let ignored = ignored()?;
        let set: SigSet = PASSED_ON.into_iter().collect();
        set.thread_block()?;
        let descriptor =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { descriptor, ignored, on_hangup: None })
    }

    /// Runs `action` on every SIGHUP, which is forwarded as well.
    pub(crate) fn on_hangup(&mut self, action: impl Fn() + 'static) {
        self.on_hangup = Some(Box::new(action));
    }

    /// The signals to forward; `true` means to the command's whole group.
    pub(crate) fn take(&self) -> io::Result<Vec<(Signal, bool)>> {
        let mut taken = Vec::new();
        while let Some(information) = self.descriptor.read_signal()? {
            let Ok(signal) = Signal::try_from(information.ssi_signo as i32) else { continue };
            if let (Signal::SIGHUP, Some(action)) = (signal, &self.on_hangup) {
                action();
            }
            if !self.ignored.contains(&signal) {
                // Stopping and continuing always concern a whole job.
                taken
                    .push((signal, information.ssi_code == SI_KERNEL || signal == Signal::SIGCONT));
            }
        }
        Ok(taken)
    }
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals").field("ignored", &self.ignored).finish_non_exhaustive()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The numbers of all signals that this process was started with as ignored. SIGPIPE, which Rust
/// ignores, is none of them.
pub(crate) fn ignored_by_this_process() -> io::Result<Vec<i32>> {
    let mask = ignored_mask()?;
    let all = Signal::iterator().map(|signal| signal as i32);
    let ignored = all.filter(|number| mask >> (number - 1) & 1 == 1);
    Ok(ignored.filter(|number| *number != Signal::SIGPIPE as i32).collect())
}

/// The signals to pass on that this process was started with as ignored.
fn ignored() -> io::Result<Vec<Signal>> {
    let mask = ignored_mask()?;
    Ok(PASSED_ON.into_iter().filter(|signal| mask >> (*signal as i32 - 1) & 1 == 1).collect())
}

fn ignored_mask() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status has no SigIgn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_of_another_process_is_the_commands_to_hear() {
        // Any thread that does not block a signal may receive it, so this one is sent to this
        // thread.
        std::thread::spawn(|| {
            let signals = Signals::hold().unwrap();
            assert!(signals.take().unwrap().is_empty());
            nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
            assert_eq!(signals.take().unwrap(), [(Signal::SIGUSR1, false)]);
            assert!(signals.take().unwrap().is_empty());
        })
        .join()
        .unwrap();
    }
}
