//! Detects removed cgroups and detached programs. The kernel detaches the programs of a removed
//! cgroup. A new cgroup at the same path has another id and never inherits the policy (attack O7).

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Member;

/// How often each cgroup is checked. The checks are spread over [`PARTS`] slices, so that a
/// thousand do not hog a processor. Each looks at a quarter of the programs: the kernel detaches
/// all of them from a removed cgroup, and a single detached program is noticed within four checks.
const EVERY: Duration = Duration::from_secs(1);
const PARTS: usize = 10;

/// Runs until the fleet is dropped. `list` returns its members, and `gone` is called for each whose
/// cgroup is gone.
pub(super) async fn watch<F: Send + Sync + 'static>(
    fleet: Weak<F>,
    list: fn(&F) -> Vec<Arc<Member>>,
    gone: fn(&F, &Member),
) {
    let mut tick = tokio::time::interval(EVERY / PARTS as u32);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 0.. {
        let Some(members) = fleet.upgrade().map(|fleet| list(&fleet)) else { return };
        let mut parts = in_parts(members).into_iter();
        for _ in 0..PARTS {
            tick.tick().await;
            let Some(part) = parts.next() else { continue };
            let Some(fleet) = fleet.upgrade() else { return };
            let look = move || look(&part, turn, |member| gone(&fleet, member));
            if let Err(error) = tokio::task::spawn_blocking(look).await {
                tracing::error!(%error, "cannot look for removed cgroups");
            }
        }
    }
}

/// Splits into at most [`PARTS`] slices of equal size.
fn in_parts<T>(mut all: Vec<T>) -> Vec<Vec<T>> {
    let size = all.len().div_ceil(PARTS);
    let mut parts = Vec::with_capacity(PARTS);
    while !all.is_empty() {
        let rest = all.split_off(size.min(all.len()));
        parts.push(std::mem::replace(&mut all, rest));
    }
    parts
}

fn look(members: &[Arc<Member>], turn: usize, gone: impl Fn(&Member)) {
    for member in members {
        if member.holds_programs(turn) {
            continue;
        }
        if is_gone(member) {
            gone(member);
        } else {
            member.check_programs();
        }
    }
}

fn is_gone(member: &Arc<Member>) -> bool {
    match std::fs::metadata(&member.cgroup) {
        Ok(found) => found.ino() != member.cgroup_id,
        Err(error) => {
            matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV))
        }
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
