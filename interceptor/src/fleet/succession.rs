//! How one daemon's sandboxes become another's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::manager::{Fleet, MemberSlot};
use super::{FleetError, Member, Predecessor};

/// How long a takeover waits for sandboxes that are being created or removed.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

impl Fleet {
    /// Freezes the fleet for a takeover and waits for pending changes. Blocks.
    ///
    /// # Errors
    /// [`FleetError::Ending`], also if another takeover is in progress or pending changes do not
    /// finish.
    pub(crate) fn freeze(&self) -> Result<Vec<Arc<Member>>, FleetError> {
        // The end of this daemon would cut off what its own predecessor still drains.
        self.outlive_predecessor(false);
        {
            let mut table = self.table();
            if table.is_ending || table.is_frozen {
                return Err(FleetError::Ending);
            }
            table.is_frozen = true;
        }
        let until = Instant::now() + SETTLED_WITHIN;
        while self.table().slots.values().any(|slot| !matches!(slot, MemberSlot::Running(_))) {
            if Instant::now() > until {
                self.thaw();
                return Err(FleetError::Ending);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self.list())
    }

    /// Undoes [`Self::freeze`].
    pub(crate) fn thaw(&self) {
        self.table().is_frozen = false;
    }

    /// Commits the handover: the sandboxes now belong to another process. `false` if this daemon
    /// has begun to shut down.
    pub(crate) fn commit_handover(&self) -> bool {
        let mut table = self.table();
        let parts = table.is_frozen && !table.is_ending;
        table.is_ending = true;
        parts
    }

    /// Cancelled to end draining connections at once: the new process died or asked for it.
    pub(crate) fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Remembers the daemon that handed these sandboxes over and still drains its connections.
    pub(crate) fn follow(&self, predecessor: Predecessor) {
        // There is at most one, because only an empty fleet takes over.
        let _ = self.predecessor.set(predecessor);
    }

    /// After a handover: lets open connections finish, for at most `patience`. The programs stay.
    pub(crate) async fn drain(&self, patience: Duration) {
        let mut draining = tokio::task::JoinSet::new();
        for enforced in self.list().iter().filter_map(|member| member.take()) {
            draining.spawn(enforced.drain(patience, self.hurry()));
        }
        while draining.join_next().await.is_some() {}
    }

    /// Adds a sandbox that is under enforcement.
    pub(super) fn add(&self, member: Arc<Member>) {
        self.table().slots.insert(member.id.clone(), MemberSlot::Running(member));
    }

    /// Adds a sandbox taken over from another process.
    pub(crate) fn adopt(&self, id: &Arc<str>, member: impl FnOnce(Arc<super::Feed>) -> Member) {
        self.add(Arc::new(member(self.feeds.open(id))));
    }
}
