//! Work on a separate thread while a command starts.

use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle};

use anyhow::Context;

/// Work in progress. Dropping it waits for the work, so that its result is dropped too.
#[derive(Debug)]
pub(super) struct Meanwhile<T>(Option<JoinHandle<T>>);

impl<T: Send + 'static> Meanwhile<T> {
    /// Starts the work. The thread inherits the blocked signals.
    pub(super) fn begin(
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> anyhow::Result<Self> {
        let thread = Builder::new().name(name.to_owned()).spawn(work);
        thread
            .map(|thread| Self(Some(thread)))
            .with_context(|| format!("cannot start the thread `{name}`"))
    }

    /// Waits for the result.
    pub(super) fn end(mut self) -> T {
        let Some(thread) = self.0.take() else { unreachable!("nothing else takes it") };
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl<T> Drop for Meanwhile<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // The failure that ends the command is another.
            let _ = thread.join();
        }
    }
}
