//! The fleet of a `run`: one sandbox, which somebody else has put under enforcement.

use std::sync::Arc;

use super::feed::Feed;
use super::manager::Fleet;
use super::{Enforced, FleetOptions, Member, MemberDescription};
use crate::audit::{Observer, Published, Record};

impl Fleet {
    /// A fleet of this one sandbox, without background tasks. The records from now on go to its
    /// feed.
    pub(crate) fn of_run(
        options: FleetOptions,
        known: MemberDescription,
        enforced: Enforced,
    ) -> (Arc<Fleet>, Arc<Member>) {
        let fleet = Fleet::idle(options);
        let feed = fleet.feeds.open(&known.id);
        fleet.runtime().audit.observe(Box::new(FeedObserver(feed.clone())));
        let member = Arc::new(Member::new(known, enforced, feed));
        fleet.add(member.clone());
        (fleet, member)
    }
}

/// Hands records to a feed as they are written.
struct FeedObserver(Arc<Feed>);

impl Observer for FeedObserver {
    fn record(&mut self, record: &Record, line: &str) {
        self.0.hear(&Arc::new(Published::of(record, line.trim_end_matches('\n'))));
    }

    fn pause(&mut self, _ended: bool) {}
}
