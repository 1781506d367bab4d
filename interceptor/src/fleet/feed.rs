//! The audit records of one sandbox, for its followers: recent records, then new ones, never
//! another sandbox's, however busy that one is.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::audit::{Kind, Published, Verdict};

/// Recent records kept for followers that ask for the past, and their bytes.
const KEPT: usize = 512;
const KEPT_BYTES: usize = 64 * 1024;
/// How far a follower may fall behind before it skips records.
const BEHIND: usize = 1024;
/// How long to wait for a sandbox's last record.
const LAST_RECORD: Duration = Duration::from_secs(2);

/// An event for a follower.
#[derive(Clone, Debug)]
pub(crate) enum FeedEvent {
    /// A record.
    Record(Arc<Published>),
    /// So many records, of any sandbox, were lost on the way here.
    Lost(u64),
}

/// The records of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    state: Mutex<History>,
    allowed: AtomicU64,
    denied: AtomicU64,
    /// Cancelled at the sandbox's last record.
    stopped: CancellationToken,
    all: All,
}

#[derive(Debug, Default)]
struct History {
    recent: VecDeque<Arc<Published>>,
    bytes: usize,
    /// Created for the first follower.
    sender: Option<broadcast::Sender<FeedEvent>>,
    is_over: bool,
}

/// A follower's view: the kept records, then new ones until the sandbox is gone.
#[derive(Debug)]
pub(crate) struct FeedView {
    /// Kept records, oldest first.
    pub(crate) recent: Vec<Arc<Published>>,
    /// New records; `None` if the sandbox is gone.
    pub(crate) coming: Option<broadcast::Receiver<FeedEvent>>,
}

impl Feed {
    /// Follows from now on, or from `since` as far as records are kept.
    pub(crate) fn listen(&self, since: Option<Timestamp>) -> FeedView {
        let mut state = self.state();
        let kept = state.recent.iter().filter(|kept| since.is_some_and(|since| kept.time >= since));
        let recent = kept.cloned().collect();
        let coming = (!state.is_over).then(|| {
            state.sender.get_or_insert_with(|| broadcast::Sender::new(BEHIND)).subscribe()
        });
        FeedView { recent, coming }
    }

    /// The kept records, oldest first.
    pub(crate) fn recent(&self) -> Vec<Arc<Published>> {
        self.state().recent.iter().cloned().collect()
    }

    /// The number of requests and connections allowed and denied.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.allowed.load(Ordering::Relaxed), self.denied.load(Ordering::Relaxed))
    }

    pub(super) fn hear(&self, published: &Arc<Published>) {
        if published.kind != Kind::Dns {
            match published.decision {
                Some(Verdict::Allow) => self.allowed.fetch_add(1, Ordering::Relaxed),
                Some(Verdict::Deny) => self.denied.fetch_add(1, Ordering::Relaxed),
                None => 0,
            };
        }
        let mut state = self.state();
        state.recent.push_back(published.clone());
        state.bytes += published.json.len();
        while state.recent.len() > KEPT || state.bytes > KEPT_BYTES {
            let Some(oldest) = state.recent.pop_front() else { break };
            state.bytes -= oldest.json.len();
        }
        state.tell(FeedEvent::Record(published.clone()));
        drop(state);
        // Fails when there is no follower.
        self.all.get().map(|all| all.send(FeedEvent::Record(published.clone())));
        if published.event == Some("sandbox_stopped") {
            self.stopped.cancel();
        }
    }

    fn lost(&self, count: u64) {
        self.state().tell(FeedEvent::Lost(count));
    }

    /// Ends it for every follower, once they have read the rest.
    fn close(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.sender = None;
    }

    /// Every step leaves the state consistent.
    fn state(&self) -> MutexGuard<'_, History> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn tell(&self, heard: FeedEvent) {
        if let Some(sender) = &self.sender {
            // Fails when there is no follower.
            let _ = sender.send(heard);
        }
    }
}

/// Where those hear who follow every sandbox; made for the first.
type All = Arc<OnceLock<broadcast::Sender<FeedEvent>>>;

/// The feeds of all sandboxes, by id.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    table: Mutex<HashMap<Arc<str>, Arc<Feed>>>,
    all: All,
}

impl Feeds {
    /// Opens a feed, before the sandbox's first record.
    pub(super) fn open(&self, id: &Arc<str>) -> Arc<Feed> {
        let feed = Arc::new(Feed { all: self.all.clone(), ..Feed::default() });
        // The id may have belonged to a sandbox that has just gone.
        if let Some(before) = self.table().insert(id.clone(), feed.clone()) {
            before.close();
        }
        feed
    }

    /// Closes a feed.
    pub(super) fn close(&self, id: &str) {
        if let Some(feed) = self.table().remove(id) {
            feed.close();
        }
    }

    /// Closes the feed of a removed sandbox after its last record, or after [`LAST_RECORD`].
    pub(super) async fn retire(&self, id: &str, feed: &Arc<Feed>) {
        let _ = tokio::time::timeout(LAST_RECORD, feed.stopped.cancelled()).await;
        feed.close();
        // Another sandbox may have taken the id.
        let mut table = self.table();
        if table.get(id).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            table.remove(id);
        }
    }

    /// The new records of every sandbox. Whoever asks [`Feed::recent`] afterwards misses none, and
    /// may see some twice.
    pub(super) fn follow(&self) -> broadcast::Receiver<FeedEvent> {
        self.all.get_or_init(|| broadcast::Sender::new(BEHIND)).subscribe()
    }

    /// Delivers every record to its sandbox's feed, until the stream ends.
    pub(super) async fn pass_on(&self, mut stream: broadcast::Receiver<Arc<Published>>) {
        loop {
            match stream.recv().await {
                Ok(published) => {
                    let feed = self.table().get(&published.sandbox).cloned();
                    if let Some(feed) = feed {
                        feed.hear(&published);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(count)) => {
                    let feeds: Vec<Arc<Feed>> = self.table().values().cloned().collect();
                    feeds.iter().for_each(|feed| feed.lost(count));
                    self.all.get().map(|all| all.send(FeedEvent::Lost(count)));
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Feed>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
