//! Where listeners hear of the questions of all sandboxes.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::view::ApprovalEvent;

/// How many events a listener may fall behind.
const BEHIND: usize = 256;

/// Where listeners hear of the questions of every sandbox of this process.
#[derive(Clone, Debug)]
pub(crate) struct ApprovalFeed(broadcast::Sender<Arc<ApprovalEvent>>);

impl ApprovalFeed {
    pub(crate) fn new() -> ApprovalFeed {
        ApprovalFeed(broadcast::Sender::new(BEHIND))
    }

    /// Hears of everything from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<ApprovalEvent>> {
        self.0.subscribe()
    }

    pub(super) fn tell(&self, event: ApprovalEvent) {
        // Fails when nobody listens.
        let _ = self.0.send(Arc::new(event));
    }
}
