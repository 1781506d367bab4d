//! A time by which something must have happened.

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Ends when it is met, or too late.
pub(super) struct Deadline {
    /// Hangs up when it is met.
    waits: Sender<Infallible>,
    thread: JoinHandle<()>,
}

impl Deadline {
    /// Calls `late` unless it is met in time.
    pub(super) fn begin(
        time: Duration,
        late: impl FnOnce() + Send + 'static,
    ) -> io::Result<Deadline> {
        let (waits, hangs_up) = channel();
        let thread = Builder::new().name("deadline".to_owned()).spawn(move || {
            // Waits for as long as it says, however often the thread is woken.
            if hangs_up.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                late();
            }
        })?;
        Ok(Deadline { waits, thread })
    }

    /// It is met, if it is not too late: then this returns after `late`, if at all.
    pub(super) fn met(self) {
        drop(self.waits);
        // A panic of `late` ends nothing.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn it_is_late_only_when_its_time_is_over() {
        let (said, heard) = channel();
        let tell = said.clone();
        let deadline = Deadline::begin(LONG, move || tell.send("early").unwrap()).unwrap();
        for _ in 0..1000 {
            deadline.thread.thread().unpark();
            std::thread::yield_now();
        }
        deadline.met();
        assert!(heard.try_recv().is_err());
        let tell = said.clone();
        let deadline = Deadline::begin(Duration::ZERO, move || tell.send("late").unwrap()).unwrap();
        assert_eq!(heard.recv().unwrap(), "late");
        deadline.met();
    }
}
