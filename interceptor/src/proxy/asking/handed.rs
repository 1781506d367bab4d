//! Leases during a takeover. Their ends are times, so whatever passed meanwhile counts.

use std::sync::Arc;

use interceptor_policy::Patch;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::rules::Rules;
use super::desk::Desk;
use super::lease::{Lease, MOST_LEASES};
use super::view::LeaseView;

/// A lease on its way to another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HandedLease {
    id: String,
    patch: Value,
    #[serde(default)]
    until: Option<String>,
    /// The uses that are left.
    #[serde(default)]
    uses: Option<u64>,
    created: String,
    by: String,
}

impl Desk {
    /// The leases, for another process. From now on it counts their uses, so none is taken here.
    pub(crate) fn hand_over(&self) -> Vec<HandedLease> {
        let leases: Vec<LeaseView> = {
            // Under one lock: what is taken before is not handed over, and nothing is taken after.
            let mut table = self.table();
            table.is_handed = true;
            table.in_force(Timestamp::now()).collect()
        };
        let handed = leases.into_iter().map(|lease| HandedLease {
            id: lease.id,
            patch: lease.patch,
            until: lease.until.map(|end| end.to_string()),
            uses: lease.uses,
            created: lease.created.to_string(),
            by: lease.by,
        });
        handed.collect()
    }

    /// The takeover failed: uses are counted here again.
    pub(crate) fn resume(&self) {
        self.table().is_handed = false;
    }

    /// Takes over the leases of another process; `None` if one is malformed.
    pub(crate) fn restore(&self, handed: Vec<HandedLease>, rules: &Arc<Rules>) -> Option<()> {
        let now = Timestamp::now();
        for lease in handed.into_iter().take(MOST_LEASES) {
            let until = match lease.until {
                None => None,
                Some(end) => Some(end.parse::<Timestamp>().ok()?),
            };
            let patch = Patch::from_value(lease.patch).ok()?;
            let created = lease.created.parse().ok()?;
            let (id, by) = (lease.id.into(), lease.by.into());
            let mut known = Lease::new(id, patch, until, lease.uses, by);
            known.created = created;
            if !known.is_over(now) {
                known.lay(rules, self.lease_scope());
                self.table().leases.push(Arc::new(known));
            }
        }
        Some(())
    }
}
