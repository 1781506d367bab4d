//! One sandbox in user space: its rules, its authority, its names, its pool, its limits, and the tasks that serve it.
//! Dropping it drops all of that; nothing of it is reachable from another sandbox.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use interceptor_policy::{Host, Limits, Policy};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Budget;
use super::echoes::Echoes;
use super::live::Live;
use super::pace::Pace;
use super::quota::Quota;
use super::refusals::Recorded;
use super::warned::Warned;
use super::{Accept, Runtime, Serving};
use crate::audit::{Audit, Record};
use crate::credential::Keyring;
use crate::dns::{self, DnsOptions, DnsServer, Names};
use crate::logging::{self, KeptOut};
use crate::metrics::SandboxMetrics;
use crate::seam::{Destinations, HalfOpen, Listeners, Refusals};
use crate::tls::TlsError;
use crate::tls::authority::Authority;
use crate::tls::client::ClientConfigs;
use crate::tls::server::ServerConfigs;
use crate::upstream::Upstream;
use crate::upstream::pool::{Generation, Pool};

/// How often idle connections to origins are looked over.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Why a sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its certificate authority or TLS configuration failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Another process handed it over with something amiss.
    #[error("the other process handed over an invalid {what}")]
    Handed {
        /// What it is.
        what: &'static str,
    },
}

/// What requests are judged by: replaced as one value, so that no request sees the policy of one and the keys of another.
#[derive(Debug)]
pub struct Rules {
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// Its real keys and their placeholders.
    pub keyring: Arc<Keyring>,
    pub(crate) generation: Generation,
    /// Its keys are kept out of the log as long as it exists: while it is in force, and for requests that began with it.
    _kept_out: Option<KeptOut>,
}

impl Rules {
    pub(crate) fn new(policy: Policy, keyring: Keyring) -> Rules {
        let generation = Generation::next();
        let keyring = Arc::new(keyring);
        let kept_out = logging::keep_out(&keyring);
        Rules { policy: Arc::new(policy), keyring, generation, _kept_out: kept_out }
    }
}

/// What a sandbox keeps for its life, also from one process to the next.
pub(super) struct Kept {
    pub(super) authority: Authority,
    pub(super) names: Names,
    pub(super) budget: Budget,
}

impl Kept {
    fn new(id: &str) -> Result<Self, TlsError> {
        Ok(Kept { authority: Authority::new(id)?, names: Names::new(), budget: Budget::default() })
    }
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
    /// The operator's own roots, PEM.
    operator_roots: Arc<str>,
    pub(crate) pool: Arc<Pool>,
    /// One place a connection.
    pub(crate) connections: Quota,
    /// One place a request in progress.
    pub(crate) requests: Quota,
    /// What was sent to each host.
    pub(crate) budget: Budget,
    /// What is open.
    pub(crate) live: Arc<Live>,
    /// Its answers that held a key.
    pub(crate) echoes: Arc<Echoes>,
    /// How fast it is refused.
    pub(crate) refusals: Arc<Pace>,
    /// Which hosts' certificates its clients did not accept.
    pub(crate) distrust: Warned,
    pub(crate) metrics: Arc<SandboxMetrics>,
    pub(crate) tasks: TaskTracker,
    stop: CancellationToken,
    drain: CancellationToken,
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
        Self::with(runtime, id, policy, keyring, Kept::new(id)?)
    }

    /// As [`Sandbox::new`], around an authority, a table of names and accounts that may have been another process's.
    pub(super) fn with(
        runtime: &Arc<Runtime>,
        id: &str,
        policy: Policy,
        keyring: Keyring,
        kept: Kept,
    ) -> Result<Arc<Sandbox>, ProxyError> {
        let id: Arc<str> = id.into();
        let limits = *policy.limits();
        let metrics = runtime.metrics().sandbox(&id);
        register(&runtime.audit, &id, &limits, &metrics);
        let certificates =
            ServerConfigs::new(kept.authority, limits.mints_per_second, limits.mints_burst, metrics.clone())?;
        let upstream = runtime.upstream.separate();
        let rules = Arc::new(Rules::new(policy, keyring));
        let configs = ClientConfigs::new(runtime.verifier.clone())?;
        let pool = Pool::new(rules.generation, upstream.clone(), configs, metrics.clone());
        let connections = Quota::new(limits.connections);
        let requests = Quota::new(limits.requests);
        let rules = Arc::new(ArcSwap::new(rules));
        let names = Arc::new(kept.names);
        let refusals = Arc::new(Pace::new());
        let dns = DnsServer::new(DnsOptions {
            sandbox: id.clone(),
            names: names.clone(),
            rules: Arc::new(Shared { rules: rules.clone(), refusals: refusals.clone() }),
            upstream: upstream.clone(),
            audit: runtime.audit.clone(),
            ipv6: true,
            metrics: metrics.clone(),
        });
        Ok(Arc::new(Sandbox {
            dns,
            id,
            rules,
            upstream,
            audit: runtime.audit.clone(),
            names,
            certificates,
            operator_roots: runtime.verifier.given_pem(),
            pool,
            connections,
            requests,
            budget: kept.budget,
            live: Arc::default(),
            echoes: Arc::default(),
            refusals,
            distrust: Warned::default(),
            metrics,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            drain: CancellationToken::new(),
        }))
    }

    /// The public certificate of the sandbox's authority, PEM.
    pub fn ca_pem(&self) -> &str {
        self.certificates.ca_pem()
    }

    /// What its clients are to trust beside the system's roots, PEM: its authority, then the
    /// operator's own roots, since TLS that is tunnelled unopened is verified inside.
    pub fn trust_pem(&self) -> String {
        [self.ca_pem(), &self.operator_roots].concat()
    }

    /// The rules of this moment: to be loaded once per request.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Replaces policy and keys at once: requests under way end by the rules they began with, each new one is judged by
    /// the new. Connections kept to origins are closed.
    pub fn replace(&self, policy: Policy, keyring: Keyring) {
        let limits = policy.limits();
        self.connections.set(limits.connections);
        self.requests.set(limits.requests);
        self.certificates.set_rate(limits.mints_per_second, limits.mints_burst);
        register(&self.audit, &self.id, limits, &self.metrics);
        let rules = Arc::new(Rules::new(policy, keyring));
        let generation = rules.generation;
        self.rules.store(rules);
        self.live.relax();
        self.pool.renew(generation);
    }

    /// Closes the connections that the rules of this moment would not permit; says how many those are.
    pub fn close_forbidden(&self) -> usize {
        self.live.close_forbidden(&self.rules().policy)
    }

    /// The ceilings of this moment.
    pub fn limits(&self) -> Limits {
        *self.rules().policy.limits()
    }

    /// Which rules are those of this moment.
    pub(crate) fn generation(&self) -> Generation {
        self.rules().generation
    }

    /// The keys of this moment.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.rules().keyring.clone()
    }

    /// Has the sandbox's half-open connections reported among what is counted.
    pub fn watch_half_open(&self, gauge: Box<dyn HalfOpen>) {
        self.metrics.watch_half_open(gauge);
    }

    /// What records the refusals of the kernel's programs among this sandbox's audit records.
    pub fn refusals(self: &Arc<Self>) -> Arc<dyn Refusals> {
        Arc::new(Recorded(Arc::clone(self)))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Has `name` stand for the sandbox itself: what its own host is called, where it has one of its
    /// own. A name that is no host name is nobody's.
    pub fn name_itself(&self, name: &str) {
        if let Ok(Host::Name(name)) = Host::parse(name) {
            self.dns.set_own_name(name);
        }
    }

    /// Records that the kernel's programs are no longer all at work.
    pub fn enforcement_lost(&self) {
        self.audit.emit(Record::lifecycle(&self.id, "enforcement_lost"));
    }

    /// Cancelled when the sandbox stops.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when another process serves the sandbox and this one ends what is under way.
    pub(crate) fn draining(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Ends every connection.
    pub(super) fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Has connections end when what is under way on them is done.
    pub(super) fn drain(&self) {
        self.drain.cancel();
        self.tasks.close();
    }

    /// Serves the sandbox's listeners in tasks of the current runtime, until [`Serving::shutdown`] or its drop.
    ///
    /// # Errors
    /// When a socket cannot be registered with the runtime.
    pub fn serve(
        self: &Arc<Self>,
        listeners: Listeners,
        destinations: Arc<dyn Destinations>,
        accept: Accept,
    ) -> io::Result<Serving> {
        let serving = Serving::begin(self, listeners, destinations, accept)?;
        self.audit.emit(Record::lifecycle(&self.id, "sandbox_started"));
        Ok(serving)
    }

    /// Looks over the idle connections to origins until the sandbox stops.
    pub(super) fn keep_house(&self) {
        let (pool, stop, drain) = (self.pool.clone(), self.stopping(), self.draining());
        self.tasks.spawn(async move {
            let mut tick = tokio::time::interval(HOUSEKEEPING);
            loop {
                tokio::select! {
                    _ = tick.tick() => pool.expire(),
                    () = stop.cancelled() => return,
                    () = drain.cancelled() => return,
                }
            }
        });
    }
}

/// The rules as the resolver of names sees them.
struct Shared {
    rules: Arc<ArcSwap<Rules>>,
    refusals: Arc<Pace>,
}

impl dns::Rules for Shared {
    fn policy(&self) -> Arc<Policy> {
        self.rules.load().policy.clone()
    }

    fn carries_placeholder(&self, name: &str) -> bool {
        self.rules.load().keyring.in_name(name)
    }

    fn refusal_turn(&self) -> Duration {
        self.refusals.turn()
    }
}

/// Gives the sandbox its own share of the audit queue.
fn register(audit: &Audit, id: &Arc<str>, limits: &Limits, metrics: &SandboxMetrics) {
    let backlog = usize::try_from(limits.audit_backlog).unwrap_or(usize::MAX);
    audit.register(id, backlog, metrics.audit_dropped());
}
