//! Resolve, guard, dial, pool.
//!
//! The way to an origin. A name is resolved here, by the host's own configuration or the operator's `--resolve`, never by
//! what the sandbox says; each address is judged by the policy; one that was judged is dialled. Each sandbox has an
//! [`Upstream`] of its own: whether a name was asked for before is nobody else's to know (attack K23).

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

use std::net::SocketAddr;
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

/// How long a connection may take, the lookup included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How origins are found.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// The operator's `--resolve`.
    pub overrides: Overrides,
    /// Who is asked for everything else.
    pub name_servers: NameServers,
    /// How long a connection may take, the lookup included. 10 s unless set.
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

/// The way to every origin. Clones share one resolver and its cache.
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
    /// Reads the host's configuration once. It cannot fail: where no name server can be asked, lookups fail and say so.
    pub fn new(options: UpstreamOptions) -> Upstream {
        Upstream(Arc::new(Inner {
            overrides: Arc::new(options.overrides),
            resolver: Resolver::new(&options.name_servers),
            connect_timeout: options.connect_timeout,
        }))
    }

    /// One with the same configuration and a cache of its own.
    #[must_use]
    pub fn separate(&self) -> Upstream {
        Upstream(Arc::new(Inner {
            overrides: Arc::clone(&self.0.overrides),
            resolver: self.0.resolver.separate(),
            connect_timeout: self.0.connect_timeout,
        }))
    }

    /// Whether the operator says where some port of `name` leads.
    pub(crate) fn is_overridden(&self, name: &HostName) -> bool {
        self.0.overrides.has(name.as_str())
    }

    /// Whether a name exists, so that the sandbox is told when it does not. An overridden name does. This asks a name
    /// server: only for names that the policy may permit.
    pub async fn exists(&self, name: &HostName) -> Existence {
        if self.is_overridden(name) {
            return Existence::Yes;
        }
        self.0.resolver.exists(name.as_str()).await
    }

    /// The records of one type that a name has, or none. This asks a name server: only for names that the policy may
    /// permit.
    pub(crate) async fn records(&self, name: &HostName, kind: RecordType) -> Records {
        match self.0.resolver.records(name.as_str(), kind).await {
            Ok(records) => Records::Found(records),
            Err(ResolveError::NoAddresses) => Records::Found(Vec::new()),
            Err(ResolveError::NoSuchName) => Records::NoSuchName,
            Err(ResolveError::Timeout) => Records::Unknown(LookupFailure::Timeout),
            Err(ResolveError::Failed(_)) => Records::Unknown(LookupFailure::Failed),
        }
    }

    /// Connects to `host`: resolves it, judges every address, dials those that `policy` permits, the families in turn
    /// (RFC 8305). An address literal is judged and dialled as it is. The policy must already have permitted `host`.
    pub async fn connect(&self, policy: &Policy, host: &Host, port: u16) -> Result<Dialed, UpstreamError> {
        let limit = self.0.connect_timeout;
        let deadline = Instant::now() + limit;
        let timeout = || UpstreamError::Timeout { host: host.to_string(), port, limit };
        let addresses = match tokio::time::timeout_at(deadline, self.addresses(policy, host, port)).await {
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

    /// The addresses of `host` that may be dialled: at least one.
    async fn addresses(
        &self,
        policy: &Policy,
        host: &Host,
        port: u16,
    ) -> Result<Vec<SocketAddr>, UpstreamError> {
        let instead = self.0.overrides.addresses(&host.to_string(), port);
        if !instead.is_empty() {
            return guard::overridden(policy, host, port, instead);
        }
        let found = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => self.0.resolver.addresses(name.as_str()).await.map_err(|error| {
                let host = name.to_string();
                match error {
                    ResolveError::NoSuchName => UpstreamError::NoSuchName { host },
                    ResolveError::NoAddresses => UpstreamError::NoAddresses { host },
                    ResolveError::Timeout => UpstreamError::LookupTimeout { host },
                    ResolveError::Failed(problem) => UpstreamError::Lookup { host, problem },
                }
            })?,
        };
        guard::permitted(policy, host, port, found)
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("overrides", &self.0.overrides).finish_non_exhaustive()
    }
}

/// What [`Upstream::records`] found.
pub(crate) enum Records {
    /// The name exists and has these, perhaps none.
    Found(Vec<Record>),
    /// The name does not exist.
    NoSuchName,
    /// Nobody who could be asked knows.
    Unknown(LookupFailure),
}
