//! One sandbox in user space: rules, CA, names, pool, limits, and the tasks that serve it. Dropping
//! it drops all of that; no other sandbox can reach any of it.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use interceptor_policy::{Host, HostName, Limits, Policy};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::asking::{Desk, HandedLease};
use super::budget::Budget;
use super::echoes::Echoes;
use super::live::Live;
use super::pace::Pace;
use super::quota::Quota;
use super::tidy::Tidy;
use super::warned::Warned;
use super::{Rules, Runtime};
use crate::audit::{Audit, Record};
use crate::credential::Keyring;
use crate::dns::{self, DnsOptions, DnsServer, Names};
use crate::metrics::SandboxMetrics;
use crate::seam::HalfOpen;
use crate::tls::TlsError;
use crate::tls::ca::Ca;
use crate::tls::server::ServerConfigs;
use crate::upstream::Upstream;
use crate::upstream::pool::{Generation, Pool};

/// How often idle origin connections are checked.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// Maximum incomplete HTTP/2 request heads. Each may take about 2 MB, and ordinary clients rarely
/// send one in several frames.
const MOST_UNFINISHED_HEADS: usize = 64;
/// Maximum of bodies that are read before they are sent: 64 MiB, in permits of 64 KiB.
const MOST_HELD: usize = 1024;

/// Why a sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Creating its CA or TLS configuration failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Another process handed over invalid data.
    #[error("the other process handed over an invalid {what}")]
    Handed {
        /// The invalid part.
        what: &'static str,
    },
}

/// What a sandbox keeps for life, even across processes.
pub(super) struct Durable {
    pub(super) ca: Ca,
    pub(super) names: Names,
    pub(super) budget: Budget,
    pub(super) leases: Vec<HandedLease>,
}

impl Durable {
    fn new(id: &str) -> Result<Self, TlsError> {
        let leases = Vec::new();
        Ok(Durable { ca: Ca::new(id)?, names: Names::new(), budget: Budget::default(), leases })
    }
}

/// One sandbox in user space.
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) id: Arc<str>,
    runtime: Arc<Runtime>,
    rules: Arc<ArcSwap<Rules>>,
    /// The upstream, with a cache of its own.
    pub(crate) upstream: Upstream,
    pub(crate) audit: Audit,
    pub(crate) names: Arc<Names>,
    pub(crate) dns: Arc<DnsServer>,
    pub(crate) certificates: ServerConfigs,
    /// The operator's own roots, PEM, and those of the policy that it began with.
    operator_roots: Arc<str>,
    pub(crate) pool: Arc<Pool>,
    /// One slot per connection.
    pub(crate) connections: Quota,
    /// One slot per request in progress.
    pub(crate) requests: Quota,
    /// One slot per incomplete HTTP/2 request head.
    pub(crate) heads: Arc<Semaphore>,
    /// What bodies that are read before they are sent may hold, in permits of 64 KiB.
    pub(crate) held: Arc<Semaphore>,
    /// What was sent to each host.
    pub(crate) budget: Budget,
    /// What a person is asked, and the leases.
    pub(crate) asking: Arc<Desk>,
    /// Open connections.
    pub(crate) live: Arc<Live>,
    /// Responses that contained a key.
    pub(crate) echoes: Arc<Echoes>,
    /// The pace of refusals.
    pub(crate) refusals: Arc<Pace>,
    /// The hosts whose certificates its clients rejected.
    pub(crate) distrust: Warned,
    pub(crate) metrics: Arc<SandboxMetrics>,
    pub(crate) tasks: TaskTracker,
    pub(crate) tidy: Arc<Tidy>,
    stop: CancellationToken,
    drain: CancellationToken,
}

impl Sandbox {
    /// Creates the sandbox's CA, tables and pool.
    ///
    /// # Errors
    /// If keys or certificates cannot be created.
    pub fn new(
        runtime: &Arc<Runtime>,
        id: &str,
        policy: Policy,
        keyring: Keyring,
    ) -> Result<Arc<Sandbox>, ProxyError> {
        Self::with(runtime, id, policy, keyring, Durable::new(id)?)
    }

    /// As [`Sandbox::new`], with a CA, names and byte counts that may come from another process.
    pub(super) fn with(
        runtime: &Arc<Runtime>,
        id: &str,
        policy: Policy,
        keyring: Keyring,
        kept: Durable,
    ) -> Result<Arc<Sandbox>, ProxyError> {
        let id: Arc<str> = id.into();
        let limits = *policy.limits();
        let metrics = runtime.metrics().sandbox(&id);
        register(&runtime.audit, &id, &limits, &metrics);
        let certificates = ServerConfigs::new(
            kept.ca,
            limits.mints_per_second,
            limits.mints_burst,
            metrics.clone(),
        )?;
        let upstream = runtime.upstream.separate();
        let rules = Arc::new(Rules::new(runtime, policy, keyring)?);
        let operator_roots = rules.given_roots.clone();
        let pool = Pool::new(rules.generation, upstream.clone(), metrics.clone());
        let connections = Quota::new(limits.connections);
        let requests = Quota::new(limits.requests);
        let rules = Arc::new(ArcSwap::new(rules));
        let asking = Desk::new(id.clone(), runtime.audit.clone(), runtime.approvals.clone());
        let restored = asking.restore(kept.leases, &rules.load());
        restored.ok_or(ProxyError::Handed { what: "lease" })?;
        let names = Arc::new(kept.names);
        let refusals = Arc::new(Pace::new());
        let dns = DnsServer::new(DnsOptions {
            sandbox: id.clone(),
            names: names.clone(),
            rules: Arc::new(ResolverRules { rules: rules.clone(), refusals: refusals.clone() }),
            upstream: upstream.clone(),
            audit: runtime.audit.clone(),
            ipv6: true,
            metrics: metrics.clone(),
        });
        Ok(Arc::new(Sandbox {
            dns,
            id,
            runtime: runtime.clone(),
            rules,
            upstream,
            audit: runtime.audit.clone(),
            names,
            certificates,
            operator_roots,
            pool,
            connections,
            requests,
            heads: Arc::new(Semaphore::new(MOST_UNFINISHED_HEADS)),
            held: Arc::new(Semaphore::new(MOST_HELD)),
            budget: kept.budget,
            asking: Arc::new(asking),
            live: Arc::default(),
            echoes: Arc::default(),
            refusals,
            distrust: Warned::default(),
            metrics,
            tasks: TaskTracker::new(),
            tidy: runtime.tidy.clone(),
            stop: CancellationToken::new(),
            drain: CancellationToken::new(),
        }))
    }

    /// The sandbox's CA certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        self.certificates.ca_pem()
    }

    /// What its clients must trust besides the system's roots, PEM: its CA, then the operator's own
    /// roots, because clients themselves verify TLS that is tunnelled unopened.
    pub fn trust_pem(&self) -> String {
        [self.ca_pem(), &self.operator_roots].concat()
    }

    /// The current rules; load them once per request.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Atomically replaces policy and keys: open requests finish under their old rules, new ones
    /// use the new rules. Closes idle origin connections.
    ///
    /// # Errors
    /// If the roots that the policy names cannot be used; nothing has changed then.
    pub fn replace(&self, policy: Policy, keyring: Keyring) -> Result<(), ProxyError> {
        self.put(self.prepare(policy, keyring)?);
        Ok(())
    }

    /// The rules for [`Sandbox::put`].
    ///
    /// # Errors
    /// If the roots that the policy names cannot be used.
    pub(crate) fn prepare(
        &self,
        policy: Policy,
        mut keyring: Keyring,
    ) -> Result<Rules, ProxyError> {
        // Before any request can carry a new key, every open answer is searched for it.
        keyring.join(&self.rules().keyring);
        Ok(Rules::new(&self.runtime, policy, keyring)?)
    }

    /// As [`Sandbox::replace`].
    pub(crate) fn put(&self, rules: Rules) {
        let rules = Arc::new(rules);
        let limits = rules.policy.limits();
        self.connections.set(limits.connections);
        self.requests.set(limits.requests);
        self.certificates.set_rate(limits.mints_per_second, limits.mints_burst);
        register(&self.audit, &self.id, limits, &self.metrics);
        let generation = rules.generation;
        self.asking.prepare(&rules);
        self.rules.store(rules.clone());
        self.asking.rules_changed(&rules);
        self.live.relax();
        self.pool.renew(generation);
    }

    /// Closes connections that the current rules forbid; returns their number.
    pub fn close_forbidden(&self) -> usize {
        self.live.close_forbidden(&self.rules().policy)
    }

    /// The current limits.
    pub fn limits(&self) -> Limits {
        *self.rules().policy.limits()
    }

    /// Identifies the current rules.
    pub(crate) fn generation(&self) -> Generation {
        self.rules().generation
    }

    /// The current keys.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.rules().keyring.clone()
    }

    /// Adds the sandbox's half-open connections to the metrics.
    pub fn watch_half_open(&self, gauge: Box<dyn HalfOpen>) {
        self.metrics.watch_half_open(gauge);
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Makes `name`, the host name of a sandbox that has its own, stand for the sandbox itself. An
    /// invalid host name is ignored.
    pub fn name_itself(&self, name: &str) {
        if let Ok(Host::Name(name)) = Host::parse(name) {
            self.dns.set_own_name(name);
        }
    }

    /// Records that kernel programs are missing.
    pub fn enforcement_lost(&self) {
        self.audit.emit(Record::lifecycle(&self.id, "enforcement_lost"));
    }

    /// Cancelled when the sandbox stops.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Cancelled when another process serves the sandbox and this one drains.
    pub(crate) fn draining(&self) -> CancellationToken {
        self.drain.clone()
    }

    /// Whether another process serves the sandbox now.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Ends every connection.
    pub(super) fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Ends each connection once its current work is done.
    pub(super) fn drain(&self) {
        self.drain.cancel();
        self.tasks.close();
    }

    /// Closes idle origin connections until the sandbox stops.
    pub(super) fn keep_house(&self) {
        let (pool, asking) = (self.pool.clone(), self.asking.clone());
        let (stop, drain) = (self.stopping(), self.draining());
        self.tasks.spawn(async move {
            loop {
                // Without a connection there is no clock either: most sandboxes are idle.
                let turn = async {
                    pool.occupied().await;
                    tokio::time::sleep(HOUSEKEEPING).await;
                };
                tokio::select! {
                    () = turn => {
                        asking.expire_leases();
                        pool.expire();
                    }
                    () = stop.cancelled() => return,
                    () = drain.cancelled() => return,
                }
            }
        });
    }
}

/// The rules as the DNS resolver sees them.
struct ResolverRules {
    rules: Arc<ArcSwap<Rules>>,
    refusals: Arc<Pace>,
}

impl dns::DnsRules for ResolverRules {
    fn policy(&self) -> Arc<Policy> {
        self.rules.load().policy.clone()
    }

    fn resolves_elsewhere(&self, name: &HostName) -> bool {
        self.rules.load().road.resolves_elsewhere(name)
    }

    fn carries_placeholder(&self, name: &str) -> bool {
        self.rules.load().keyring.in_name(name)
    }

    fn refusal_turn(&self) -> Duration {
        self.refusals.turn()
    }
}

/// Gives the sandbox its share of the audit queue.
fn register(audit: &Audit, id: &Arc<str>, limits: &Limits, metrics: &SandboxMetrics) {
    let backlog = usize::try_from(limits.audit_backlog).unwrap_or(usize::MAX);
    audit.register(id, backlog, metrics.audit_dropped());
}
