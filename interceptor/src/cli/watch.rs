//! Waits for the signal that ends an attachment. Meanwhile checks that its programs are still
//! attached: root on the host can detach them silently.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// How often the programs are checked.
const EVERY: Duration = Duration::from_secs(2);

/// Waits for one of the signals, which must be blocked, and calls `look` every two seconds
/// meanwhile.
pub(super) fn until_signal(ends: &SigSet, mut look: impl FnMut()) -> anyhow::Result<Signal> {
    let failed = "cannot wait for a signal";
    let signals = SignalFd::with_flags(ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context(failed)?;
    let mut next = Instant::now() + EVERY;
    loop {
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context(failed),
        }
        if let Some(signal) = signals.read_signal().context(failed)? {
            return Signal::try_from(signal.ssi_signo.cast_signed()).context(failed);
        }
        if Instant::now() >= next {
            look();
            next = Instant::now() + EVERY;
        }
    }
}
