//! What all handlers of the page share, and how it is called.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use axum::extract::ConnectInfo;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::control::{SocketPeer, Stories};
use crate::entrance::Entrance;
use crate::fleet::{Fleet, PolicyFiles};

/// How many streams of events there are at one time.
pub(super) const STREAMS: usize = 16;
/// How often refused connections are logged, at most.
const LOGGED_EVERY: Duration = Duration::from_secs(1);

/// What the page shows, and how it is let in to.
#[derive(Debug)]
pub(crate) struct Page {
    /// Who may see it.
    pub(crate) entrance: Arc<Entrance>,
    /// The only user besides root who may come in; `None`: whoever has an address with a token.
    pub(crate) person: Option<u32>,
    /// The sandboxes.
    pub(crate) fleet: Arc<Fleet>,
    /// How an edit gets into a policy's file.
    pub(crate) files: Arc<dyn PolicyFiles>,
}

/// What all handlers share.
#[derive(Clone, Debug)]
pub(super) struct Shared(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) page: Page,
    pub(super) streams: Arc<Semaphore>,
    pub(super) stories: Stories,
    /// One edit of a file at a time.
    pub(super) editing: Mutex<()>,
    /// Ends the streams, which never end by themselves.
    pub(super) stop: CancellationToken,
    refusals: Lock<Refusals>,
}

/// Connections that were refused.
#[derive(Debug, Default)]
struct Refusals {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Shared {
    /// Of a page whose streams end with `stop`.
    pub(super) fn new(page: Page, stop: CancellationToken) -> Shared {
        Shared(Arc::new(Inner {
            page,
            streams: Arc::new(Semaphore::new(STREAMS)),
            stories: Stories::default(),
            editing: Mutex::default(),
            stop,
            refusals: Lock::default(),
        }))
    }

    /// Logs that a connection was refused, unless one was logged a moment ago.
    pub(super) fn log_refusal(&self, why: &str) {
        let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.unlogged += 1;
        if refusals.logged.is_some_and(|logged| logged.elapsed() < LOGGED_EVERY) {
            return;
        }
        refusals.logged = Some(Instant::now());
        let count = std::mem::take(&mut refusals.unlogged);
        tracing::warn!(why, count, "refused connections to the page");
    }
}

/// The other end of a connection, as handlers see it.
pub(super) type Peer = ConnectInfo<Arc<SocketPeer>>;

/// The name of the cookie. Cookies know no ports, so that pages at others must not share one.
pub(super) fn cookie(entrance: &Entrance) -> String {
    format!("interceptor-{}", entrance.address().port())
}

/// How the page may be called in a request: by its address alone. What `localhost` is, and who else
/// listens there, is not known.
pub(super) fn names(address: SocketAddr) -> Vec<String> {
    let mut names = vec![address.to_string()];
    if address.port() == 80 {
        names.push(match address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        });
    }
    names
}
