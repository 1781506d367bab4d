//! The thread that formats and writes.
//!
//! It takes everything that is queued, writes it with few system calls, then leaves emitters alone for a moment, so that
//! under load records gather into batches while a lone record is written at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast;

use super::queue::{Batch, Queue};
use super::sink::Sink;
use super::{Record, line};

/// A batch is written in pieces of about this size, in bytes, so that the buffer stays small.
const PIECE: usize = 256 * 1024;
/// How long records gather after a batch.
const GATHER: Duration = Duration::from_millis(1);
/// How often a report of lost records is tried again while the sink takes nothing.
const RETRY: Duration = Duration::from_secs(1);
/// How often a failing sink is complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);
/// Vectors that grew beyond this many records in a flood are not kept.
const KEEP: usize = 1024;

/// A record as it was written, for those who follow along.
#[derive(Debug)]
pub struct Published {
    /// The record.
    pub record: Record,
    /// Its JSON, without the line feed.
    pub json: Box<str>,
}

pub(super) struct Writer {
    sink: Sink,
    followers: broadcast::Sender<Arc<Published>>,
    /// Formatted lines of the current piece, and where each ends.
    text: String,
    ends: Vec<usize>,
    /// By sandbox, how many records were lost and not yet reported.
    lost: BTreeMap<Arc<str>, u64>,
    complained: Option<Instant>,
    /// Where losses are counted for good.
    queue: Arc<Queue>,
}

struct Ending<'a>(&'a Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Writer {
    pub(super) fn new(sink: Sink, followers: broadcast::Sender<Arc<Published>>, queue: Arc<Queue>) -> Writer {
        Writer {
            sink,
            followers,
            text: String::new(),
            ends: Vec::new(),
            lost: BTreeMap::new(),
            complained: None,
            queue,
        }
    }

    /// Writes until the queue is closed and empty.
    pub(super) fn run(mut self, queue: &Queue) {
        // Whatever ends this thread, nobody waits for it afterwards.
        let _ending = Ending(queue);
        let mut spent = Vec::new();
        loop {
            let batch = queue.take(std::mem::take(&mut spent), (!self.lost.is_empty()).then_some(RETRY));
            let Batch { mut records, dropped, waiters, reopen, closed } = batch;
            if reopen && let Err(error) = self.sink.reopen() {
                tracing::error!(
                    "cannot reopen the audit file {}: {error}; the old one is kept",
                    self.sink.name()
                );
            }
            self.write(&mut records);
            // What was dropped came after what was queued: the report stands where the gap is.
            for (sandbox, count) in dropped {
                *self.lost.entry(sandbox).or_default() += count;
            }
            self.report_lost();
            for waiter in waiters {
                let _ = waiter.send(()); // one who no longer waits is no error
            }
            if closed {
                break;
            }
            records.clear();
            if records.capacity() <= KEEP {
                spent = records;
            }
            self.text.shrink_to(PIECE * 2);
            std::thread::sleep(GATHER);
        }
        if !self.lost.is_empty() {
            let lost: u64 = self.lost.values().sum();
            tracing::error!(
                "{lost} audit records were lost and could not be reported in {}",
                self.sink.name()
            );
        }
    }

    fn write(&mut self, records: &mut Vec<Record>) {
        if self.sink.is_discard() && self.followers.receiver_count() == 0 {
            return;
        }
        let mut first = 0;
        while first < records.len() {
            self.text.clear();
            self.ends.clear();
            let mut next = first;
            while next < records.len() && self.text.len() < PIECE {
                line::append(&mut self.text, &records[next]);
                self.ends.push(self.text.len());
                next += 1;
            }
            self.write_piece(&records[first..next]);
            first = next;
        }
        if self.followers.receiver_count() > 0 {
            for record in records.drain(..) {
                self.publish(record);
            }
        }
    }

    /// Writes the formatted lines of `records`; those that could not be written count as lost.
    fn write_piece(&mut self, records: &[Record]) {
        if let Err(short) = self.sink.write(self.text.as_bytes()) {
            let written = self.ends.partition_point(|&end| end <= short.complete);
            for record in &records[written..] {
                *self.lost.entry(Arc::clone(&record.sandbox)).or_default() += 1;
                self.queue.count_lost(&record.sandbox, 1);
            }
            let due = self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY);
            if due {
                self.complained = Some(Instant::now());
                let (name, lost) = (self.sink.name(), self.lost.values().sum::<u64>());
                tracing::error!(
                    "cannot write audit records to {name}: {}; {lost} are lost so far, traffic goes on",
                    short.error
                );
            }
        }
    }

    /// Says in the stream how many records are missing from it, if it takes that much.
    fn report_lost(&mut self) {
        while let Some((sandbox, &count)) = self.lost.first_key_value() {
            let mut record = Record::lifecycle(sandbox, "audit_dropped");
            record.dropped = Some(count);
            self.text.clear();
            line::append(&mut self.text, &record);
            if self.sink.write(self.text.as_bytes()).is_err() {
                return;
            }
            self.lost.pop_first();
            if self.followers.receiver_count() > 0 {
                self.publish(record);
            }
        }
    }

    fn publish(&self, record: Record) {
        let mut json = String::new();
        line::append(&mut json, &record);
        json.truncate(json.len() - 1);
        // It fails when the last follower has just left.
        let _ = self.followers.send(Arc::new(Published { record, json: json.into() }));
    }
}
