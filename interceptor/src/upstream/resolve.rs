//! Names to addresses, by the host's own configuration: `/etc/hosts`, then the name servers of `/etc/resolv.conf`.
//!
//! Search domains play no part: a name is looked up as it stands, or not at all. A name of a single label is looked up in
//! the hosts file only: whatever a public name server would say of it is not what the sandbox meant. Both files are read
//! once. Answers are cached for their time to live, with a bound; so is the knowledge that a name does not exist.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
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

/// How long one question may take, all attempts together.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long one attempt may take, so that a second fits.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long IPv6 addresses are waited for once IPv4 addresses are there ("Resolution Delay", RFC 8305 section 3).
const IPV6_DELAY: Duration = Duration::from_millis(50);
/// Answers kept.
const CACHED: u64 = 8192;
/// However long an answer says it holds, it is asked for again after this.
const KEEP_AT_MOST: Duration = Duration::from_secs(3600);
/// The same for the answer that there is nothing.
const KEEP_NOTHING_AT_MOST: Duration = Duration::from_secs(60);
/// Addresses of one name and family that are considered; a name with more is one that means no good.
const ADDRESSES: usize = 16;

/// Which name servers answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NameServers {
    /// Those of the host's `/etc/resolv.conf`, after its `/etc/hosts`.
    #[default]
    System,
    /// These, and no hosts file.
    These(Vec<SocketAddr>),
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existence {
    /// It exists, with or without addresses.
    Yes,
    /// A name server says that it does not (NXDOMAIN).
    No,
    /// Nobody who could be asked knows.
    Unknown(LookupFailure),
}

/// Why nobody who could be asked knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFailure {
    /// No name server answered in time.
    Timeout,
    /// No name server could be asked, or one answered with an error.
    Failed,
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResolveError {
    /// It does not exist.
    NoSuchName,
    /// It exists and has neither an IPv4 nor an IPv6 address.
    NoAddresses,
    /// No name server answered in time.
    Timeout,
    /// It could not be asked, or the answer was an error.
    Failed(String),
}

pub(super) struct Resolver {
    /// Or why there is none.
    client: Result<TokioResolver, String>,
    /// What the client was made of, so that another is made without reading the host's files again.
    config: Result<(ResolverConfig, ResolverOpts), String>,
    hosts: Arc<Hosts>,
}

impl Resolver {
    /// Reads the configuration. Where there is none, or none that can be used, every question fails and says so.
    pub(super) fn new(servers: &NameServers) -> Resolver {
        let (config, hosts) = match servers {
            NameServers::System => {
                let config = hickory_resolver::system_conf::read_system_conf()
                    .map_err(|error| format!("no name server can be asked: /etc/resolv.conf: {error}"));
                // A host without a hosts file is an ordinary one.
                (config, Hosts::from_system().unwrap_or_default())
            }
            NameServers::These(servers) if servers.is_empty() => {
                (Err("no name server can be asked: none is configured".to_owned()), Hosts::default())
            }
            NameServers::These(servers) => {
                let servers = servers.iter().map(name_server).collect();
                let config = ResolverConfig::from_parts(None, Vec::new(), servers);
                (Ok((config, ResolverOpts::default())), Hosts::default())
            }
        };
        let config = config.map(|(config, found)| (config, options(found)));
        Resolver { client: client(&config), config, hosts: Arc::new(hosts) }
    }

    /// One that asks the same servers and knows nothing yet.
    pub(super) fn separate(&self) -> Resolver {
        Resolver { client: client(&self.config), config: self.config.clone(), hosts: Arc::clone(&self.hosts) }
    }

    /// The addresses of `name`, both families.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let name = absolute(name)?;
        let (four, six) = (self.ask(&name, RecordType::A), self.ask(&name, RecordType::AAAA));
        let (mut four, mut six) = (pin!(four), pin!(six));
        let (four, six) = tokio::select! {
            // IPv6 is only waited for as long as it would be an advantage: some name servers never answer for it.
            answer = &mut four => match answer {
                Ok(found) => (Ok(found), timeout(IPV6_DELAY, six).await.unwrap_or(Err(ResolveError::Timeout))),
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
        // One type suffices: NXDOMAIN is an answer about the name, whatever was asked for.
        match async { self.ask(&absolute(name)?, RecordType::A).await }.await {
            Ok(_) | Err(ResolveError::NoAddresses) => Existence::Yes,
            Err(ResolveError::NoSuchName) => Existence::No,
            Err(ResolveError::Timeout) => Existence::Unknown(LookupFailure::Timeout),
            Err(ResolveError::Failed(_)) => Existence::Unknown(LookupFailure::Failed),
        }
    }

    /// The records of one type, with what leads to them (CNAME).
    pub(super) async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<Record>, ResolveError> {
        self.ask(&absolute(name)?, kind).await
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Vec<Record>, ResolveError> {
        let local = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        if let Some(found) = local(kind) {
            return Ok(found.answers().to_vec());
        }
        // A name that the hosts file gives an address in one family has none in the other.
        if local(RecordType::A).is_some() || local(RecordType::AAAA).is_some() {
            return Err(ResolveError::NoAddresses);
        }
        if name.num_labels() < 2 {
            return Err(ResolveError::NoSuchName);
        }
        let client = self.client.as_ref().map_err(|problem| ResolveError::Failed(problem.clone()))?;
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
            NetError::NoConnections => ResolveError::Failed("no name server can be reached".to_owned()),
            NetError::Dns(DnsError::ResponseCode(code)) => {
                ResolveError::Failed(format!("the name server answers {code}"))
            }
            other => ResolveError::Failed(other.to_string()),
        }
    }
}

fn client(config: &Result<(ResolverConfig, ResolverOpts), String>) -> Result<TokioResolver, String> {
    let (config, options) = config.clone()?;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| format!("no name server can be asked: {error}"))
}

/// The options that were found, within our bounds.
fn options(found: ResolverOpts) -> ResolverOpts {
    let mut options = found;
    options.timeout = options.timeout.clamp(Duration::from_millis(100), ATTEMPT);
    options.attempts = options.attempts.clamp(1, 2);
    options.cache_size = CACHED;
    options.positive_max_ttl = Some(KEEP_AT_MOST);
    options.negative_max_ttl = Some(KEEP_NOTHING_AT_MOST);
    // The hosts file is read here.
    options.use_hosts_file = ResolveHosts::Never;
    options.edns0 = true;
    options
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(address.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
}

/// The name as it stands, with no search domain to follow.
fn absolute(name: &str) -> Result<Name, ResolveError> {
    let mut name = Name::from_ascii(name).map_err(|error| ResolveError::Failed(error.to_string()))?;
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

/// Of two failures the one that says more: both families are asked, and one may merely have nothing.
fn worse(one: ResolveError, other: ResolveError) -> ResolveError {
    match (one, other) {
        (ResolveError::NoAddresses, other) => other,
        (one, ResolveError::NoAddresses) => one,
        (ResolveError::NoSuchName, _) | (_, ResolveError::NoSuchName) => ResolveError::NoSuchName,
        (one, _) => one,
    }
}
