//! Counts what a run was permitted and refused, in bounded memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use interceptor_policy::{Reason, Recorded};

use crate::audit::{Kind, Observer, Record, Verdict};

/// How many different refusals are distinguished.
const MOST: usize = 500;
/// How much of a path distinguishes refusals, in bytes.
const LONGEST: usize = 2048;

/// Counts of one run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Requests and tunnels that were permitted.
    pub(super) allowed: u64,
    /// Refusals beyond those that are distinguished.
    pub(super) others: u64,
    refusals: HashMap<Key, Refusal>,
}

/// One refusal, however often it happened.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) count: u64,
    /// Its first record.
    pub(super) record: Recorded,
    /// Its position among the refusals.
    order: usize,
}

/// What makes refusals the same.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    reason: Option<Reason>,
    host: String,
    port: Option<u16>,
    method: String,
    path: String,
}

impl Tally {
    fn add(&mut self, record: &Record, line: &str) {
        match (record.decision, record.kind) {
            (Some(Verdict::Allow), Kind::Request) => self.allowed += 1,
            // The record of a connection without a request says how it ended.
            (Some(Verdict::Allow), Kind::Connection) if record.reason.is_none() => {
                self.allowed += 1;
            }
            (Some(Verdict::Deny), _) => self.refuse(record, line),
            _ => {}
        }
    }

    fn refuse(&mut self, record: &Record, line: &str) {
        let host = record.host.as_deref().map(str::to_owned);
        let path = record.path.as_deref().unwrap_or_default();
        let key = Key {
            kind: record.kind,
            reason: record.reason,
            host: host.or_else(|| record.ip.map(|ip| ip.to_string())).unwrap_or_default(),
            port: record.port,
            method: record.method.as_deref().unwrap_or_default().to_owned(),
            path: path.get(..LONGEST).unwrap_or(path).to_owned(),
        };
        if let Some(known) = self.refusals.get_mut(&key) {
            known.count += 1;
            return;
        }
        match serde_json::from_str(line) {
            Ok(record) if self.refusals.len() < MOST => {
                let order = self.refusals.len();
                self.refusals.insert(key, Refusal { count: 1, record, order });
            }
            _ => self.others += 1,
        }
    }

    /// The refusals, in order. A refused look-up is left out if what followed it was refused too.
    pub(super) fn refusals(&self) -> Vec<&Refusal> {
        let followed =
            |host: &str| self.refusals.keys().any(|key| key.kind != Kind::Dns && key.host == host);
        let mut shown: Vec<&Refusal> = self
            .refusals
            .iter()
            .filter(|(key, _)| key.kind != Kind::Dns || !followed(&key.host))
            .map(|(_, refusal)| refusal)
            .collect();
        shown.sort_by_key(|refusal| refusal.order);
        shown
    }
}

/// Counts the records of a running sandbox.
pub(super) struct Watcher(pub(super) Arc<Mutex<Tally>>);

impl Observer for Watcher {
    fn record(&mut self, record: &Record, line: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(record, line);
    }

    fn pause(&mut self, _ended: bool) {}
}
