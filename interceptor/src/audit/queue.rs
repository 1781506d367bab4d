//! The bounded queue between emitters and the writer.
//!
//! A mutex around a vector rather than a channel: the writer takes everything at once, so an
//! emitter holds the lock for one push and, under load, wakes no thread. Each sandbox has its own
//! share, so a flooding sandbox loses only its own records.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Observer, Record};

/// Limits of the queue between emitters and the writer. Records beyond them are counted as lost.
#[derive(Clone, Copy, Debug)]
pub struct AuditOptions {
    /// Queued records per sandbox.
    pub records_per_sandbox: usize,
    /// Queued bytes per sandbox.
    pub bytes_per_sandbox: usize,
    /// Queued records of all sandboxes.
    pub records: usize,
    /// Queued bytes of all sandboxes.
    pub bytes: usize,
    /// Who owns a file that is created, by user and group, instead of this process.
    pub owner: Option<(u32, u32)>,
}

impl Default for AuditOptions {
    fn default() -> AuditOptions {
        AuditOptions {
            records_per_sandbox: 8192,
            bytes_per_sandbox: 8 * 1024 * 1024,
            records: 65_536,
            bytes: 64 * 1024 * 1024,
            owner: None,
        }
    }
}

/// So many sandboxes may always be known.
const FEWEST_KNOWN: usize = 64;

pub(super) struct Queue {
    options: AuditOptions,
    state: Mutex<QueueState>,
    /// Signalled when the writer has work.
    work: Condvar,
    /// Signalled when the writer has finished.
    ended: Condvar,
    /// Lost records of all sandboxes.
    lost: AtomicU64,
}

#[derive(Default)]
struct QueueState {
    records: Vec<Record>,
    bytes: usize,
    shares: HashMap<Arc<str>, Share>,
    /// The registered sandboxes, and some that are gone.
    known: HashMap<Arc<str>, KnownSandbox>,
    /// How many may be known before those that are gone are looked for: to look at each new one
    /// would cost as much as there are.
    most_known: usize,
    waiters: Vec<oneshot::Sender<()>>,
    /// Those that the writer does not have yet.
    observers: Vec<Box<dyn Observer>>,
    reopen: bool,
    closed: bool,
    ended: bool,
    /// Whether the writer waits for work.
    idle: bool,
    /// Whether the writer lets records gather.
    gathering: bool,
}

/// A sandbox with its own limit.
struct KnownSandbox {
    records: usize,
    /// Its counter of lost records; gone with the sandbox.
    lost: Weak<AtomicU64>,
}

/// One sandbox's queued records, and those lost since the last batch.
struct Share {
    /// How many records it may hold.
    most: usize,
    records: usize,
    bytes: usize,
    dropped: u64,
}

/// The whole content of the queue.
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    /// Records that did not fit, by sandbox.
    pub(super) dropped: Vec<(Arc<str>, u64)>,
    /// New observers, which see this batch.
    pub(super) observers: Vec<Box<dyn Observer>>,
    /// Notified when the batch is written.
    pub(super) waiters: Vec<oneshot::Sender<()>>,
    /// Reopen the file before writing the batch.
    pub(super) reopen: bool,
    /// The queue is closed; nothing follows.
    pub(super) closed: bool,
}

impl Queue {
    pub(super) fn new(options: AuditOptions) -> Queue {
        Queue {
            options,
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            lost: AtomicU64::new(0),
        }
    }

    // A panic while the lock is held leaves its contents consistent.
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a sandbox its own limit and a counter of lost records, used while the counter exists.
    pub(super) fn register(&self, sandbox: &Arc<str>, records: usize, lost: &Arc<AtomicU64>) {
        let mut state = self.lock();
        if state.known.len() >= state.most_known {
            state.known.retain(|_, known| known.lost.strong_count() > 0);
            state.most_known = FEWEST_KNOWN.max(2 * state.known.len());
        }
        state
            .known
            .insert(Arc::clone(sandbox), KnownSandbox { records, lost: Arc::downgrade(lost) });
        if let Some(share) = state.shares.get_mut(sandbox) {
            share.most = records;
        }
    }

    /// Counts records of a sandbox as lost.
    pub(super) fn count_lost(&self, sandbox: &str, number: u64) {
        self.count(&self.lock(), sandbox, number);
    }

    fn count(&self, state: &QueueState, sandbox: &str, number: u64) {
        self.lost.fetch_add(number, Ordering::Relaxed);
        if let Some(lost) = state.known.get(sandbox).and_then(|known| known.lost.upgrade()) {
            lost.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// Lost records so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Queued records.
    pub(super) fn waiting(&self) -> usize {
        self.lock().records.len()
    }

    /// Queues a record, or counts it as lost. Never waits for the writer.
    pub(super) fn push(&self, record: Record) {
        let size = record.size();
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.closed {
            return;
        }
        let share = state.shares.entry(Arc::clone(&record.sandbox)).or_insert_with(|| {
            let known = state.known.get(&record.sandbox);
            let most = known.map_or(self.options.records_per_sandbox, |known| known.records);
            Share { most, records: 0, bytes: 0, dropped: 0 }
        });
        let fits = share.records < share.most
            && share.bytes + size <= self.options.bytes_per_sandbox
            && state.records.len() < self.options.records
            && state.bytes + size <= self.options.bytes;
        if fits {
            share.records += 1;
            share.bytes += size;
            state.bytes += size;
            state.records.push(record);
        } else {
            share.dropped += 1;
            self.count(state, &record.sandbox, 1);
        }
        self.wake(guard);
    }

    /// Adds an observer of the records that are queued later.
    pub(super) fn observe(&self, observer: Box<dyn Observer>) {
        self.lock().observers.push(observer);
    }

    /// Requests that the file be reopened.
    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        state.reopen = true;
        self.wake(state);
    }

    /// Completes when everything queued so far is written or counted as lost.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if !state.ended {
            state.waiters.push(sender);
        }
        state.idle |= state.gathering;
        self.wake(state);
        receiver
    }

    /// Closes the queue to further records.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.idle |= state.gathering;
        self.wake(state);
    }

    /// Whether the queue is closed.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits for the writer to finish; `false` after `limit`.
    pub(super) fn wait_ended(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !state.ended {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn wake(&self, mut state: MutexGuard<'_, QueueState>) {
        // A busy writer checks again by itself; waking it would cost every emitter a system call.
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.work.notify_one();
        }
    }

    /// Lets records gather for up to `limit`, unless a flush is waiting.
    pub(super) fn gather(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        state.gathering = true;
        while state.waiters.is_empty() && !state.closed {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.gathering = false;
    }

    /// Waits up to `limit` for work and takes all of it. `spent` is an empty vector to reuse.
    pub(super) fn take(&self, spent: Vec<Record>, limit: Option<Duration>) -> Batch {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        while state.shares.is_empty() && state.waiters.is_empty() && !state.reopen && !state.closed
        {
            state.idle = true;
            state = match deadline.map(|deadline| deadline.checked_duration_since(Instant::now())) {
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(None) => break,
                Some(Some(left)) => {
                    self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.idle = false;
        state.bytes = 0;
        let dropped = state.shares.drain().filter(|(_, share)| share.dropped > 0);
        let dropped = dropped.map(|(sandbox, share)| (sandbox, share.dropped)).collect();
        Batch {
            records: std::mem::replace(&mut state.records, spent),
            dropped,
            observers: std::mem::take(&mut state.observers),
            waiters: std::mem::take(&mut state.waiters),
            reopen: std::mem::take(&mut state.reopen),
            closed: state.closed,
        }
    }

    /// Marks the writer as finished.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.ended = true;
        // Dropped waiters complete too.
        state.waiters.clear();
        drop(state);
        self.ended.notify_all();
    }
}
