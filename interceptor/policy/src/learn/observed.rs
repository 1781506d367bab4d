//! Records, counted by what they asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::decision::Reason;
use crate::host::Host;
use crate::recorded::{Recorded, Subject, Traffic, is_synthetic};

/// The most subjects that are told apart: a sandbox decides how many there are.
const MOST: usize = 20_000;
/// The most addresses that are kept of a host.
const MOST_ADDRESSES: usize = 16;

/// How often and when something was used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many records there are.
    pub count: u64,
    /// The time of the first one, as it is recorded.
    pub first: String,
    /// The time of the last one.
    pub last: String,
}

impl Usage {
    /// Counts these too.
    pub(super) fn add(&mut self, other: &Usage) {
        if self.count == 0 || other.first < self.first {
            self.first.clone_from(&other.first);
        }
        if self.count == 0 || other.last > self.last {
            self.last.clone_from(&other.last);
        }
        self.count += other.count;
    }
}

/// What the policy in force said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// It permitted.
    Permitted,
    /// It refused for want of a rule.
    Unlisted,
    /// It refused for another reason.
    Refused,
}

/// The records of one or more runs. Equal ones are counted together.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    pub(super) subjects: BTreeMap<(Subject, Verdict), Usage>,
    /// Destinations whose TLS passed unopened.
    pub(super) unopened: BTreeSet<(Host, u16)>,
    /// Of these, the ones that a `tcp://` rule permitted.
    pub(super) by_tcp_rule: BTreeSet<(Host, u16)>,
    /// The addresses that permitted hosts had.
    pub(super) addresses: BTreeMap<Host, BTreeSet<IpAddr>>,
    /// Records that are not counted, since there are too many different ones.
    pub left_out: u64,
}

impl Observations {
    /// Counts a record. Records that no policy decides are ignored.
    pub fn add(&mut self, record: &Recorded) {
        let Some((permitted, subject)) = record.permitted().zip(record.subject()) else { return };
        let is = |reason: Reason| record.reason.as_deref() == Some(reason.as_str());
        // What a person refused is not for want of a rule.
        let unlisted = is(Reason::HostDenied)
            || is(Reason::EndpointDenied)
            || is(Reason::ApprovalTimeout)
            || is(Reason::ProtocolDenied);
        let verdict = match (permitted, unlisted) {
            (true, _) => Verdict::Permitted,
            (false, true) => Verdict::Unlisted,
            (false, false) => Verdict::Refused,
        };
        let usage = Usage { count: 1, first: record.ts.clone(), last: record.ts.clone() };
        let key = (subject, verdict);
        if let Some(known) = self.subjects.get_mut(&key) {
            known.add(&usage);
            return;
        }
        if self.subjects.len() >= MOST {
            self.left_out += 1;
            return;
        }
        if permitted {
            self.note_destination(record, &key.0);
        }
        self.subjects.insert(key, usage);
    }

    /// How many subjects were permitted.
    pub fn permitted(&self) -> usize {
        self.subjects.keys().filter(|(_, verdict)| *verdict == Verdict::Permitted).count()
    }

    fn note_destination(&mut self, record: &Recorded, subject: &Subject) {
        let destination = (subject.host.clone(), subject.port);
        // A connection that was opened and brought no request says how it ended.
        let ended = [
            Reason::NoRequest,
            Reason::CertificateRejected,
            Reason::HeaderTimeout,
            Reason::IdleTimeout,
            Reason::LimitExceeded,
        ];
        let opened = ended.iter().any(|ended| record.reason.as_deref() == Some(ended.as_str()));
        let is_tls = record.protocol.as_deref() == Some("tls");
        if subject.traffic == Traffic::Connection && is_tls && !opened {
            let rule = record.rule.as_ref().and_then(serde_json::Value::as_str);
            if rule.is_some_and(|rule| rule.starts_with("tcp://")) {
                self.by_tcp_rule.insert(destination.clone());
            }
            self.unopened.insert(destination);
        }
        if let (Some(address), Host::Name(_)) = (record.ip, &subject.host)
            && !is_synthetic(address)
        {
            let known = self.addresses.entry(subject.host.clone()).or_default();
            if known.len() < MOST_ADDRESSES {
                known.insert(address);
            }
        }
    }
}
