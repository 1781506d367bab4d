//! What is known: bounded, whatever comes.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lru::LruCache;
use serde_json::Value;

use super::heard::{Heard, Lease, Question, Sandbox, Source};
use super::text::{self, Plain};

/// The most records that are kept, and their bytes.
pub(super) const MOST: usize = 10_000;
const MOST_BYTES: usize = 24 << 20;
/// The most questions of one source.
const MOST_QUESTIONS: usize = 8 * 1024;
/// The most look-ups that are remembered, and the most approvals.
const MOST_LOOKUPS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1_999);
const MOST_APPROVALS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);
/// The chart: as many buckets of so many seconds.
pub(super) const BUCKETS: usize = 60;
const BUCKET: i64 = 10;
/// For how long records after a new beginning may be known already.
const AGAIN: Duration = Duration::from_secs(15);

/// Something of a source, by its id.
pub(super) type Key = (Source, String);

/// A record in the list.
#[derive(Debug)]
pub(super) struct Row {
    /// Its number; they rise.
    pub(super) number: u64,
    /// Where it is from.
    pub(super) source: Source,
    /// Its sandbox.
    pub(super) sandbox: Plain,
    /// Whether it was refused.
    pub(super) is_refused: bool,
    /// When it was.
    pub(super) clock: Plain,
    /// The method; empty if it has none.
    pub(super) method: Plain,
    /// What it is about.
    pub(super) subject: Plain,
    /// The status of the answer; empty if there was none.
    pub(super) status: Plain,
    /// The record, as JSON.
    pub(super) json: Box<str>,
}

impl Row {
    /// Whether a text that people search for is in it, in lower case.
    pub(super) fn has(&self, text: &str) -> bool {
        let whole = format!("{} {} {}", self.sandbox, self.method, self.subject);
        whole.to_ascii_lowercase().contains(text)
    }

    fn bytes(&self) -> usize {
        size_of::<Row>() + self.json.len() + self.subject.len() + self.sandbox.len()
    }
}

/// Whether a source answers.
#[derive(Debug)]
pub(super) enum Link {
    /// It was not reached yet.
    Sought,
    /// It tells what happens.
    Live,
    /// It does not answer, or no more; why.
    Broken(Plain),
}

/// A control socket.
#[derive(Debug)]
pub(super) struct Known {
    /// What it is called.
    pub(super) name: Plain,
    /// Whether it answers.
    pub(super) link: Link,
    /// Whether it is missed when it does not.
    pub(super) is_expected: bool,
    /// How many more sandboxes it has than it tells of.
    pub(super) more: u64,
    leases: Vec<Lease>,
    /// Records that may be told of again, until then.
    again: Option<(HashSet<String>, Instant)>,
}

/// What is known.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) sources: BTreeMap<Source, Known>,
    pub(super) sandboxes: BTreeMap<Key, Sandbox>,
    pub(super) questions: BTreeMap<Key, Question>,
    pub(super) rows: VecDeque<Row>,
    pub(super) dropped: u64,
    bytes: usize,
    next: u64,
    lookups: LruCache<(Source, String, String), (Plain, bool)>,
    approvals: LruCache<Key, (Plain, Plain)>,
    chart: VecDeque<(i64, [u64; 2])>,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            sources: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            questions: BTreeMap::new(),
            rows: VecDeque::new(),
            dropped: 0,
            bytes: 0,
            next: 0,
            lookups: LruCache::new(MOST_LOOKUPS),
            approvals: LruCache::new(MOST_APPROVALS),
            chart: VecDeque::new(),
        }
    }
}

impl Store {
    /// There is a source of this name.
    pub(super) fn add(&mut self, source: Source, name: Plain, is_expected: bool) {
        let (link, leases) = (Link::Sought, Vec::new());
        let known = Known { name, link, is_expected, more: 0, leases, again: None };
        self.sources.insert(source, known);
    }

    /// Takes what a source tells; how many rows are new.
    pub(super) fn hear(&mut self, source: Source, heard: Heard, now: Instant) -> usize {
        let Some(known) = self.sources.get_mut(&source) else { return 0 };
        match heard {
            Heard::Begun => {
                known.link = Link::Live;
                known.is_expected = true;
                self.begin(source, now);
            }
            Heard::Sandboxes(all, more) => {
                known.more = more;
                self.sandboxes.retain(|(from, _), _| *from != source);
                let all = all.into_iter().map(|one| ((source, one.id.clone()), one));
                self.sandboxes.extend(all);
            }
            Heard::Counts(counts) => {
                for (id, allowed, denied) in counts {
                    if let Some(sandbox) = self.sandboxes.get_mut(&(source, id)) {
                        (sandbox.allowed, sandbox.denied) = (allowed, denied);
                    }
                }
            }
            Heard::Leases(leases) => known.leases = leases,
            Heard::Questions(all) => {
                self.questions.retain(|(from, _), _| *from != source);
                all.into_iter().for_each(|one| self.ask(source, one));
            }
            Heard::Question(event, question) => match event.as_str() {
                "asked" | "changed" => self.ask(source, question),
                _ => self.answered(&(source, question.id)),
            },
            Heard::Records(records) => {
                return records.into_iter().filter(|one| self.record(source, one, now)).count();
            }
            Heard::Dropped(count) => self.dropped += count,
            Heard::Broken(why) => {
                known.link = Link::Broken(why);
                self.forget(source);
            }
            Heard::Ended => {
                self.sources.remove(&source);
                self.forget(source);
            }
        }
        0
    }

    /// What cannot be answered any more is not shown.
    fn forget(&mut self, source: Source) {
        self.questions.retain(|(from, _), _| *from != source);
        self.sandboxes.retain(|(from, _), _| *from != source);
        if let Some(known) = self.sources.get_mut(&source) {
            known.leases.clear();
        }
    }

    fn begin(&mut self, source: Source, now: Instant) {
        let own = self.rows.iter().filter(|row| row.source == source);
        let mut seen = HashSet::new();
        for row in own {
            let record: Value = serde_json::from_str(&row.json).unwrap_or_default();
            seen.insert(identity(&record));
        }
        if let Some(known) = self.sources.get_mut(&source) {
            known.again = Some((seen, now + AGAIN));
        }
    }

    fn ask(&mut self, source: Source, question: Question) {
        let own = self.questions.keys().filter(|(from, _)| *from == source).count();
        let key = (source, question.id.clone());
        if own < MOST_QUESTIONS || self.questions.contains_key(&key) {
            self.questions.insert(key, question);
        }
    }

    /// A question that waits no more.
    pub(super) fn answered(&mut self, key: &Key) {
        self.questions.remove(key);
    }

    /// Takes a record; whether it is a new row.
    fn record(&mut self, source: Source, record: &Value, now: Instant) -> bool {
        let again = self.sources.get_mut(&source).and_then(|known| {
            known.again.take_if(|(_, until)| *until < now);
            known.again.as_ref()
        });
        if again.is_some_and(|(seen, _)| seen.contains(&identity(record))) {
            return false;
        }
        self.note(source, record);
        let (kind, is_refused) = (record["kind"].as_str(), record["decision"] == "deny");
        let is_row =
            matches!(kind, Some("request" | "connection")) || (kind == Some("dns") && is_refused);
        if !is_row {
            return false;
        }
        let row = Row {
            number: self.next,
            source,
            sandbox: Plain::of_value(&record["sandbox"]),
            is_refused,
            clock: text::clock(&record["ts"]),
            method: Plain::of_value(&record["method"]),
            subject: text::subject(record),
            status: Plain::of_value(&record["status"]),
            json: record.to_string().into(),
        };
        self.next += 1;
        self.bytes += row.bytes();
        self.rows.push_back(row);
        while self.rows.len() > MOST || self.bytes > MOST_BYTES {
            let Some(oldest) = self.rows.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
        true
    }

    fn note(&mut self, source: Source, record: &Value) {
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        let is_refused = record["decision"] == "deny";
        match record["kind"].as_str() {
            Some("dns") => {
                let key = (source, text("sandbox"), text("host"));
                self.lookups.put(key, (text::clock(&record["ts"]), is_refused));
            }
            Some("approval") if record["lease"].is_string() => {
                let by = Plain::of_value(&record["by"]);
                let given = (by, text::clock(&record["ts"]));
                self.approvals.put((source, text("lease")), given);
            }
            Some("request" | "connection") if record["decision"].is_string() => {
                let time = record["ts"].as_str().and_then(|ts| ts.parse::<Timestamp>().ok());
                if let Some(time) = time {
                    self.count(time.as_second() / BUCKET, is_refused);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, bucket: i64, is_refused: bool) {
        let known = self.chart.iter_mut().rev().find(|(at, _)| *at == bucket);
        let counts = match known {
            Some((_, counts)) => counts,
            None => {
                while self.chart.len() >= 2 * BUCKETS {
                    self.chart.pop_front();
                }
                self.chart.push_back((bucket, [0; 2]));
                match self.chart.back_mut() {
                    Some((_, counts)) => counts,
                    None => return,
                }
            }
        };
        counts[usize::from(is_refused)] += 1;
    }

    /// The chart, oldest first: what was allowed and refused in each bucket.
    pub(super) fn chart(&self, now: Timestamp) -> Vec<[u64; 2]> {
        let last = now.as_second() / BUCKET;
        let of = |bucket: i64| {
            let known = self.chart.iter().find(|(at, _)| *at == bucket);
            known.map_or([0; 2], |(_, counts)| *counts)
        };
        (0..BUCKETS as i64).map(|index| of(last - BUCKETS as i64 + 1 + index)).collect()
    }

    /// The row of this number, if it is still kept.
    pub(super) fn row(&self, number: u64) -> Option<&Row> {
        let first = self.rows.front()?.number;
        self.rows.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// All leases, each with its source.
    pub(super) fn leases(&self) -> Vec<(Source, &Lease)> {
        self.sources
            .iter()
            .flat_map(|(source, known)| known.leases.iter().map(|lease| (*source, lease)))
            .collect()
    }

    /// What leases are called, in the order of [`Store::leases`].
    pub(super) fn lease_keys(&self) -> Vec<Key> {
        self.leases().into_iter().map(|(source, lease)| (source, lease.id.clone())).collect()
    }

    /// What sandboxes are called, in their order.
    pub(super) fn sandbox_keys(&self) -> Vec<Key> {
        self.sandboxes.keys().cloned().collect()
    }

    /// When a name was looked up last, and whether that was refused.
    pub(super) fn lookup(&self, source: Source, record: &Value) -> Option<&(Plain, bool)> {
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        self.lookups.peek(&(source, text("sandbox"), text("host")))
    }

    /// Who gave a lease, and when.
    pub(super) fn approval(&self, source: Source, lease: &str) -> Option<&(Plain, Plain)> {
        self.approvals.peek(&(source, lease.to_owned()))
    }
}

/// What two tellings of one record have in common, and no two records.
fn identity(record: &Value) -> String {
    let text = |field: &str| record[field].as_str().unwrap_or_default();
    format!("{} {} {} {}", text("ts"), text("id"), text("kind"), text("type"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(number: usize) -> Value {
        json!({ "ts": "2026-01-01T00:00:00Z", "id": number.to_string(), "kind": "request",
                "decision": "allow", "host": "a.test", "port": 443, "path": "/", "method": "GET" })
    }

    fn store() -> (Store, Instant) {
        let (mut store, now) = (Store::default(), Instant::now());
        store.add(1, Plain::of("daemon"), true);
        store.hear(1, Heard::Begun, now);
        (store, now)
    }

    #[test]
    fn so_many_records_are_kept_and_so_many_bytes() {
        let (mut store, now) = store();
        store.hear(1, Heard::Records((0..MOST + 5).map(record).collect()), now);
        assert_eq!((store.rows.len(), store.rows[0].number), (MOST, 5));
        assert!(store.row(4).is_none() && store.row(5).is_some());
        let long = |number| {
            let mut long = record(number);
            long["path"] = "x".repeat(16 << 10).into();
            long
        };
        store.hear(1, Heard::Records((0..3000).map(long).collect()), now);
        assert!(store.bytes <= MOST_BYTES && store.rows.len() < 3000, "{}", store.rows.len());
        let counted: usize = store.rows.iter().map(Row::bytes).sum();
        assert_eq!(counted, store.bytes);
    }

    #[test]
    fn what_is_told_again_after_a_break_is_known() {
        let (mut store, now) = store();
        assert_eq!(store.hear(1, Heard::Records(vec![record(1), record(2)]), now), 2);
        store.hear(1, Heard::Broken(Plain::of("gone")), now);
        store.hear(1, Heard::Begun, now);
        assert_eq!(store.hear(1, Heard::Records(vec![record(2), record(3)]), now), 1);
        let later = now + AGAIN + Duration::from_secs(1);
        assert_eq!(store.hear(1, Heard::Records(vec![record(2)]), later), 1);
        // Another source's are its own.
        store.add(2, Plain::of("run"), true);
        assert_eq!(store.hear(2, Heard::Records(vec![record(2)]), now), 1);
    }

    #[test]
    fn what_a_source_asked_is_gone_with_it() {
        let (mut store, now) = store();
        let question = |id: &str| {
            let data = json!([{ "id": id, "sandbox": "web", "host": "a.test", "path": "/" }]);
            Heard::read("questions", &data.to_string()).unwrap()
        };
        store.add(2, Plain::of("run"), true);
        store.hear(1, question("q"), now);
        store.hear(2, question("q"), now);
        assert_eq!(store.questions.len(), 2);
        store.hear(2, Heard::Ended, now);
        store.hear(2, question("q"), now);
        assert_eq!(store.questions.len(), 1, "what has ended tells nothing any more");
        store.hear(1, Heard::Broken(Plain::of("gone")), now);
        assert!(store.questions.is_empty());
    }

    #[test]
    fn the_chart_counts_by_time() {
        let (mut store, now) = store();
        let mut refused = record(1);
        refused["decision"] = "deny".into();
        store.hear(1, Heard::Records(vec![record(2), refused]), now);
        let chart = store.chart("2026-01-01T00:00:31Z".parse().unwrap());
        assert_eq!(chart.len(), BUCKETS);
        assert_eq!(chart[BUCKETS - 4], [1, 1]);
        assert_eq!(chart.iter().flatten().sum::<u64>(), 2);
    }
}
