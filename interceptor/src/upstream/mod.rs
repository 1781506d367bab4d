//! Resolve, guard, dial, pool.
//!
//! Connects to origins. Names are resolved here, by the host's own configuration or the operator's
//! `--resolve`, never by the sandbox. The policy judges each address, and only judged addresses are
//! dialled. Each sandbox has its own [`Upstream`], so that no other sandbox can tell which names it
//! has resolved (attack K23).

mod answer;
mod bell;
pub(crate) mod body;
mod dial;
mod error;
mod forgiving;
mod guard;
mod h1;
mod key;
mod overrides;
pub(crate) mod pool;
mod resolve;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{Record, RecordType};
use tokio::net::TcpStream;
use tokio::time::Instant;

use dial::DialError;
pub use error::UpstreamError;
use interceptor_policy::{Host, HostName, Policy};
pub use overrides::{Override, OverrideError, Overrides};
pub use resolve::{Existence, LookupFailure, NameServers};
use resolve::{ResolveError, Resolver};

/// Time limit for connecting, including the lookup.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach origins.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// The operator's `--resolve`.
    pub overrides: Overrides,
    /// The name servers for everything else.
    pub name_servers: NameServers,
    /// Time limit for connecting, including the lookup. Default: 10 s.
    pub connect_timeout: Duration,
}

impl Default for UpstreamOptions {
    fn default() -> UpstreamOptions {
        UpstreamOptions {
            overrides: Overrides::default(),
            name_servers: NameServers::System,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }
}

/// Connects to origins. Clones share one resolver and its cache.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    overrides: Arc<Overrides>,
    resolver: Resolver,
    connect_timeout: Duration,
}

/// A connection to an origin: TCP, with Nagle's algorithm off and keep-alive on.
#[derive(Debug)]
pub struct Dialed {
    /// The connection.
    pub stream: TcpStream,
    /// The address that was judged and dialled.
    pub address: SocketAddr,
}

impl Upstream {
    /// Reads the host's configuration once. Never fails: without a usable name server, lookups
    /// return an error.
    pub fn new(options: UpstreamOptions) -> Upstream {
        Upstream(Arc::new(Inner {
            overrides: Arc::new(options.overrides),
            resolver: Resolver::new(&options.name_servers),
            connect_timeout: options.connect_timeout,
        }))
    }

    /// A copy with the same configuration and its own cache.
    #[must_use]
    pub fn separate(&self) -> Upstream {
        Upstream(Arc::new(Inner {
            overrides: Arc::clone(&self.0.overrides),
            resolver: self.0.resolver.separate(),
            connect_timeout: self.0.connect_timeout,
        }))
    }

    /// Whether `name` is known without a name server: the operator overrides some port of it, or it
    /// stands for this host.
    pub(crate) fn is_known(&self, name: &HostName) -> bool {
        name.is_own_host() || self.0.overrides.has(name.as_str())
    }

    /// Whether a name exists; a known one does. This queries a name server, so call it only
    /// for names that the policy may permit.
    pub async fn exists(&self, name: &HostName) -> Existence {
        if self.is_known(name) {
            return Existence::Yes;
        }
        self.0.resolver.exists(name.as_str()).await
    }

    /// A name's records of one type. This queries a name server, so call it only for names that the
    /// policy may permit.
    pub(crate) async fn records(&self, name: &HostName, kind: RecordType) -> Records {
        match self.0.resolver.records(name.as_str(), kind).await {
            Ok(records) => Records::Found(records),
            Err(ResolveError::NoAddresses) => Records::Found(Vec::new()),
            Err(ResolveError::NoSuchName) => Records::NoSuchName,
            Err(ResolveError::Timeout) => Records::Unknown(LookupFailure::Timeout),
            Err(ResolveError::Failed(_)) => Records::Unknown(LookupFailure::Failed),
        }
    }

    /// Connects to `host`: resolves it, judges every address, and dials those that `policy`
    /// permits, alternating families (RFC 8305). An address literal is judged and dialled directly.
    /// A name of this host itself is not resolved: it stands for loopback.
    /// The policy must already have permitted `host`.
    pub async fn connect(
        &self,
        policy: &Policy,
        host: &Host,
        port: u16,
    ) -> Result<Dialed, UpstreamError> {
        let limit = self.0.connect_timeout;
        let deadline = Instant::now() + limit;
        let timeout = || UpstreamError::Timeout { host: host.to_string(), port, limit };
        let addresses =
            match tokio::time::timeout_at(deadline, self.addresses(policy, host, port)).await {
                Ok(addresses) => addresses?,
                Err(_) => return Err(UpstreamError::LookupTimeout { host: host.to_string() }),
            };
        match dial::dial(addresses, deadline.saturating_duration_since(Instant::now())).await {
            Ok((stream, address)) => Ok(Dialed { stream, address }),
            Err(DialError::Timeout) => Err(timeout()),
            Err(DialError::Failed(attempts)) => {
                Err(UpstreamError::Unreachable { host: host.to_string(), attempts })
            }
        }
    }

    /// The addresses of `host` that may be dialled, in the order to dial them; never empty.
    async fn addresses(
        &self,
        policy: &Policy,
        host: &Host,
        port: u16,
    ) -> Result<Vec<SocketAddr>, UpstreamError> {
        if host.is_own_host() {
            let overrides = self.0.overrides.addresses_of_exactly(&host.to_string(), port);
            let addresses = if overrides.is_empty() { loopback(port) } else { overrides };
            // Its rule permits what loopback is refused for otherwise.
            return guard::overridden(policy, host, port, addresses);
        }
        let instead = self.0.overrides.addresses(&host.to_string(), port);
        if !instead.is_empty() {
            return guard::overridden(policy, host, port, instead).map(dial::interleave);
        }
        let found = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                self.0.resolver.addresses(name.as_str()).await.map_err(|error| {
                    let host = name.to_string();
                    match error {
                        ResolveError::NoSuchName => UpstreamError::NoSuchName { host },
                        ResolveError::NoAddresses => UpstreamError::NoAddresses { host },
                        ResolveError::Timeout => UpstreamError::LookupTimeout { host },
                        ResolveError::Failed(problem) => UpstreamError::Lookup { host, problem },
                    }
                })?
            }
        };
        guard::permitted(policy, host, port, found).map(dial::interleave)
    }
}

/// Where services of this host listen.
fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("overrides", &self.0.overrides).finish_non_exhaustive()
    }
}

/// The result of [`Upstream::records`].
pub(crate) enum Records {
    /// The name exists, with these records, possibly none.
    Found(Vec<Record>),
    /// The name does not exist.
    NoSuchName,
    /// The lookup failed.
    Unknown(LookupFailure),
}
