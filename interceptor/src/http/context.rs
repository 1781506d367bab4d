//! State shared by the requests of one connection.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
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
use crate::upstream::pool::{ConnectError, Connection, PoolKey};

/// Maximum concurrent HTTP/2 streams per connection (attack X2).
pub(super) const STREAMS: u32 = 128;
/// Maximum number of header fields, whatever the policy says: `http::HeaderMap` holds no more, and
/// hyper allocates for its maximum before it reads a head.
const MOST_HEADERS: u64 = 24_576;

/// A connection to the origin, begun during the TLS handshake with the sandbox.
#[derive(Debug)]
pub(crate) struct Early {
    /// Which requests may use it.
    pub key: PoolKey,
    /// The task that dials.
    pub task: JoinHandle<Result<Connection, ConnectError>>,
}

impl Drop for Early {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The maximum header bytes and fields to set up a connection for that begins with these limits. At
/// least the defaults, so that a policy that returns to them applies to open connections at once.
pub(super) fn most(limits: &Limits) -> (u64, u64) {
    let default = Limits::default();
    (
        limits.header_bytes.max(default.header_bytes),
        limits.headers.clamp(default.headers, MOST_HEADERS),
    )
}

/// Converts a limit to a number of items or bytes in memory.
pub(super) fn count(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// One connection from the sandbox.
#[derive(Debug)]
pub(crate) struct Context {
    /// The sandbox it belongs to.
    pub sandbox: Arc<Sandbox>,
    /// The host it is for.
    pub identity: Identity,
    /// The address the sandbox connected to.
    pub asked: SocketAddr,
    /// Its socket once more, where requests may wait for a person: the end of a client that has
    /// sent a body can be seen without reading it.
    pub peer: Option<OwnedFd>,
    /// HTTP/1.1 or HTTP/2.
    pub protocol: Protocol,
    /// Notes from the HTTP/1.1 filter.
    pub notes: Option<Notes>,
    /// Closes it.
    pub close: CancellationToken,
    /// The limits it began with; hyper's ceilings and timers cannot be changed later.
    pub limits: Limits,
    /// Ends an HTTP/2 connection after the requests in progress, because its limits are outdated.
    pub outdated: CancellationToken,
    /// Its entry among the sandbox's open connections.
    pub _alive: Alive,
    /// Taken by the first request that it fits.
    pub early: Mutex<Option<Early>>,
    /// Whether the early connection already counts as one of the host's requests, before any has
    /// arrived.
    pub prepaid: AtomicBool,
    /// Activity on the connection.
    pub activity: Arc<Activity>,
    /// Writes a record on drop, if no request ever arrived.
    pub _unasked: Box<dyn Debug + Send + Sync>,
    /// Cancelled when the connection is over, so that a WebSocket on it ends too.
    pub over: CancellationToken,
    /// The WebSocket it became.
    pub switched: Mutex<Option<JoinHandle<()>>>,
}

impl Context {
    /// Whether the limits now in force need something that cannot be changed on this connection. It
    /// then ends after the request in progress, and the next connection gets the new limits.
    pub(crate) fn is_outdated(&self) -> bool {
        let (began, now) = (&self.limits, self.sandbox.limits());
        let (bytes, headers) = most(began);
        now.header_bytes > bytes
            || now.headers > headers
            || now.idle_timeout != began.idle_timeout
            || now.total_timeout != began.total_timeout
    }

    /// Whether this request was already counted when its connection was begun early. True at most
    /// once, and only for the connection's own host.
    pub(crate) fn take_prepaid(&self, key: &PoolKey) -> bool {
        key.host == self.identity.host
            && key.port == self.identity.port
            && self.prepaid.swap(false, Ordering::Relaxed)
    }

    /// The early connection, if it fits this request.
    pub(crate) fn take_early(&self, key: &PoolKey) -> Option<Early> {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        // An early connection made under other rules fits no request any more.
        drop(early.take_if(|early| early.key.generation() != key.generation()));
        early.take_if(|early| early.key == *key)
    }
}
