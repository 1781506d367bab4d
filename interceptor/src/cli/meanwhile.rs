//! Work on a separate thread while a command starts.

use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle};

use anyhow::Context;

/// Work in progress.
#[derive(Debug)]
pub(super) struct Meanwhile<T>(JoinHandle<T>);

impl<T: Send + 'static> Meanwhile<T> {
    /// Starts the work. The thread inherits the blocked signals.
    pub(super) fn begin(
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Self> {
        let thread = Builder::new().name(name.to_owned()).spawn(work);
        thread.map(Self).with_context(|| format!("cannot start the thread `{name}`"))
    }

    /// Waits for the result.
    pub(super) fn end(self) -> T {
        self.0.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}
