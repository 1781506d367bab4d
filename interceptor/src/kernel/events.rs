//! Forwards the programs' debug events to `tracing`. They exist only if a subscriber wanted them at
//! load time.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::KernelError;

/// The thread that reads the programs' events; dropping this stops it.
#[derive(Debug)]
pub(super) struct KernelLog {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl KernelLog {
    /// Whether a subscriber wants the events.
    pub(super) fn is_wanted() -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    /// Starts to read the events of an object.
    pub(super) fn start(object: &mut Ebpf) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Io { action: "read the programs' events", source };
        let logger = EbpfLogger::init_with_logger(object, Tracing)
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("kernel-log".to_owned())
            .spawn(move || read(logger, &stopped))
            .map_err(failed)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        // Only a full counter (2^64 - 2 stops) fails this.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads events until told to stop.
fn read(mut logger: EbpfLogger<Tracing>, stop: &EventFd) {
    loop {
        let mut ready = [
            PollFd::new(logger.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
        let stopped = ready[1].any().unwrap_or(true);
        logger.flush();
        if stopped {
            return;
        }
    }
}

/// The bridge from aya-log's `log` to `tracing`.
struct Tracing;

impl log::Log for Tracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(program = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}
