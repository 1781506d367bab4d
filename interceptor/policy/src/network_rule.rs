//! One network rule: a CIDR, an address, a name, `*.name` or `*`, each with an optional port, and
//! preceded by `tcp://` if it also permits protocols that are neither HTTP nor TLS.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::canonical_net;
use super::host::{self, Host, HostError, HostName};

/// The target of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `*`: any host, names and addresses alike.
    Any,
    /// One name.
    Name(HostName),
    /// `*.name`: every name below it at any depth, but not the name itself.
    Below(HostName),
    /// An address or a network. It never matches a name, and a name never matches an address.
    Net(IpNet),
}

/// A network rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkRule {
    /// Its target.
    pub target: Target,
    /// The only port it applies to; `None` for all.
    pub port: Option<u16>,
    /// `tcp://`: it also permits protocols that are neither HTTP nor TLS.
    pub tcp: bool,
}

/// Why a text is not a network rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The text is empty.
    #[error("a network rule is empty; write a host name, `*.example.com`, an address or a CIDR")]
    Empty,
    /// A scheme other than `tcp://`.
    #[error(
        "the only scheme a network rule can have is `tcp://`; write the host alone \
         (`api.example.com` or `api.example.com:443`)"
    )]
    Scheme,
    /// A path after the host, or an invalid CIDR.
    #[error(
        "this is neither a CIDR (`10.0.0.0/8`, `fd00::/8`) nor a host; paths belong to `endpoints`"
    )]
    Cidr,
    /// A star other than `*` alone or `*.` before a name.
    #[error("a wildcard is either `*` alone or `*.` before a name (`*.example.com`)")]
    Wildcard,
    /// A leading dot.
    #[error("a name cannot begin with a dot; write `*.example.com` for every name below it")]
    LeadingDot,
    /// The host is invalid.
    #[error("{0}")]
    Host(HostError),
}

impl NetworkRule {
    /// Reads a rule. Also returns a warning if it is accepted but not what it seems.
    ///
    /// # Errors
    /// If it is not a rule; see [`RuleError`].
    pub fn parse(text: &str) -> Result<(NetworkRule, Option<&'static str>), RuleError> {
        let (tcp, rest) = match text.strip_prefix("tcp://") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if rest.is_empty() {
            return Err(RuleError::Empty);
        }
        if rest.contains("://") {
            return Err(RuleError::Scheme);
        }
        let (host, prefix, port) = split(rest)?;
        let (target, note) = match prefix {
            Some(prefix) => cidr(host, prefix)?,
            None => target(host)?,
        };
        Ok((NetworkRule { target, port, tcp }, note))
    }

    /// Whether it is `0.0.0.0/0`, `::/0` or `*`, without a port. As a deny rule it refuses
    /// everything that no allow rule matches. With a port it is an ordinary rule.
    pub fn is_catch_all(&self) -> bool {
        self.port.is_none()
            && match &self.target {
                Target::Any => true,
                Target::Net(net) => net.prefix_len() == 0,
                Target::Name(_) | Target::Below(_) => false,
            }
    }
}

/// Splits a rule into host (without brackets), prefix length and port.
fn split(text: &str) -> Result<(&str, Option<&str>, Option<u16>), RuleError> {
    let port = |text: &str| host::parse_port(text).map_err(RuleError::Host);
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, behind) = rest.split_once(']').ok_or(RuleError::Host(HostError::Ipv6))?;
        if !inside.contains(':') {
            return Err(RuleError::Host(HostError::Ipv6));
        }
        // People write both `[fd00::/8]:443` and `[fd00::]/8:443`.
        let (inside, mut prefix) = match inside.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (inside, None),
        };
        let (before, port) = match behind.split_once(':') {
            Some((before, digits)) => (before, Some(port(digits)?)),
            None => (behind, None),
        };
        match before.strip_prefix('/') {
            Some(length) if prefix.is_none() => prefix = Some(length),
            None if before.is_empty() => {}
            _ => return Err(RuleError::Host(HostError::Ipv6)),
        }
        return Ok((inside, prefix, port));
    }
    if text.matches(':').count() > 1 {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        return Ok((address, prefix, None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, digits)) if !digits.contains('/') => (host, Some(port(digits)?)),
        Some(_) => return Err(RuleError::Cidr),
        None => (text, None),
    };
    match host.split_once('/') {
        Some((address, prefix)) => Ok((address, Some(prefix), port)),
        None => Ok((host, None, port)),
    }
}

fn cidr(address: &str, prefix: &str) -> Result<(Target, Option<&'static str>), RuleError> {
    let address: IpAddr = address.parse().map_err(|_| RuleError::Cidr)?;
    if prefix.is_empty() || prefix.len() > 3 || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(RuleError::Cidr);
    }
    let length = prefix.parse().map_err(|_| RuleError::Cidr)?;
    let net = IpNet::new(address, length).map_err(|_| RuleError::Cidr)?;
    let note = (net.trunc().addr() != net.addr())
        .then_some("the address has host bits set; the rule covers the whole network");
    Ok((Target::Net(canonical_net(net)), note))
}

fn target(host: &str) -> Result<(Target, Option<&'static str>), RuleError> {
    if host == "*" {
        return Ok((Target::Any, None));
    }
    let (below, name) = match host.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, host),
    };
    if name.contains('*') {
        return Err(RuleError::Wildcard);
    }
    if name.starts_with('.') {
        return Err(RuleError::LeadingDot);
    }
    match Host::parse_rule(name).map_err(RuleError::Host)? {
        Host::Name(parsed) => {
            let note =
                (!name.is_ascii()).then_some("the name is compared in its ASCII form (`xn--…`)");
            Ok((if below { Target::Below(parsed) } else { Target::Name(parsed) }, note))
        }
        Host::Ip(_) if below => Err(RuleError::Wildcard),
        Host::Ip(address) => {
            let note = name
                .parse::<IpAddr>()
                .is_err()
                .then_some("the address is not in its canonical form; it is compared by value");
            Ok((Target::Net(IpNet::from(address)), note))
        }
    }
}
