//! The bounded queue between those who decide and the one who writes.
//!
//! A mutex around a vector, not a channel: the writer takes everything at once, so an emitter holds the lock for the time
//! of one push, and under load wakes nobody. Each sandbox has a share of its own, so that one that floods loses its own
//! records and nobody else's.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{AuditOptions, Record};

pub(super) struct Queue {
    options: AuditOptions,
    state: Mutex<State>,
    /// Signalled when there is something for the writer to do.
    work: Condvar,
    /// Signalled when the writer has ended.
    ended: Condvar,
    /// Records that were lost, of all sandboxes.
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    bytes: usize,
    shares: HashMap<Arc<str>, Share>,
    /// What the sandboxes that exist have said of themselves.
    known: HashMap<Arc<str>, Known>,
    waiters: Vec<oneshot::Sender<()>>,
    reopen: bool,
    closed: bool,
    ended: bool,
    /// The writer waits for work.
    idle: bool,
    /// The writer lets records gather.
    gathering: bool,
}

/// A sandbox with a bound of its own.
struct Known {
    records: usize,
    /// Where it wants to know of what it lost; gone with the sandbox.
    lost: Weak<AtomicU64>,
}

/// What one sandbox has in the queue, and what it lost since the writer last looked.
#[derive(Default)]
struct Share {
    records: usize,
    bytes: usize,
    dropped: u64,
}

/// Everything that was in the queue.
pub(super) struct Batch {
    pub(super) records: Vec<Record>,
    /// By sandbox, how many records did not fit.
    pub(super) dropped: Vec<(Arc<str>, u64)>,
    /// Told when the batch has been written.
    pub(super) waiters: Vec<oneshot::Sender<()>>,
    /// The file is to be opened anew before the batch is written.
    pub(super) reopen: bool,
    /// Nothing follows.
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

    // Nothing below panics while it holds the lock; were it to, the numbers in it would still be whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a sandbox a bound of its own, and a place where what it loses is counted, as long as that place exists.
    pub(super) fn register(&self, sandbox: &Arc<str>, records: usize, lost: &Arc<AtomicU64>) {
        let mut state = self.lock();
        state.known.retain(|_, known| known.lost.strong_count() > 0);
        state.known.insert(Arc::clone(sandbox), Known { records, lost: Arc::downgrade(lost) });
    }

    /// Counts records of a sandbox as lost.
    pub(super) fn count_lost(&self, sandbox: &str, number: u64) {
        self.count(&self.lock(), sandbox, number);
    }

    fn count(&self, state: &State, sandbox: &str, number: u64) {
        self.lost.fetch_add(number, Ordering::Relaxed);
        if let Some(lost) = state.known.get(sandbox).and_then(|known| known.lost.upgrade()) {
            lost.fetch_add(number, Ordering::Relaxed);
        }
    }

    /// Records that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Records that wait.
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
        if !state.shares.contains_key(&record.sandbox) {
            state.shares.insert(Arc::clone(&record.sandbox), Share::default());
        }
        let most =
            state.known.get(&record.sandbox).map_or(self.options.records_per_sandbox, |known| known.records);
        let Some(share) = state.shares.get_mut(&record.sandbox) else { return };
        let fits = share.records < most
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

    /// Asks for the file to be opened anew.
    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        state.reopen = true;
        self.wake(state);
    }

    /// Completes when everything queued before has been written or counted as lost.
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

    /// Takes no further record.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.idle |= state.gathering;
        self.wake(state);
    }

    /// Whether no further record is taken.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until the writer has ended; `false` if it has not within `limit`.
    pub(super) fn wait_ended(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        while !state.ended {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        // A writer at work looks again by itself: waking it would cost every emitter a system call.
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.work.notify_one();
        }
    }

    /// Lets records gather for a while, undisturbed by them: not when somebody waits for what is there.
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

    /// Waits for work, at most `limit`, and takes all there is. `spent` is an empty vector whose memory is used again.
    pub(super) fn take(&self, spent: Vec<Record>, limit: Option<Duration>) -> Batch {
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        while state.shares.is_empty() && state.waiters.is_empty() && !state.reopen && !state.closed {
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
            waiters: std::mem::take(&mut state.waiters),
            reopen: std::mem::take(&mut state.reopen),
            closed: state.closed,
        }
    }

    /// The writer's last word.
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
