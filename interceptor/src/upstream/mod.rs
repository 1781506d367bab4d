//! Resolve, guard, dial, pool.
//!
//! Connects to origins. Names are resolved here, by the host's own configuration or the operator's
//! `--resolve`, never by the sandbox. The policy judges each address, and only judged addresses are
//! dialled. Each sandbox has its own [`Upstream`], so that no other sandbox can tell which names it
//! has resolved (attack K23).

mod answer;
mod attempts;
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
mod proxy;
#[cfg(test)]
mod proxy_tests;
mod resolve;
mod road;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tests;
mod wire;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{Record, RecordType};
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};

use dial::DialError;
pub use error::UpstreamError;
use interceptor_policy::{Host, HostName, Policy, ProxyUrl, Scheme, is_localhost};
pub use overrides::{Override, OverrideError, Overrides};
pub use proxy::ProxyProblem;
use proxy::TunnelEnd;
pub use resolve::{Existence, LookupFailure, NameServers};
use resolve::{ResolveError, Resolver};
pub(crate) use road::{Authorization, AuthorizationValue, ProxyServer, Road, Terms};
pub(crate) use wire::Wire;

/// Time limit for connecting, including the lookup.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for an upstream proxy, once it is connected to: it has to connect too.
const PROXY_TIMEOUT: Duration = Duration::from_secs(20);
/// How many addresses of a host a proxy is asked for.
const MOST_TUNNELS: usize = 3;

/// How to reach origins.
#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// The operator's `--resolve`.
    pub overrides: Overrides,
    /// The name servers for everything else.
    pub name_servers: NameServers,
    /// Time limit for connecting, including the lookup. Default: 10 s.
    pub connect_timeout: Duration,
    /// Time limit for the answers of an upstream proxy. Default: 20 s.
    pub proxy_timeout: Duration,
}

impl Default for UpstreamOptions {
    fn default() -> UpstreamOptions {
        UpstreamOptions {
            overrides: Overrides::default(),
            name_servers: NameServers::System,
            connect_timeout: CONNECT_TIMEOUT,
            proxy_timeout: PROXY_TIMEOUT,
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
    proxy_timeout: Duration,
}

/// A connection to an origin: TCP, with Nagle's algorithm off and keep-alive on, or a tunnel.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// The connection.
    pub(crate) stream: Wire,
    /// The address that was judged and dialled; `None` if a proxy resolved the name.
    pub(crate) address: Option<SocketAddr>,
}

impl Upstream {
    /// Reads the host's configuration once. Never fails: without a usable name server, lookups
    /// return an error.
    pub fn new(options: UpstreamOptions) -> Upstream {
        Upstream(Arc::new(Inner {
            overrides: Arc::new(options.overrides),
            resolver: Resolver::new(&options.name_servers),
            connect_timeout: options.connect_timeout,
            proxy_timeout: options.proxy_timeout,
        }))
    }

    /// A copy with the same configuration and its own cache.
    #[must_use]
    pub fn separate(&self) -> Upstream {
        Upstream(Arc::new(Inner {
            overrides: Arc::clone(&self.0.overrides),
            resolver: self.0.resolver.separate(),
            connect_timeout: self.0.connect_timeout,
            proxy_timeout: self.0.proxy_timeout,
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

    /// Connects to `host`: resolves it, judges every address, and dials those that the policy
    /// permits, alternating families (RFC 8305). An address literal is judged and dialled directly.
    /// A name of this host itself is not resolved: it stands for loopback.
    /// With a proxy on the road, the proxy is asked for a tunnel to such an address instead. The
    /// policy must already have permitted `host`.
    pub(crate) async fn connect(
        &self,
        terms: Terms<'_>,
        scheme: Scheme,
        host: &Host,
        port: u16,
    ) -> Result<Dialed, UpstreamError> {
        let Terms { policy, road } = terms;
        let limit = self.0.connect_timeout;
        let deadline = Instant::now() + limit;
        let timeout = || UpstreamError::Timeout { host: host.to_string(), port, limit };
        let proxy = road.proxy(scheme, host, port);
        if let (Some(proxy), Some(name)) = (proxy, host.name())
            && road.proxy_resolves
            && self.0.overrides.addresses(name.as_str(), port).is_empty()
        {
            if is_localhost(name) {
                guard::permitted(policy, host, port, vec![Ipv4Addr::LOCALHOST.into()])?;
            }
            return self.tunnel(proxy, road, &[TunnelEnd::Name(name, port)]).await;
        }
        let addresses = match timeout_at(deadline, self.addresses(policy, host, port)).await {
            Ok(addresses) => addresses?,
            Err(_) => return Err(UpstreamError::LookupTimeout { host: host.to_string() }),
        };
        if let Some(proxy) = proxy.filter(|_| !road.is_direct(&addresses)) {
            let (four, six): (Vec<_>, Vec<_>) =
                addresses.into_iter().partition(SocketAddr::is_ipv4);
            // Few proxies have IPv6, and none says so before it is asked.
            let ends: Vec<_> = four.into_iter().chain(six).map(TunnelEnd::Address).collect();
            return self.tunnel(proxy, road, &ends).await;
        }
        match dial::dial(addresses, deadline.saturating_duration_since(Instant::now())).await {
            Ok((stream, address)) => {
                Ok(Dialed { stream: Wire::Tcp(stream), address: Some(address) })
            }
            Err(DialError::Timeout) => Err(timeout()),
            Err(DialError::Failed(attempts)) => {
                Err(UpstreamError::Unreachable { host: host.to_string(), attempts })
            }
        }
    }

    /// A tunnel by a proxy to the first of these ends that it can reach.
    async fn tunnel(
        &self,
        proxy: &ProxyServer,
        road: &Road,
        ends: &[TunnelEnd<'_>],
    ) -> Result<Dialed, UpstreamError> {
        let deadline = Instant::now() + self.0.connect_timeout + self.0.proxy_timeout;
        let mut problem = ProxyProblem::Closed;
        for end in ends.iter().take(MOST_TUNNELS) {
            match self.ask(proxy, road, *end, deadline).await {
                Ok(stream) => {
                    let address = match end {
                        TunnelEnd::Address(address) => Some(*address),
                        TunnelEnd::Name(..) => None,
                    };
                    return Ok(Dialed { stream, address });
                }
                Err(failed) => problem = failed,
            }
            if !matches!(problem, ProxyProblem::Unable(_)) {
                break;
            }
        }
        tracing::debug!(proxy = %proxy.url, %problem, "an upstream proxy opened no tunnel");
        Err(UpstreamError::Proxy { proxy: proxy.url.to_string(), problem })
    }

    /// Asks a proxy for a tunnel.
    async fn ask(
        &self,
        proxy: &ProxyServer,
        road: &Road,
        end: TunnelEnd<'_>,
        deadline: Instant,
    ) -> Result<Wire, ProxyProblem> {
        let url = &proxy.url;
        let limit = self.0.connect_timeout;
        let found = timeout_at(deadline, self.proxy_addresses(url)).await;
        let addresses = found.map_err(|_| ProxyProblem::Timeout(limit))??;
        let left = limit.min(deadline.saturating_duration_since(Instant::now()));
        let stream = match dial::dial(dial::interleave(addresses), left).await {
            Ok((stream, _)) => stream,
            Err(DialError::Timeout) => return Err(ProxyProblem::Timeout(limit)),
            Err(DialError::Failed(attempts)) => return Err(ProxyProblem::Unreachable(attempts)),
        };
        let limit = self.0.proxy_timeout;
        let asked = async {
            let mut wire = match url.scheme {
                Scheme::Http => Wire::Tcp(stream),
                Scheme::Https => proxy::secure(stream, server_name(url)?, road.tls.h1()).await?,
            };
            let authorization = match &proxy.auth {
                Some(auth) => auth.value().await,
                None => None,
            };
            proxy::connect(&mut wire, end, authorization).await?;
            Ok::<_, ProxyProblem>(wire)
        };
        let deadline = deadline.min(Instant::now() + limit);
        timeout_at(deadline, asked).await.unwrap_or(Err(ProxyProblem::Timeout(limit)))
    }

    /// The addresses of a proxy. The operator names it, so that they are not judged.
    async fn proxy_addresses(&self, url: &ProxyUrl) -> Result<Vec<SocketAddr>, ProxyProblem> {
        let instead = self.0.overrides.addresses_of_exactly(&url.host.to_string(), url.port);
        if !instead.is_empty() {
            return Ok(instead);
        }
        let found = match &url.host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                let words = |error| match error {
                    ResolveError::NoSuchName => "its name does not exist (NXDOMAIN)".to_owned(),
                    ResolveError::NoAddresses => "its name has no address".to_owned(),
                    ResolveError::Timeout => "no name server answered in time".to_owned(),
                    ResolveError::Failed(problem) => problem,
                };
                let found = self.0.resolver.addresses(name.as_str()).await;
                found.map_err(|error| ProxyProblem::Lookup(words(error)))?
            }
        };
        Ok(found.into_iter().map(|address| SocketAddr::new(address, url.port)).collect())
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

/// The name in the certificate of a proxy.
fn server_name(url: &ProxyUrl) -> Result<ServerName<'static>, ProxyProblem> {
    const PROBLEM: &str = "has a name that cannot be written in a certificate";
    match &url.host {
        Host::Name(name) => {
            let name = ServerName::try_from(name.as_str().to_owned());
            name.map_err(|_| ProxyProblem::Tls(PROBLEM))
        }
        Host::Ip(address) => Ok(ServerName::from(*address)),
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
