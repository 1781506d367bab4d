//! The daemon before this one, while it ends what was under way.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};
use serde::de::IgnoredAny;

use crate::sandbox::handover::Channel;

/// The daemon before this one. The requests that it ends are judged by the rules that it handed over: whoever changes those here has
/// it end first.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    is_gone: Mutex<bool>,
}

impl Predecessor {
    /// At the other end of a conversation in which everything was said.
    pub(crate) fn at(channel: Channel) -> Self {
        // For ever, since its own time to drain is its own affair; its death closes the channel in any case.
        if let Err(error) = channel.set_patience(None) {
            tracing::warn!(%error, "the daemon before this one may be taken for gone too early");
        }
        Predecessor { channel, is_gone: Mutex::new(false) }
    }

    /// Has it end without waiting for what is under way.
    pub(crate) fn hurry(&self) {
        // Should it be gone, so much the better.
        let _ = shutdown(self.channel.as_fd().as_raw_fd(), Shutdown::Write);
    }

    /// Waits for its end. Blocks, at most for as long as it drains.
    pub(crate) fn wait(&self) {
        let mut gone = self.is_gone.lock().unwrap_or_else(PoisonError::into_inner);
        if !*gone {
            // It says nothing more: its end is the end of the channel.
            let _ = self.channel.receive::<IgnoredAny>();
            *gone = true;
        }
    }
}
