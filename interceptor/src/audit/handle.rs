//! The handle through which records are emitted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::broadcast;

use super::queue::Queue;
use super::sink::Sink;
use super::writer::{Published, Writer};
use super::{ChainKey, Record};

/// How long the end of the process waits for a sink that is stuck.
const FAREWELL: Duration = Duration::from_secs(5);
/// How many records one who follows may be behind before some are skipped for them.
const FOLLOW_BEHIND: usize = 1024;

/// The bounds of the queue between the emitters and the writer. What exceeds one is counted as lost.
#[derive(Clone, Copy, Debug)]
pub struct AuditOptions {
    /// Records that one sandbox may have waiting.
    pub records_per_sandbox: usize,
    /// Bytes that one sandbox may have waiting.
    pub bytes_per_sandbox: usize,
    /// Records of all sandboxes together.
    pub records: usize,
    /// Bytes of all sandboxes together.
    pub bytes: usize,
}

impl Default for AuditOptions {
    fn default() -> AuditOptions {
        AuditOptions {
            records_per_sandbox: 8192,
            bytes_per_sandbox: 8 * 1024 * 1024,
            records: 65_536,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// That the stream is to be a hash chain, which `interceptor audit verify` can check.
#[derive(Clone, Debug)]
pub struct ChainOptions {
    /// The key of its MACs.
    pub key: ChainKey,
    /// What to do while another process writes a chain to the same file, of which there can be one only: wait for it with what is
    /// in the queue (as a process does that takes over from another), or refuse to start.
    pub wait: bool,
}

/// Why no audit could be started.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened for appending.
    #[error("cannot open the audit file {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process writes a chain to the file.
    #[error("another interceptor is writing to the audit file {path}, and a chain has one writer: give each a file of its own",
        path = path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// The writer's thread cannot be started.
    #[error("cannot start the thread that writes audit records: {0}")]
    Thread(io::Error),
}

/// Where records go. Clones share one stream; when the last is dropped, what is queued is written.
#[derive(Clone)]
pub struct Audit(Arc<Stream>);

struct Stream {
    queue: Arc<Queue>,
    /// Whether records go nowhere but to those who follow.
    is_discarded: bool,
    followers: broadcast::Sender<Arc<Published>>,
}

impl Audit {
    /// Appends to a file, made with mode 0600 where it does not exist.
    pub fn to_file(path: impl AsRef<Path>) -> Result<Audit, AuditError> {
        Audit::to_file_with(path, AuditOptions::default())
    }

    #[cfg(test)]
    pub(super) fn to_pipe(writer: io::PipeWriter, options: AuditOptions) -> Result<Audit, AuditError> {
        Audit::start(Sink::pipe(writer), options, None)
    }

    /// [`Audit::to_file`] with bounds of one's own.
    pub fn to_file_with(path: impl AsRef<Path>, options: AuditOptions) -> Result<Audit, AuditError> {
        let path = path.as_ref();
        let sink = Sink::open(path).map_err(|source| AuditError::Open { path: path.to_owned(), source })?;
        Audit::start(sink, options, None)
    }

    /// [`Audit::to_file_with`] as a hash chain, which goes on where the one in the file ends.
    pub fn to_file_chained(
        path: impl AsRef<Path>,
        options: AuditOptions,
        chain: ChainOptions,
    ) -> Result<Audit, AuditError> {
        let path = path.as_ref();
        let open = |source| AuditError::Open { path: path.to_owned(), source };
        let sink = Sink::open(path).map_err(open)?;
        if !sink.try_lock().map_err(open)? && !chain.wait {
            return Err(AuditError::Taken { path: path.to_owned() });
        }
        Audit::start(sink, options, Some(chain.key))
    }

    /// [`Audit::to_stderr_with`] as a hash chain, which starts anew each time.
    pub fn to_stderr_chained(options: AuditOptions, key: ChainKey) -> Result<Audit, AuditError> {
        Audit::start(Sink::Stderr { midline: false }, options, Some(key))
    }

    /// Writes to standard error.
    pub fn to_stderr() -> Result<Audit, AuditError> {
        Audit::to_stderr_with(AuditOptions::default())
    }

    /// [`Audit::to_stderr`] with bounds of one's own.
    pub fn to_stderr_with(options: AuditOptions) -> Result<Audit, AuditError> {
        Audit::start(Sink::Stderr { midline: false }, options, None)
    }

    /// Writes nowhere; [`Audit::subscribe`] still sees every record.
    pub fn discard() -> Result<Audit, AuditError> {
        Audit::start(Sink::Discard, AuditOptions::default(), None)
    }

    fn start(sink: Sink, options: AuditOptions, key: Option<ChainKey>) -> Result<Audit, AuditError> {
        let queue = Arc::new(Queue::new(options));
        let is_discarded = sink.is_discard();
        let followers = broadcast::Sender::new(FOLLOW_BEHIND);
        let writer = Writer::new(sink, key, followers.clone(), Arc::clone(&queue));
        let stream = Stream { queue: Arc::clone(&queue), is_discarded, followers };
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run(&queue)).map_err(AuditError::Thread)?;
        Ok(Audit(Arc::new(stream)))
    }

    /// Gives a sandbox a bound of its own instead of [`AuditOptions::records_per_sandbox`], and counts in `lost` what of it
    /// is lost, for as long as that exists. Registering again replaces the bound.
    pub fn register(&self, sandbox: &Arc<str>, records: usize, lost: &Arc<AtomicU64>) {
        self.0.queue.register(sandbox, records, lost);
    }

    /// How many records were lost so far, of all sandboxes: they did not fit, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.0.queue.lost()
    }

    /// How many records wait to be written.
    pub fn waiting(&self) -> usize {
        self.0.queue.waiting()
    }

    /// Queues a record: about a microsecond, without waiting and without a result. A record that does not fit is counted,
    /// and reported in the stream as the event `audit_dropped` of its sandbox.
    pub fn emit(&self, record: Record) {
        // Nobody's record is not worth waking a thread for.
        if self.0.is_discarded && self.0.followers.receiver_count() == 0 {
            return;
        }
        self.0.queue.push(record);
    }

    /// Opens the file anew by its path, after a rotation. Records queued before may be written to either file.
    pub fn reopen(&self) {
        self.0.queue.reopen();
    }

    /// Every record from now on, as it is written, but without the fields of a chain: those are the file's. One who reads too slowly misses some and is told how many.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Published>> {
        self.0.followers.subscribe()
    }

    /// Completes when every record emitted before has been written or counted as lost.
    pub async fn flush(&self) {
        // A writer that has ended drops the sender, and has written all there was.
        let _ = self.0.queue.flush().await;
    }

    /// Writes what is queued and ends the stream, waiting at most five seconds for a sink that is stuck. Records emitted
    /// later go nowhere.
    pub async fn shutdown(&self) {
        let flushed = self.0.queue.flush();
        self.0.queue.close();
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
