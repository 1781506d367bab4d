//! The previous daemon, while it drains.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Mutex, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};
use serde::de::IgnoredAny;

use crate::sandbox::handover::Channel;

/// The previous daemon. It still judges its open requests by the rules it handed over, so end it
/// before you change those rules here.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    is_gone: Mutex<bool>,
}

impl Predecessor {
    /// At the other end of a finished takeover conversation.
    pub(crate) fn at(channel: Channel) -> Self {
        // No timeout: it may drain as long as it likes, and its death closes the channel.
        if let Err(error) = channel.set_patience(None) {
            tracing::warn!(
                %error,
                "cannot wait indefinitely for the previous daemon; it may be taken for dead too \
                 early"
            );
        }
        Predecessor { channel, is_gone: Mutex::new(false) }
    }

    /// Makes it end without draining.
    pub(crate) fn hurry(&self) {
        // It may be gone already.
        let _ = shutdown(self.channel.as_fd().as_raw_fd(), Shutdown::Write);
    }

    /// Waits for its end. Blocks for as long as it drains.
    pub(crate) fn wait(&self) {
        let mut gone = self.is_gone.lock().unwrap_or_else(PoisonError::into_inner);
        if !*gone {
            // It sends nothing more; the channel closes when it ends.
            let _ = self.channel.receive::<IgnoredAny>();
            *gone = true;
        }
    }
}
