//! The thread that formats and writes.
//!
//! It writes everything queued with few system calls, then pauses, so that records gather into
//! batches under load while a single record is written at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::chain::{Chain, Position};
use super::line::{self, Clock};
use super::queue::{Batch, Queue};
use super::sink::{Short, Sink};
use super::{ChainKey, Kind, Observer, Record, RequestId, Verdict};
use crate::words;

/// The approximate size of a write in bytes, which bounds the buffer.
const PIECE: usize = 256 * 1024;
/// How long records gather after a batch: under load each batch costs a wake-up and a write.
const GATHER: Duration = Duration::from_millis(5);
/// Retry interval for reporting lost records while the sink fails.
const RETRY: Duration = Duration::from_secs(1);
/// Interval between log messages about a failing sink.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);
/// Interval for retrying a lock that another process holds.
const LOOK: Duration = Duration::from_millis(20);
/// How long a closed queue waits for the lock.
const LAST_LOOKS: Duration = Duration::from_secs(4);
/// Vectors larger than this many records are not reused.
const KEEP: usize = 1024;

/// A written record for subscribers: its JSON, and the fields needed to select and count it. Small,
/// since many are kept.
#[derive(Debug)]
pub struct Published {
    /// [`Record::time`].
    pub time: Timestamp,
    /// [`Record::sandbox`].
    pub sandbox: Arc<str>,
    /// [`Record::id`].
    pub id: RequestId,
    /// [`Record::kind`].
    pub kind: Kind,
    /// [`Record::decision`].
    pub decision: Option<Verdict>,
    /// [`Record::event`].
    pub event: Option<&'static str>,
    /// [`Record::host`].
    pub host: Option<Arc<str>>,
    /// [`Record::ip`].
    pub ip: Option<IpAddr>,
    /// The record's JSON, without the line feed.
    pub json: Box<str>,
}

impl Published {
    /// Creates one from a record and its JSON.
    pub fn of(record: &Record, json: &str) -> Published {
        Published {
            time: record.time,
            sandbox: Arc::clone(&record.sandbox),
            id: record.id,
            kind: record.kind,
            decision: record.decision,
            event: record.event,
            host: record.host.clone(),
            ip: record.ip,
            json: json.into(),
        }
    }
}

pub(super) struct Writer {
    sink: Sink,
    /// The chain's key, until the chain starts.
    key: Option<ChainKey>,
    chain: Option<Chain>,
    followers: broadcast::Sender<Arc<Published>>,
    observers: Vec<Box<dyn Observer>>,
    /// The formatted lines of the current piece, and the end of each.
    text: String,
    clock: Clock,
    ends: Vec<usize>,
    /// Lost records not yet reported, by sandbox.
    lost: BTreeMap<Arc<str>, u64>,
    complained: Option<Instant>,
    /// Keeps the total counts of lost records.
    queue: Arc<Queue>,
}

struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Writer {
    pub(super) fn new(
        sink: Sink,
        key: Option<ChainKey>,
        followers: broadcast::Sender<Arc<Published>>,
        queue: Arc<Queue>,
    ) -> Writer {
        Writer {
            sink,
            key,
            chain: None,
            followers,
            observers: Vec::new(),
            text: String::new(),
            clock: Clock::default(),
            ends: Vec::new(),
            lost: BTreeMap::new(),
            complained: None,
            queue,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(self, queue: &Queue) {
        // However this thread ends, waiters are released, after the file is closed.
        let _ending = Ending(queue);
        let mut writer = self;
        writer.write_all(queue);
    }

    fn write_all(&mut self, queue: &Queue) {
        self.begin_chain(queue);
        let mut spent = Vec::new();
        loop {
            let batch =
                queue.take(std::mem::take(&mut spent), (!self.lost.is_empty()).then_some(RETRY));
            let Batch { mut records, dropped, observers, waiters, reopen, closed } = batch;
            self.observers.extend(observers);
            if reopen {
                self.reopen();
            }
            self.write(&records);
            // Records were dropped after these were queued, so the report marks the gap.
            for (sandbox, count) in dropped {
                *self.lost.entry(sandbox).or_default() += count;
            }
            self.report_lost();
            if closed {
                self.end_chain();
            }
            self.observers.iter_mut().for_each(|observer| observer.pause(closed));
            for waiter in waiters {
                let _ = waiter.send(()); // the waiter may be gone
            }
            if closed {
                break;
            }
            records.clear();
            if records.capacity() <= KEEP {
                spent = records;
            }
            self.text.shrink_to(PIECE * 2);
            queue.gather(GATHER);
        }
        if !self.lost.is_empty() {
            let lost: u64 = self.lost.values().sum();
            tracing::error!(
                "lost {}, and cannot record that in {}",
                words::count(lost, "audit record"),
                self.sink.name()
            );
        }
    }

    /// Waits for the lock on the file, then starts or continues the chain.
    fn begin_chain(&mut self, queue: &Queue) {
        let Some(key) = self.key.take() else { return };
        let mut closed_since: Option<Instant> = None;
        loop {
            match self.sink.try_lock() {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    let name = self.sink.name();
                    tracing::error!(
                        "cannot lock the audit file {name}: {error}; if another process writes to \
                         it too, the chain breaks"
                    );
                    break;
                }
            }
            if queue.is_closed()
                && closed_since.get_or_insert_with(Instant::now).elapsed() > LAST_LOOKS
            {
                // Two writers would break the chain; losing records is visible to the reader.
                tracing::error!(
                    "another process holds the audit file {}; records are being lost",
                    self.sink.name()
                );
                self.sink = Sink::Discard;
                return;
            }
            std::thread::sleep(LOOK);
        }
        let last = self.sink.last_line().unwrap_or_else(|error| {
            tracing::error!("cannot read back the audit file {}: {error}", self.sink.name());
            None
        });
        let (chain, breaks) = Chain::after(key, last.as_deref());
        if breaks {
            tracing::error!(
                "the audit file {} does not end in a chained record, so a new chain starts inside \
                 it and `interceptor audit verify` will report it; give the chain a file of its \
                 own",
                self.sink.name()
            );
        }
        self.chain = Some(chain);
        if let Err(short) = self.open_chain() {
            self.complain(&short.error);
        }
    }

    /// Writes the opening record if it is still due.
    fn open_chain(&mut self) -> Result<(), Short> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let place = chain.place();
        if let Some(line) = chain.opening() {
            if let Err(short) = self.sink.write(line.as_bytes()) {
                chain.rewind(place, &[]);
                return Err(Short { complete: 0, ..short });
            }
            chain.opened();
        }
        Ok(())
    }

    fn end_chain(&mut self) {
        let opened = self.open_chain();
        let Some(chain) = &mut self.chain else { return };
        let ending = chain.ending();
        if let Err(short) = opened.and_then(|()| self.sink.write(ending.as_bytes())) {
            self.complain(&short.error);
        }
    }

    fn reopen(&mut self) {
        match self.sink.reopen(self.chain.is_some()) {
            Ok(another) => {
                if let Some(chain) = self.chain.as_mut().filter(|_| another) {
                    chain.rotate();
                    if let Err(short) = self.open_chain() {
                        self.complain(&short.error);
                    }
                }
            }
            Err(error) => {
                tracing::error!(
                    "cannot reopen the audit file {}: {error}; keeping the old one",
                    self.sink.name()
                );
            }
        }
    }

    /// Appends a record to the current piece.
    fn append(&mut self, record: &Record) {
        let start = self.text.len();
        line::append(&mut self.text, &mut self.clock, record);
        if let Some(chain) = &mut self.chain {
            chain.seal(&mut self.text, start);
        }
    }

    /// Writes the current piece, sealed since `place`.
    fn write_text(&mut self, place: Option<Position>) -> Result<(), Short> {
        let text = self.text.as_bytes();
        self.sink.write(text).inspect_err(|short| {
            if let (Some(chain), Some(place)) = (&mut self.chain, place) {
                chain.rewind(place, &text[..short.complete]);
            }
        })
    }

    fn write(&mut self, records: &[Record]) {
        if self.sink.is_discard() && !self.is_followed() {
            return;
        }
        let mut first = 0;
        while first < records.len() {
            let opened = self.open_chain();
            let place = self.chain.as_ref().map(Chain::place);
            self.text.clear();
            self.ends.clear();
            let mut next = first;
            while next < records.len() && self.text.len() < PIECE {
                self.append(&records[next]);
                self.ends.push(self.text.len());
                next += 1;
            }
            let written = match opened {
                Ok(()) => self.write_text(place),
                Err(short) => {
                    if let (Some(chain), Some(place)) = (&mut self.chain, place) {
                        chain.rewind(place, &[]);
                    }
                    Err(short)
                }
            };
            if let Err(short) = written {
                self.lose(&records[first..next], &short);
            }
            if self.is_followed() {
                self.publish_piece(&records[first..next]);
            }
            first = next;
        }
    }

    /// Whether anything besides the sink takes the records.
    fn is_followed(&self) -> bool {
        !self.observers.is_empty() || self.followers.receiver_count() > 0
    }

    /// Publishes the records of the current piece.
    fn publish_piece(&mut self, records: &[Record]) {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        for (record, (start, end)) in records.iter().zip(starts.zip(&self.ends)) {
            match &self.chain {
                None => tell(&self.followers, &mut self.observers, record, &self.text[start..*end]),
                // Others get records without the chain's fields.
                Some(_) => publish(&self.followers, &mut self.observers, record),
            }
        }
    }

    /// Counts the records of a piece that could not be written.
    fn lose(&mut self, records: &[Record], short: &Short) {
        let written = self.ends.partition_point(|&end| end <= short.complete);
        for record in &records[written..] {
            *self.lost.entry(Arc::clone(&record.sandbox)).or_default() += 1;
            self.queue.count_lost(&record.sandbox, 1);
        }
        self.complain(&short.error);
    }

    /// Logs a failing sink at intervals.
    fn complain(&mut self, error: &std::io::Error) {
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            let (name, lost) = (self.sink.name(), self.lost.values().sum::<u64>());
            tracing::error!(
                "cannot write audit records to {name}: {error}; {lost} lost so far; traffic \
                 continues"
            );
        }
    }

    /// Reports lost records in the stream, if it can be written.
    fn report_lost(&mut self) {
        while let Some((sandbox, &count)) = self.lost.first_key_value() {
            let mut record = Record::lifecycle(sandbox, "audit_dropped");
            record.dropped = Some(count);
            if self.open_chain().is_err() {
                return;
            }
            let place = self.chain.as_ref().map(Chain::place);
            self.text.clear();
            self.append(&record);
            if self.write_text(place).is_err() {
                return;
            }
            self.lost.pop_first();
            if self.is_followed() {
                publish(&self.followers, &mut self.observers, &record);
            }
        }
    }
}

type Followers = broadcast::Sender<Arc<Published>>;

fn publish(followers: &Followers, observers: &mut [Box<dyn Observer>], record: &Record) {
    let mut line = String::new();
    line::append(&mut line, &mut Clock::default(), record);
    tell(followers, observers, record, &line);
}

/// Shows a record and its line to everybody but the sink.
fn tell(followers: &Followers, observers: &mut [Box<dyn Observer>], record: &Record, line: &str) {
    observers.iter_mut().for_each(|observer| observer.record(record, line));
    if followers.receiver_count() > 0 {
        // Fails if the last subscriber has just left.
        let _ = followers.send(Arc::new(Published::of(record, line.trim_end_matches('\n'))));
    }
}
