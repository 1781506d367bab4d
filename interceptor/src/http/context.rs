//! What the requests of one connection have in common.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use interceptor_policy::Limits;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::authority::Identity;
use super::strict::Notes;
use crate::audit::Protocol;
use crate::proxy::Sandbox;
use crate::proxy::live::Alive;
use crate::upstream::pool::{ConnectError, Connection, Key};

/// No head has more fields, whatever the policy says: `http::HeaderMap` holds no more, and hyper
/// makes room for as many as it is told before it reads a head.
const MOST_HEADERS: u64 = 24_576;

/// A connection to the origin that was begun while the sandbox's own TLS handshake still went on.
#[derive(Debug)]
pub(crate) struct Early {
    /// What it may be used for.
    pub key: Key,
    /// The dialling.
    pub task: JoinHandle<Result<Connection, ConnectError>>,
}

impl Drop for Early {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The most header bytes and fields that a connection which begins with these limits is set up for:
/// a policy that only goes back to the default is to hold at once.
pub(super) fn most(limits: &Limits) -> (u64, u64) {
    let default = Limits::default();
    (
        limits.header_bytes.max(default.header_bytes),
        limits.headers.clamp(default.headers, MOST_HEADERS),
    )
}

/// A limit as a count of what is held in memory.
pub(super) fn count(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// One connection from the sandbox.
#[derive(Debug)]
pub(crate) struct Context {
    /// Whose it is.
    pub sandbox: Arc<Sandbox>,
    /// The host it is for.
    pub identity: Identity,
    /// The address the sandbox asked for.
    pub asked: SocketAddr,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: Protocol,
    /// What the HTTP/1.1 filter tells.
    pub notes: Option<Notes>,
    /// Closes it.
    pub close: CancellationToken,
    /// The limits that it began with: hyper's own ceilings and timers, which stay as they are.
    pub limits: Limits,
    /// Has an HTTP/2 connection end when what is under way is done, since its limits hold no more.
    pub outdated: CancellationToken,
    /// Its entry among the sandbox's open connections.
    pub _alive: Alive,
    /// Taken by the first request that it fits.
    pub early: Mutex<Option<Early>>,
    /// Whether what was begun early is counted among the host's requests, before any came.
    pub prepaid: AtomicBool,
    /// What happens on it.
    pub activity: Arc<Activity>,
    /// Makes its record when it is dropped, in case that no request comes.
    pub _unasked: Box<dyn Debug + Send + Sync>,
    /// Cancelled when the connection is over, so that a WebSocket that it became ends with it.
    pub over: CancellationToken,
    /// The WebSocket that it became.
    pub switched: Mutex<Option<JoinHandle<()>>>,
}

impl Context {
    /// Whether what cannot be changed on this connection is not what the limits of this moment ask
    /// for: it ends with the request under way then, and the next one has them.
    pub(crate) fn is_outdated(&self) -> bool {
        let (began, now) = (&self.limits, self.sandbox.limits());
        let (bytes, headers) = most(began);
        now.header_bytes > bytes
            || now.headers > headers
            || now.idle_timeout != began.idle_timeout
            || now.total_timeout != began.total_timeout
    }

    /// Whether this request to the connection's own host was counted when its connection was begun;
    /// true once.
    pub(crate) fn take_prepaid(&self, key: &Key) -> bool {
        key.host == self.identity.host
            && key.port == self.identity.port
            && self.prepaid.swap(false, Ordering::Relaxed)
    }

    /// The connection begun early, if it is what this request needs.
    pub(crate) fn take_early(&self, key: &Key) -> Option<Early> {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        // One of other rules fits no request any more.
        drop(early.take_if(|early| early.key.generation() != key.generation()));
        early.take_if(|early| early.key == *key)
    }
}
