//! Notices that a sandbox's cgroup was removed, or that somebody has taken programs off it. The kernel takes the programs away with a
//! cgroup, and one made in its place is another one, with another id: it never inherits the policy (attack O7).

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Fleet, Member};

/// How often each cgroup is looked at, and in how many parts: a look costs a dozen system calls, and those at a thousand sandboxes
/// in one go would hold a processor for a good while.
const EVERY: Duration = Duration::from_secs(1);
const PARTS: usize = 10;

/// Watches until the fleet is gone.
pub(super) async fn watch(fleet: Weak<Fleet>) {
    let mut tick = tokio::time::interval(EVERY / PARTS as u32);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Some(members) = fleet.upgrade().map(|fleet| fleet.list()) else { return };
        let mut parts = in_parts(members).into_iter();
        for _ in 0..PARTS {
            tick.tick().await;
            let Some(part) = parts.next() else { continue };
            let Some(fleet) = fleet.upgrade() else { return };
            if let Err(error) = tokio::task::spawn_blocking(move || look(&fleet, &part)).await {
                tracing::error!(%error, "cannot look for removed cgroups");
            }
        }
    }
}

/// In at most [`PARTS`] parts of the same size.
fn in_parts<T>(mut all: Vec<T>) -> Vec<Vec<T>> {
    let size = all.len().div_ceil(PARTS);
    let mut parts = Vec::with_capacity(PARTS);
    while !all.is_empty() {
        let rest = all.split_off(size.min(all.len()));
        parts.push(std::mem::replace(&mut all, rest));
    }
    parts
}

fn look(fleet: &Arc<Fleet>, members: &[Arc<Member>]) {
    for member in members {
        if is_gone(member) {
            fleet.cgroup_gone(member);
        } else {
            member.look_for_holes();
        }
    }
}

fn is_gone(member: &Arc<Member>) -> bool {
    match std::fs::metadata(&member.cgroup) {
        Ok(found) => found.ino() != member.cgroup_id,
        Err(error) => matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_looked_at_once_in_a_pass() {
        for number in [0, 1, 9, 10, 11, 25, 1000] {
            let parts = in_parts((0..number).collect());
            assert!(parts.len() <= PARTS && parts.iter().all(|part| !part.is_empty()), "{number}");
            assert_eq!(parts.concat(), (0..number).collect::<Vec<_>>());
        }
    }
}
