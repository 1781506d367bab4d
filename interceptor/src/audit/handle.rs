//! The handle through which records are emitted.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::broadcast;

use super::queue::{AuditOptions, Queue};
use super::sink::Sink;
use super::writer::{Published, Writer};
use super::{ChainKey, Observer, Record};

/// How long shutdown waits for a stuck sink.
const FAREWELL: Duration = Duration::from_secs(5);
/// How many records a subscriber may lag before it skips some.
const FOLLOW_BEHIND: usize = 1024;

/// Makes the stream a hash chain, for `interceptor audit verify`.
#[derive(Clone, Debug)]
pub struct ChainOptions {
    /// The key of its MACs.
    pub key: ChainKey,
    /// If another process writes a chain to the same file: wait for it while queueing (for a
    /// take-over), or refuse to start. A file has one chain writer at a time.
    pub wait: bool,
}

/// Why the audit log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened for appending.
    #[error("cannot open the audit file {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process writes a chain to the file.
    #[error(
        "another interceptor is writing to the audit file {path}, and a chain has one writer: give \
         each a file of its own",
        path = path.display()
    )]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// The writer thread cannot be started.
    #[error("cannot start the thread that writes audit records: {0}")]
    Thread(io::Error),
}

/// The audit log. Clones share one stream; dropping the last one writes what is queued.
#[derive(Clone)]
pub struct Audit(Arc<Stream>);

struct Stream {
    queue: Arc<Queue>,
    /// Whether records go only to subscribers.
    is_discarded: bool,
    /// Whether an observer sees them too.
    is_observed: AtomicBool,
    followers: broadcast::Sender<Arc<Published>>,
}

impl Audit {
    /// Appends to a file, created with mode 0600 if missing.
    pub fn to_file(path: impl AsRef<Path>) -> Result<Audit, AuditError> {
        Audit::to_file_with(path, AuditOptions::default())
    }

    /// Writes to a pipe, whose reader may be slow or gone.
    pub(crate) fn to_pipe(
        writer: impl Into<OwnedFd>,
        options: AuditOptions,
    ) -> Result<Audit, AuditError> {
        Audit::start(Sink::pipe(writer.into()), options, None)
    }

    /// [`Audit::to_file`] with custom limits.
    pub fn to_file_with(
        path: impl AsRef<Path>,
        options: AuditOptions,
    ) -> Result<Audit, AuditError> {
        let path = path.as_ref();
        let sink = Sink::open(path, options.owner)
            .map_err(|source| AuditError::Open { path: path.to_owned(), source })?;
        Audit::start(sink, options, None)
    }

    /// [`Audit::to_file_with`] as a hash chain, which continues the one in the file.
    pub fn to_file_chained(
        path: impl AsRef<Path>,
        options: AuditOptions,
        chain: ChainOptions,
    ) -> Result<Audit, AuditError> {
        let path = path.as_ref();
        let open = |source| AuditError::Open { path: path.to_owned(), source };
        let sink = Sink::open(path, options.owner).map_err(open)?;
        if !sink.try_lock().map_err(open)? && !chain.wait {
            return Err(AuditError::Taken { path: path.to_owned() });
        }
        Audit::start(sink, options, Some(chain.key))
    }

    /// [`Audit::to_stderr_with`] as a new hash chain.
    pub fn to_stderr_chained(options: AuditOptions, key: ChainKey) -> Result<Audit, AuditError> {
        Audit::start(Sink::Stderr { midline: false }, options, Some(key))
    }

    /// Writes to standard error.
    pub fn to_stderr() -> Result<Audit, AuditError> {
        Audit::to_stderr_with(AuditOptions::default())
    }

    /// [`Audit::to_stderr`] with custom limits.
    pub fn to_stderr_with(options: AuditOptions) -> Result<Audit, AuditError> {
        Audit::start(Sink::Stderr { midline: false }, options, None)
    }

    /// Discards records; [`Audit::subscribe`] still sees them.
    pub fn discard() -> Result<Audit, AuditError> {
        Audit::start(Sink::Discard, AuditOptions::default(), None)
    }

    fn start(
        sink: Sink,
        options: AuditOptions,
        key: Option<ChainKey>,
    ) -> Result<Audit, AuditError> {
        let queue = Arc::new(Queue::new(options));
        let is_discarded = sink.is_discard();
        let followers = broadcast::Sender::new(FOLLOW_BEHIND);
        let writer = Writer::new(sink, key, followers.clone(), Arc::clone(&queue));
        let stream = Stream {
            queue: Arc::clone(&queue),
            is_discarded,
            is_observed: AtomicBool::new(false),
            followers,
        };
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run(&queue)).map_err(AuditError::Thread)?;
        Ok(Audit(Arc::new(stream)))
    }

    /// Gives a sandbox its own limit instead of [`AuditOptions::records_per_sandbox`], and counts
    /// its lost records in `lost` while that exists. Registering again replaces the limit.
    pub fn register(&self, sandbox: &Arc<str>, records: usize, lost: &Arc<AtomicU64>) {
        self.0.queue.register(sandbox, records, lost);
    }

    /// Lost records of all sandboxes so far: they did not fit, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.0.queue.lost()
    }

    /// The number of queued records.
    pub fn waiting(&self) -> usize {
        self.0.queue.waiting()
    }

    /// Queues a record in about a microsecond; never blocks or fails. A record that does not fit is
    /// counted and reported in the stream as the sandbox's `audit_dropped` event.
    pub fn emit(&self, record: Record) {
        // Without a reader, do not wake the writer.
        if self.0.is_discarded
            && self.0.followers.receiver_count() == 0
            && !self.0.is_observed.load(Ordering::Relaxed)
        {
            return;
        }
        self.0.queue.push(record);
    }

    /// Adds an observer of every record that is emitted later.
    pub(crate) fn observe(&self, observer: Box<dyn Observer>) {
        self.0.queue.observe(observer);
        self.0.is_observed.store(true, Ordering::Relaxed);
    }

    /// Reopens the file by its path, after a rotation. Records already queued may go to either
    /// file.
    pub fn reopen(&self) {
        self.0.queue.reopen();
    }

    /// Subscribes to every record from now on, as written but without the chain's fields. A slow
    /// subscriber skips records and learns how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Published>> {
        self.0.followers.subscribe()
    }

    /// Completes when every earlier record is written or counted as lost.
    pub async fn flush(&self) {
        // A finished writer drops the sender after writing everything.
        let _ = self.0.queue.flush().await;
    }

    /// Writes what is queued and ends the stream, waiting at most five seconds for a stuck sink.
    /// Later records are discarded.
    pub async fn shutdown(&self) {
        // In this order, so that the batch it waits for is the last, with the closing record.
        self.0.queue.close();
        let flushed = self.0.queue.flush();
        let _ = tokio::time::timeout(FAREWELL, flushed).await;
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.queue.close();
        self.queue.wait_ended(FAREWELL);
    }
}
