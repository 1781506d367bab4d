//! The pool of one sandbox's connections to origins.
//!
//! A connection is reused only for the same scheme, host, port, credential and client certificate
//! (attacks K23, H2): a connection that one credential authenticated never carries another's
//! request. The pool is
//! bounded in size and time, and dropped with its sandbox.
//!
//! It keeps only connections made under the current rules. A connection in use or being dialled
//! when the rules are replaced serves its request and is not kept afterwards. One that was dialled
//! under a lease serves requests of that lease alone, and ends with it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Version;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use interceptor_policy::{Deny, Host, Reason, Scheme};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::answer::{Driving, Leased};
use super::body::Outgoing;
use super::forgiving::Forgiving;
use super::h1::H1;
pub(crate) use super::h1::SendError;
pub(crate) use super::key::{Generation, Overlay, PoolKey, Presenting};
use super::{Terms, Upstream, UpstreamError, Wire};
use crate::metrics::{Handshake, SandboxMetrics, Side};
use crate::tls::client::watched;
use crate::tls::refusal::{self, HandshakeContext};

/// How long to keep an idle connection; most origins keep theirs for 60 s or longer.
const IDLE: Duration = Duration::from_secs(30);
/// The maximum of idle HTTP/1.1 connections per destination.
const MOST_PER_KEY: usize = 64;
/// The maximum of idle connections in total.
const MOST_IDLE: usize = 512;
/// Time limit for the handshake with an origin after TCP connects.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The send buffer of one HTTP/2 stream.
const SEND_BUFFER: usize = 256 * 1024;
/// HTTP/2 flow-control windows for origins (RFC 9113 section 5.2).
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// This many unread responses can exhaust their connection's window and block all others.
pub(crate) const MOST_UNREAD: usize = (CONNECTION_WINDOW / STREAM_WINDOW) as usize;

/// Why connecting to an origin failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Resolving, guarding or dialling failed.
    #[error(transparent)]
    Dial(#[from] UpstreamError),
    /// The TLS handshake failed, or the certificate is not acceptable.
    #[error("{0}")]
    Tls(String),
    /// The origin supports none of the offered HTTP versions.
    #[error("it speaks neither HTTP/1.1 nor HTTP/2")]
    NoCommonVersion,
    /// The HTTP connection could not be set up.
    #[error("the origin closed the connection before it could be used")]
    Http(#[from] hyper::Error),
    /// The handshake took too long.
    #[error("the origin did not complete its handshake within {HANDSHAKE:?}")]
    Timeout,
}

impl ConnectError {
    /// The `type` of the refusal.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            ConnectError::Dial(error) => error.reason(),
            ConnectError::Tls(_) | ConnectError::NoCommonVersion => Reason::UpstreamTls,
            ConnectError::Http(_) => Reason::UpstreamProtocol,
            ConnectError::Timeout => Reason::UpstreamTimeout,
        }
    }

    /// The policy's refusal, if it refused an address.
    pub(crate) fn denied(&self) -> Option<&Deny> {
        match self {
            ConnectError::Dial(error) => error.deny(),
            _ => None,
        }
    }
}

/// A connection to send one request on.
#[derive(Debug)]
enum Sender {
    H1(Box<H1>),
    H2(http2::SendRequest<Outgoing>),
}

/// A connection taken from the pool, or a new one.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: Sender,
    /// The address that it leads to; `None` if a proxy resolved the name.
    pub address: Option<SocketAddr>,
    /// Whether it has carried a request before, so that the origin may have closed it meanwhile.
    pub used: bool,
    /// Whether the origin requested a client certificate.
    pub asked_for_certificate: bool,
}

/// An HTTP/1.1 connection in use. Returned to the pool once its response is read to the end,
/// otherwise closed.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    idle: Idle,
}

impl Leased for Lease {
    fn driven(&mut self) -> Option<&mut H1> {
        Some(&mut *self.idle.sender).filter(|connection| connection.is_driven())
    }

    fn give_back(mut self) {
        if !self.idle.sender.has_ended() {
            self.idle.since = Instant::now();
            self.pool.put(self.idle);
        }
    }
}

/// A response's body, which gives its connection back to the pool at its end.
pub(crate) type Answer = Driving<Lease>;

#[derive(Debug)]
struct Idle {
    sender: Box<H1>,
    key: PoolKey,
    address: Option<SocketAddr>,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<Outgoing>,
    address: Option<SocketAddr>,
    since: Instant,
}

#[derive(Debug)]
struct PoolState {
    /// The current rules' generation: connections of others are neither kept nor handed out.
    generation: Generation,
    idle: HashMap<PoolKey, VecDeque<Idle>>,
    count: usize,
    shared: HashMap<PoolKey, Shared>,
    /// Locks held while dialling an HTTP/2 connection, so that others wait instead of opening their
    /// own.
    dialling: HashMap<PoolKey, Arc<tokio::sync::Mutex<()>>>,
    /// Origins known to support only one HTTP version.
    only: HashMap<(Host, u16), Version>,
    /// Nothing was here to expire, and [`Pool::occupied`] waits until something is.
    is_at_rest: bool,
}

impl PoolState {
    fn new(generation: Generation) -> PoolState {
        PoolState {
            generation,
            idle: HashMap::new(),
            count: 0,
            shared: HashMap::new(),
            dialling: HashMap::new(),
            only: HashMap::new(),
            is_at_rest: false,
        }
    }
}

/// The maximum number of such origins remembered.
const MOST_REMEMBERED: usize = 4096;

/// The connection pool of one sandbox.
#[derive(Debug)]
pub(crate) struct Pool {
    upstream: Upstream,
    metrics: Arc<SandboxMetrics>,
    state: Mutex<PoolState>,
    occupied: Notify,
}

impl Pool {
    /// An empty pool for this generation of rules.
    pub(crate) fn new(
        generation: Generation,
        upstream: Upstream,
        metrics: Arc<SandboxMetrics>,
    ) -> Arc<Pool> {
        let state = Mutex::new(PoolState::new(generation));
        Arc::new(Pool { upstream, metrics, state, occupied: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // After a panic, the pool is at worst miscounted and closes connections earlier.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a usable connection from the pool.
    pub(crate) fn take(&self, key: &PoolKey, h2: bool) -> Option<Connection> {
        let mut state = self.lock();
        if key.generation() != state.generation {
            return None;
        }
        if h2 && let Some(shared) = state.shared.get_mut(key) {
            if !shared.sender.is_closed() {
                shared.since = Instant::now();
                let (sender, address) = (Sender::H2(shared.sender.clone()), shared.address);
                self.metrics.pool_reused();
                return Some(Connection {
                    sender,
                    address,
                    used: true,
                    asked_for_certificate: false,
                });
            }
            state.shared.remove(key);
            self.gauge(&state);
        }
        drop(state);
        // The most recently used one is the least likely to be closed.
        while let Some(mut idle) = self.pop(key) {
            if idle.since.elapsed() < IDLE && idle.sender.is_ready() {
                self.metrics.pool_reused();
                return Some(Connection {
                    sender: Sender::H1(idle.sender),
                    address: idle.address,
                    used: true,
                    asked_for_certificate: false,
                });
            }
        }
        None
    }

    fn pop(&self, key: &PoolKey) -> Option<Idle> {
        let mut state = self.lock();
        if key.generation() != state.generation {
            return None;
        }
        let popped = state.idle.get_mut(key)?.pop_back();
        match &popped {
            Some(_) => state.count -= 1,
            None => drop(state.idle.remove(key)),
        }
        self.gauge(&state);
        popped
    }

    /// Whether the pool probably has a connection for a request.
    pub(crate) fn has(&self, key: &PoolKey, h2: bool) -> bool {
        let state = self.lock();
        (h2 && state.shared.get(key).is_some_and(|shared| !shared.sender.is_closed()))
            || state.idle.get(key).is_some_and(|queue| !queue.is_empty())
    }

    fn put(&self, idle: Idle) {
        let mut state = self.lock();
        let is_over = idle.key.generation() != state.generation || idle.key.is_over();
        if is_over || state.count >= MOST_IDLE {
            return;
        }
        let queue = state.idle.entry(idle.key.clone()).or_default();
        if queue.len() < MOST_PER_KEY {
            queue.push_back(idle);
            state.count += 1;
        }
        self.wake(&mut state);
        self.gauge(&state);
    }

    /// Returns once there is a connection that may expire.
    pub(crate) async fn occupied(&self) {
        let is_empty = {
            let mut state = self.lock();
            state.is_at_rest =
                state.count == 0 && state.shared.is_empty() && state.dialling.is_empty();
            state.is_at_rest
        };
        if is_empty {
            self.occupied.notified().await;
        }
    }

    /// Ends the wait for a connection.
    fn wake(&self, state: &mut PoolState) {
        if std::mem::take(&mut state.is_at_rest) {
            self.occupied.notify_one();
        }
    }

    /// Closes connections idle for too long, and those of leases that have ended. Call every few
    /// seconds.
    pub(crate) fn expire(&self) {
        let mut state = self.lock();
        let PoolState { idle, count, shared, dialling, .. } = &mut *state;
        idle.retain(|key, queue| {
            let (before, is_over) = (queue.len(), key.is_over());
            queue.retain_mut(|idle| {
                !is_over && idle.since.elapsed() < IDLE && !idle.sender.is_closed()
            });
            *count -= before - queue.len();
            !queue.is_empty()
        });
        // Open streams hold their own handles; a connection ends with its last one.
        shared.retain(|key, shared| {
            !key.is_over() && shared.since.elapsed() < IDLE && !shared.sender.is_closed()
        });
        dialling.retain(|_, lock| Arc::strong_count(lock) > 1);
        self.gauge(&state);
    }

    /// Closes every pooled connection, since the rules changed.
    pub(crate) fn renew(&self, generation: Generation) {
        let mut state = self.lock();
        // With concurrent replacements, the later one wins.
        if generation > state.generation {
            let is_at_rest = state.is_at_rest;
            *state = PoolState { is_at_rest, ..PoolState::new(generation) };
        }
        self.gauge(&state);
    }

    /// Shares an HTTP/2 connection.
    fn share(
        &self,
        key: &PoolKey,
        sender: http2::SendRequest<Outgoing>,
        address: Option<SocketAddr>,
    ) {
        let mut state = self.lock();
        if key.generation() == state.generation {
            state.shared.insert(key.clone(), Shared { sender, address, since: Instant::now() });
            self.wake(&mut state);
            self.gauge(&state);
        }
    }

    /// Reports the number of pooled connections. HTTP/2 ones count even while in use.
    fn gauge(&self, state: &PoolState) {
        self.metrics.pool_idle(state.count + state.shared.len());
    }

    /// A connection for a request, pooled or new.
    pub(crate) async fn get(
        self: &Arc<Pool>,
        terms: Terms<'_>,
        key: &PoolKey,
        h2: bool,
    ) -> Result<Connection, ConnectError> {
        if let Some(connection) = self.take(key, h2) {
            return Ok(connection);
        }
        let h2 = self.speaks(key, h2);
        if !h2 {
            return Box::pin(self.dial(terms, key, false)).await;
        }
        let lock = {
            let mut state = self.lock();
            self.wake(&mut state);
            state.dialling.entry(key.clone()).or_default().clone()
        };
        let _dialling = lock.lock().await;
        // The previous lock holder may have dialled one, or learned that the origin lacks HTTP/2.
        if let Some(connection) = self.take(key, true) {
            return Ok(connection);
        }
        Box::pin(self.dial(terms, key, self.speaks(key, true))).await
    }

    /// A new connection for a request that failed on a pooled one.
    pub(crate) async fn renewed(
        self: &Arc<Pool>,
        terms: Terms<'_>,
        key: &PoolKey,
        h2: bool,
    ) -> Result<Connection, ConnectError> {
        Box::pin(self.dial(terms, key, self.speaks(key, h2))).await
    }

    /// Whether to offer HTTP/2: as wanted, unless the origin is known to support only the other
    /// version.
    fn speaks(&self, key: &PoolKey, wanted_h2: bool) -> bool {
        if key.scheme == Scheme::Http {
            return false;
        }
        match self.lock().only.get(&(key.host.clone(), key.port)) {
            Some(version) => *version == Version::HTTP_2,
            None => wanted_h2,
        }
    }

    fn remember(&self, key: &PoolKey, version: Version) {
        let mut state = self.lock();
        if state.only.len() >= MOST_REMEMBERED {
            state.only.clear();
        }
        state.only.insert((key.host.clone(), key.port), version);
    }

    /// Dials a new connection, and shares it if it uses HTTP/2.
    pub(crate) async fn dial(
        self: &Arc<Pool>,
        terms: Terms<'_>,
        key: &PoolKey,
        h2: bool,
    ) -> Result<Connection, ConnectError> {
        let (sender, address, asked_for_certificate) = match self.handshake(terms, key, h2).await {
            // The origin lacks HTTP/1.1 (RFC 7301 section 3.2): use HTTP/2, whatever the sandbox
            // uses.
            Err(ConnectError::NoCommonVersion) if !h2 => {
                self.remember(key, Version::HTTP_2);
                self.handshake(terms, key, true).await?
            }
            shaken => shaken?,
        };
        match &sender {
            Sender::H2(sender) => self.share(key, sender.clone(), address),
            Sender::H1(_) if h2 => self.remember(key, Version::HTTP_11),
            Sender::H1(_) => {}
        }
        self.metrics.pool_opened();
        Ok(Connection { sender, address, used: false, asked_for_certificate })
    }

    async fn handshake(
        &self,
        terms: Terms<'_>,
        key: &PoolKey,
        h2: bool,
    ) -> Result<(Sender, Option<SocketAddr>, bool), ConnectError> {
        let dialed = self.upstream.connect(terms, key.scheme, &key.host, key.port).await?;
        let stream = Forgiving::new(dialed.stream);
        let handshake = async {
            match key.scheme {
                Scheme::Http => Ok((h1_sender(stream).await?, false)),
                Scheme::Https => Self::tls(terms, stream, key, h2).await,
            }
        };
        let shaken = tokio::time::timeout(HANDSHAKE, handshake).await;
        if key.scheme == Scheme::Https {
            let end = match &shaken {
                Ok(Ok(_)) => Handshake::Done,
                Ok(Err(_)) => Handshake::Failed,
                Err(_) => Handshake::TimedOut,
            };
            self.metrics.handshake(Side::Origin, end);
        }
        let (sender, asked) = shaken.map_err(|_| ConnectError::Timeout)??;
        Ok((sender, dialed.address, asked))
    }

    /// The connection, and whether the origin requested a client certificate.
    async fn tls(
        terms: Terms<'_>,
        stream: Forgiving<Wire>,
        key: &PoolKey,
        h2: bool,
    ) -> Result<(Sender, bool), ConnectError> {
        let name = match &key.host {
            Host::Name(name) => ServerName::try_from(name.as_str().to_owned()).map_err(|_| {
                ConnectError::Tls(format!("`{}` cannot be written in a certificate", key.host))
            })?,
            Host::Ip(address) => ServerName::from(*address),
        };
        let tls = key.tls().unwrap_or(&terms.road.tls);
        let config = if h2 { tls.h2() } else { tls.h1() };
        let (stream, asked) =
            watched(TlsConnector::from(config.clone()).connect(name, stream)).await;
        let attempt = HandshakeContext {
            governed: key.is_governed(),
            asked_for_certificate: asked,
            presented: key.presents(),
        };
        let stream = stream.map_err(|error| explain(&error, attempt))?;
        let negotiated_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if negotiated_h2 {
            return Ok((h2_sender(stream).await?, asked));
        }
        Ok((h1_sender(stream).await?, asked))
    }

    /// Keeps a connection that was not dialled.
    pub(crate) async fn adopt<S>(
        &self,
        key: PoolKey,
        stream: S,
        address: Option<SocketAddr>,
        h2: bool,
    ) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let sender = if h2 { h2_sender(stream).await? } else { h1_sender(stream).await? };
        match sender {
            Sender::H1(mut sender) => {
                sender.ready().await?;
                self.put(Idle { sender, key, address, since: Instant::now() });
            }
            Sender::H2(sender) => self.share(&key, sender, address),
        }
        Ok(())
    }

    /// Sends a request. Its connection is used again once the response is read to the end.
    ///
    /// # Errors
    /// Tells whether the request may be retried on another connection.
    pub(crate) async fn send(
        self: &Arc<Pool>,
        connection: Connection,
        key: &PoolKey,
        request: http::Request<Outgoing>,
    ) -> Result<http::Response<Answer>, SendError> {
        match connection.sender {
            Sender::H1(mut sender) => {
                let response = sender.send(request, connection.used).await?;
                let (key, address) = (key.clone(), connection.address);
                let idle = Idle { sender, key, address, since: Instant::now() };
                let lease = Lease { pool: self.clone(), idle };
                Ok(response.map(|body| Answer::new(body, Some(lease))))
            }
            Sender::H2(mut sender) => match sender.try_send_request(request).await {
                Ok(response) => Ok(response.map(|body| Answer::new(body, None))),
                Err(mut failed) => {
                    let unsent = failed.take_message();
                    Err(SendError { error: failed.into_error(), unsent, stale: false })
                }
            },
        }
    }
}

impl Connection {
    /// Whether it uses HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::H2(_))
    }
}

/// Begins HTTP/1.1 on a connection.
async fn h1_sender<S>(stream: S) -> hyper::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Ok(Sender::H1(Box::new(H1::handshake(stream).await?)))
}

/// Begins HTTP on a connection.
async fn h2_sender<S>(stream: S) -> hyper::Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(64 * 1024)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .handshake(TokioIo::new(stream))
        .await?;
    // Ends when the last sender is dropped: the pool's and those of open streams.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    Ok(Sender::H2(sender))
}

/// Explains a failed TLS handshake.
fn explain(error: &io::Error, attempt: HandshakeContext) -> ConnectError {
    use rustls::{AlertDescription, Error};
    tracing::debug!(%error, "a TLS handshake with an origin failed");
    match refusal::of_io(error) {
        Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            ConnectError::NoCommonVersion
        }
        _ => ConnectError::Tls(refusal::words(error, attempt)),
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
