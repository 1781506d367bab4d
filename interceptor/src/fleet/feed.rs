//! The audit records of one sandbox as those who follow it get them: the last ones kept, the next ones passed on, and nothing of any
//! other sandbox, however busy that is.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::audit::{Kind, Published, Verdict};

/// Records kept for those who ask for what was before, and bytes of them.
const KEPT: usize = 512;
const KEPT_BYTES: usize = 64 * 1024;
/// How far behind one who follows may be before records are left out for them.
const BEHIND: usize = 1024;
/// How long the last record of a sandbox is waited for.
const LAST_RECORD: Duration = Duration::from_secs(2);

/// What one who follows is told.
#[derive(Clone, Debug)]
pub(crate) enum Heard {
    /// A record.
    Record(Arc<Published>),
    /// That many records were lost before they came here, of this sandbox or others.
    Lost(u64),
}

/// The records of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    state: Mutex<State>,
    allowed: AtomicU64,
    denied: AtomicU64,
    /// Cancelled by the sandbox's last record.
    stopped: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    recent: VecDeque<Arc<Published>>,
    bytes: usize,
    /// Made for the first who follows.
    sender: Option<broadcast::Sender<Heard>>,
    is_over: bool,
}

/// What one who follows gets: first what was kept, then what comes, until the sandbox is gone.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Kept records, oldest first.
    pub(crate) recent: Vec<Arc<Published>>,
    /// Those to come; `None` if the sandbox is gone.
    pub(crate) coming: Option<broadcast::Receiver<Heard>>,
}

impl Feed {
    /// Follows from now on, or from a time on as far as records are still there.
    pub(crate) fn listen(&self, since: Option<Timestamp>) -> Listener {
        let mut state = self.state();
        let kept = state.recent.iter().filter(|kept| since.is_some_and(|since| kept.time >= since));
        let recent = kept.cloned().collect();
        let coming = (!state.is_over)
            .then(|| state.sender.get_or_insert_with(|| broadcast::Sender::new(BEHIND)).subscribe());
        Listener { recent, coming }
    }

    /// How many requests and connections were allowed and denied.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.allowed.load(Ordering::Relaxed), self.denied.load(Ordering::Relaxed))
    }

    fn hear(&self, published: &Arc<Published>) {
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
        state.tell(Heard::Record(published.clone()));
        drop(state);
        if published.event == Some("sandbox_stopped") {
            self.stopped.cancel();
        }
    }

    fn lost(&self, count: u64) {
        self.state().tell(Heard::Lost(count));
    }

    /// Ends it for all who follow, after what they have not read yet.
    fn close(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.sender = None;
    }

    /// Every step leaves the state whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self, heard: Heard) {
        if let Some(sender) = &self.sender {
            // It fails when nobody follows any more.
            let _ = sender.send(heard);
        }
    }
}

/// The feeds of all sandboxes, by id.
#[derive(Debug, Default)]
pub(super) struct Feeds(Mutex<HashMap<Arc<str>, Arc<Feed>>>);

impl Feeds {
    /// Begins one, before the sandbox's first record.
    pub(super) fn open(&self, id: &Arc<str>) -> Arc<Feed> {
        let feed = Arc::<Feed>::default();
        // The id may be that of a sandbox that has just gone.
        if let Some(before) = self.table().insert(id.clone(), feed.clone()) {
            before.close();
        }
        feed
    }

    /// Ends one.
    pub(super) fn close(&self, id: &str) {
        if let Some(feed) = self.table().remove(id) {
            feed.close();
        }
    }

    /// Ends one whose sandbox is gone, when its last record has come through, at the latest after [`LAST_RECORD`].
    pub(super) async fn retire(&self, id: &str, feed: &Arc<Feed>) {
        let _ = tokio::time::timeout(LAST_RECORD, feed.stopped.cancelled()).await;
        feed.close();
        // Another sandbox may have the id by now.
        let mut table = self.table();
        if table.get(id).is_some_and(|known| Arc::ptr_eq(known, feed)) {
            table.remove(id);
        }
    }

    /// Passes every record on to the feed of its sandbox, as long as there are records.
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
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Feed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
