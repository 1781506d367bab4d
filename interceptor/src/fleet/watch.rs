//! Notices that a sandbox's cgroup was removed, or that somebody has taken programs off it. The kernel takes the programs away with a
//! cgroup, and one made in its place is another one, with another id: it never inherits the policy (attack O7).

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Fleet, Member};

/// How often cgroups are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Watches until the fleet is gone.
pub(super) async fn watch(fleet: Weak<Fleet>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(fleet) = fleet.upgrade() else { return };
        let looked = tokio::task::spawn_blocking(move || {
            for member in fleet.list() {
                if is_gone(&member) {
                    fleet.cgroup_gone(&member);
                } else {
                    member.look_for_holes();
                }
            }
        });
        if let Err(error) = looked.await {
            tracing::error!(%error, "cannot look for removed cgroups");
        }
    }
}

fn is_gone(member: &Arc<Member>) -> bool {
    match std::fs::metadata(&member.cgroup) {
        Ok(found) => found.ino() != member.cgroup_id,
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV)),
    }
}
