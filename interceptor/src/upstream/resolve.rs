//! Resolves names by the host's configuration: `/etc/hosts`, then the name servers in
//! `/etc/resolv.conf`.
//!
//! Search domains are ignored. A single-label name is looked up only in the hosts file: a public
//! name server's answer would not be what the sandbox meant. Both files are read once. Answers,
//! including that a name does not exist, are cached for their TTL, in a bounded cache.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time::timeout;

/// Time limit for a query, including all attempts.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for one attempt, so that a second fits.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long to wait for IPv6 addresses once IPv4 addresses arrive ("Resolution Delay", RFC 8305
/// section 3).
const IPV6_DELAY: Duration = Duration::from_millis(50);
/// The maximum number of cached answers.
const CACHED: u64 = 8192;
/// The maximum time to cache an answer, whatever its TTL.
const KEEP_AT_MOST: Duration = Duration::from_secs(3600);
/// The maximum time to cache a negative answer.
const KEEP_NOTHING_AT_MOST: Duration = Duration::from_secs(60);
/// Maximum addresses considered per name and family; more is suspicious.
const ADDRESSES: usize = 16;

/// The name servers to query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NameServers {
    /// Those of the host's `/etc/resolv.conf`, after its `/etc/hosts`.
    #[default]
    System,
    /// These, without the hosts file.
    These(Vec<SocketAddr>),
}

/// Whether a name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It exists, with or without addresses.
    Yes,
    /// It does not exist (NXDOMAIN).
    No,
    /// The lookup failed.
    Unknown(LookupFailure),
}

/// Why a lookup failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFailure {
    /// No name server answered in time.
    Timeout,
    /// No name server is reachable, or one returned an error.
    Failed,
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResolveError {
    /// It does not exist.
    NoSuchName,
    /// It exists but has no address.
    NoAddresses,
    /// No name server answered in time.
    Timeout,
    /// The query failed or returned an error.
    Failed(String),
}

pub(super) struct Resolver {
    /// The client, or why there is none. Made for the first query: its cache alone takes 30 KiB,
    /// and many a sandbox is idle.
    client: OnceLock<Result<TokioResolver, String>>,
    /// The client's configuration, to create another without rereading the host's files.
    config: Arc<Result<(ResolverConfig, ResolverOpts), String>>,
    hosts: Arc<Hosts>,
}

impl Resolver {
    /// Reads the configuration. If there is none, or it is unusable, every query fails with that
    /// error.
    pub(super) fn new(servers: &NameServers) -> Resolver {
        let (config, hosts) = match servers {
            NameServers::System => {
                let config = hickory_resolver::system_conf::read_system_conf()
                    .map_err(|error| format!("no usable name server: /etc/resolv.conf: {error}"));
                // A missing hosts file is normal.
                (config, Hosts::from_system().unwrap_or_default())
            }
            NameServers::These(servers) if servers.is_empty() => {
                (Err("no usable name server: none is configured".to_owned()), Hosts::default())
            }
            NameServers::These(servers) => {
                let servers = servers.iter().map(name_server).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                (Ok((config, ResolverOpts::default())), Hosts::default())
            }
        };
        let config = config.map(|(config, found)| (config, options(found)));
        Resolver { client: OnceLock::new(), config: Arc::new(config), hosts: Arc::new(hosts) }
    }

    /// A copy for the same servers with an empty cache.
    pub(super) fn separate(&self) -> Resolver {
        Resolver {
            client: OnceLock::new(),
            config: Arc::clone(&self.config),
            hosts: Arc::clone(&self.hosts),
        }
    }

    /// The addresses of `name`, both families.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let name = absolute(name)?;
        let (four, six) = (self.ask(&name, RecordType::A), self.ask(&name, RecordType::AAAA));
        let (mut four, mut six) = (pin!(four), pin!(six));
        let (four, six) = tokio::select! {
            // Wait only briefly for IPv6: some name servers never answer for it.
            answer = &mut four => match answer {
                Ok(found) => {
                let six = timeout(IPV6_DELAY, six).await;
                (Ok(found), six.unwrap_or(Err(ResolveError::Timeout)))
            }
                Err(error) => (Err(error), six.await),
            },
            answer = &mut six => (four.await, answer),
        };
        match (four, six) {
            (Err(four), Err(six)) => Err(worse(four, six)),
            (four, six) => {
                let addresses: Vec<IpAddr> = [four, six]
                    .into_iter()
                    .flatten()
                    .flat_map(|records| records.into_iter().filter_map(address).take(ADDRESSES))
                    .collect();
                if addresses.is_empty() { Err(ResolveError::NoAddresses) } else { Ok(addresses) }
            }
        }
    }

    /// Whether `name` exists.
    pub(super) async fn exists(&self, name: &str) -> Existence {
        // One type suffices: NXDOMAIN applies to the name as a whole.
        match async { self.ask(&absolute(name)?, RecordType::A).await }.await {
            Ok(_) | Err(ResolveError::NoAddresses) => Existence::Yes,
            Err(ResolveError::NoSuchName) => Existence::No,
            Err(ResolveError::Timeout) => Existence::Unknown(LookupFailure::Timeout),
            Err(ResolveError::Failed(_)) => Existence::Unknown(LookupFailure::Failed),
        }
    }

    /// The records of one type, with the CNAMEs that lead to them.
    pub(super) async fn records(
        &self,
        name: &str,
        kind: RecordType,
    ) -> Result<Vec<Record>, ResolveError> {
        self.ask(&absolute(name)?, kind).await
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, ResolveError> {
        let local = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        if let Some(found) = local(kind) {
            return Ok(found.answers().to_vec());
        }
        // A name in the hosts file has only the addresses listed there.
        if local(RecordType::A).is_some() || local(RecordType::AAAA).is_some() {
            return Err(ResolveError::NoAddresses);
        }
        if name.num_labels() < 2 {
            return Err(ResolveError::NoSuchName);
        }
        let client = self.client.get_or_init(|| client(&self.config));
        let client = client.as_ref().map_err(|problem| ResolveError::Failed(problem.clone()))?;
        match timeout(TIMEOUT, client.lookup(name.clone(), kind)).await {
            Ok(Ok(found)) => Ok(found.answers().to_vec()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ResolveError::Timeout),
        }
    }
}

impl From<NetError> for ResolveError {
    fn from(error: NetError) -> ResolveError {
        match error {
            _ if error.is_nx_domain() => ResolveError::NoSuchName,
            _ if error.is_no_records_found() => ResolveError::NoAddresses,
            NetError::Timeout => ResolveError::Timeout,
            NetError::NoConnections => {
                ResolveError::Failed("no name server is reachable".to_owned())
            }
            NetError::Dns(DnsError::ResponseCode(code)) => {
                ResolveError::Failed(format!("the name server returned {code}"))
            }
            other => ResolveError::Failed(other.to_string()),
        }
    }
}

fn client(
    config: &Result<(ResolverConfig, ResolverOpts), String>,
) -> Result<TokioResolver, String> {
    let (config, options) = config.clone()?;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| format!("no usable name server: {error}"))
}

/// The configured options, within our limits.
fn options(found: ResolverOpts) -> ResolverOpts {
    let mut options = found;
    options.timeout = options.timeout.clamp(Duration::from_millis(100), ATTEMPT);
    options.attempts = options.attempts.clamp(1, 2);
    options.cache_size = CACHED;
    options.positive_max_ttl = Some(KEEP_AT_MOST);
    options.negative_max_ttl = Some(KEEP_NOTHING_AT_MOST);
    // We read the hosts file ourselves.
    options.use_hosts_file = ResolveHosts::Never;
    options.edns0 = true;
    options
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(
        address.ip(),
        true,
        vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())],
    )
}

/// The name as an absolute one, without search domains.
fn absolute(name: &str) -> Result<Name, ResolveError> {
    let mut name =
        Name::from_ascii(name).map_err(|error| ResolveError::Failed(error.to_string()))?;
    name.set_fqdn(true);
    Ok(name)
}

fn address(record: Record) -> Option<IpAddr> {
    match record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

/// The more informative of two failures: one family may merely lack addresses.
fn worse(one: ResolveError, other: ResolveError) -> ResolveError {
    match (one, other) {
        (ResolveError::NoAddresses, other) => other,
        (one, ResolveError::NoAddresses) => one,
        (ResolveError::NoSuchName, _) | (_, ResolveError::NoSuchName) => ResolveError::NoSuchName,
        (one, _) => one,
    }
}
