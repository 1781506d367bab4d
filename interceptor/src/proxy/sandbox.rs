//! One sandbox in user space: its rules, its authority, its names, its pool, its limits, and the tasks that serve it.
//! Dropping it drops all of that; nothing of it is reachable from another sandbox (SPEC 10.4).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::live::Live;
use super::{Destinations, Listeners, Runtime};
use crate::accept;
use crate::audit::{Audit, Record};
use crate::credential::Keyring;
use crate::dns::{self, DnsOptions, DnsServer, Names};
use crate::policy::{Limits, Policy};
use crate::tls::TlsError;
use crate::tls::authority::Authority;
use crate::tls::client::ClientConfigs;
use crate::tls::server::ServerConfigs;
use crate::upstream::Upstream;
use crate::upstream::pool::Pool;

/// How often idle connections to origins are looked over.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// How long connections may take to end when a sandbox stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its certificate authority or TLS configuration failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What requests are judged by: replaced as one value, so that no request sees the policy of one and the keys of another.
#[derive(Debug)]
pub struct Rules {
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// Its real keys and their placeholders.
    pub keyring: Arc<Keyring>,
}

/// One sandbox in user space.
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) id: Arc<str>,
    rules: Arc<ArcSwap<Rules>>,
    /// With a cache of its own.
    pub(crate) upstream: Upstream,
    pub(crate) audit: Audit,
    pub(crate) names: Arc<Names>,
    pub(crate) dns: Arc<DnsServer>,
    pub(crate) certificates: ServerConfigs,
    pub(crate) pool: Arc<Pool>,
    /// One permit a connection.
    pub(crate) connections: Arc<Semaphore>,
    /// One permit a request in progress.
    pub(crate) requests: Arc<Semaphore>,
    /// What was sent to each host.
    pub(crate) budget: Budget,
    /// What is open.
    pub(crate) live: Arc<Live>,
    pub(crate) tasks: TaskTracker,
    stop: CancellationToken,
}

impl Sandbox {
    /// Makes the sandbox's authority, tables and pool.
    ///
    /// # Errors
    /// When keys or certificates cannot be made.
    pub fn new(
        runtime: &Arc<Runtime>,
        id: &str,
        policy: Policy,
        keyring: Keyring,
    ) -> Result<Arc<Sandbox>, ProxyError> {
        let id: Arc<str> = id.into();
        let limits = policy.limits();
        let certificates =
            ServerConfigs::new(Authority::new(&id)?, limits.mints_per_second, limits.mints_burst)?;
        let upstream = runtime.upstream.separate();
        let pool = Pool::new(upstream.clone(), ClientConfigs::new(runtime.verifier.clone())?);
        let connections = permits(limits.connections);
        let requests = permits(limits.requests);
        let rules =
            Arc::new(ArcSwap::from_pointee(Rules { policy: Arc::new(policy), keyring: Arc::new(keyring) }));
        let names = Arc::new(Names::new());
        let dns = DnsServer::new(DnsOptions {
            sandbox: id.clone(),
            names: names.clone(),
            rules: Arc::new(Shared(rules.clone())),
            upstream: upstream.clone(),
            audit: runtime.audit.clone(),
            ipv6: true,
        });
        Ok(Arc::new(Sandbox {
            dns,
            id,
            rules,
            upstream,
            audit: runtime.audit.clone(),
            names,
            certificates,
            pool,
            connections,
            requests,
            budget: Budget::default(),
            live: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// The public certificate of the sandbox's authority, PEM.
    pub fn ca_pem(&self) -> &str {
        self.certificates.ca_pem()
    }

    /// The rules of this moment: to be loaded once per request.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Replaces policy and keys at once: requests under way end by the rules they began with, each new one is judged by
    /// the new. Connections kept to origins are closed.
    pub fn replace(&self, policy: Policy, keyring: Keyring) {
        self.rules.store(Arc::new(Rules { policy: Arc::new(policy), keyring: Arc::new(keyring) }));
        self.live.relax();
        self.pool.clear();
    }

    /// Closes the connections that the rules of this moment would not permit; says how many those are.
    pub fn close_forbidden(&self) -> usize {
        self.live.close_forbidden(&self.rules().policy)
    }

    /// The ceilings of this moment.
    pub fn limits(&self) -> Limits {
        *self.rules().policy.limits()
    }

    /// The keys of this moment.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.rules().keyring.clone()
    }

    /// Cancelled when the sandbox stops.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves the sandbox's listeners in tasks of the current runtime, until [`Serving::shutdown`] or its drop.
    ///
    /// # Errors
    /// When a socket cannot be registered with the runtime.
    pub fn serve(
        self: &Arc<Self>,
        listeners: Listeners,
        destinations: Arc<dyn Destinations>,
    ) -> io::Result<Serving> {
        let token: Arc<str> = listeners.self_test_token.into();
        for listener in [Some(listeners.tcp4), listeners.tcp6].into_iter().flatten() {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            self.tasks.spawn(accept::listen(self.clone(), listener, destinations.clone(), token.clone()));
        }
        for socket in [Some(listeners.dns4), listeners.dns6].into_iter().flatten() {
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket)?;
            let (dns, stop) = (self.dns.clone(), self.stopping());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = dns.serve_udp(socket) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        let (pool, stop) = (self.pool.clone(), self.stopping());
        self.tasks.spawn(async move {
            let mut tick = tokio::time::interval(HOUSEKEEPING);
            loop {
                tokio::select! {
                    _ = tick.tick() => pool.expire(),
                    () = stop.cancelled() => return,
                }
            }
        });
        self.audit.emit(Record::lifecycle(&self.id, "sandbox_started"));
        Ok(Serving { sandbox: self.clone() })
    }
}

/// The rules as the resolver of names sees them.
struct Shared(Arc<ArcSwap<Rules>>);

impl dns::Rules for Shared {
    fn policy(&self) -> Arc<Policy> {
        self.0.load().policy.clone()
    }

    fn carries_placeholder(&self, name: &str) -> bool {
        self.0.load().keyring.in_name(name)
    }
}

fn permits(most: u64) -> Arc<Semaphore> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
}

/// A sandbox that is being served; dropping it stops that.
#[derive(Debug)]
pub struct Serving {
    sandbox: Arc<Sandbox>,
}

impl Serving {
    /// The sandbox.
    pub fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    /// Closes every connection, waits until their records are written to the audit queue, and records the end.
    pub async fn shutdown(self) {
        self.sandbox.stop.cancel();
        self.sandbox.tasks.close();
        if tokio::time::timeout(FAREWELL, self.sandbox.tasks.wait()).await.is_err() {
            tracing::warn!(sandbox = %self.sandbox.id, "some connections did not end in time");
        }
        self.sandbox.pool.clear();
        self.sandbox.audit.emit(Record::lifecycle(&self.sandbox.id, "sandbox_stopped"));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.sandbox.stop.cancel();
        self.sandbox.tasks.close();
    }
}
