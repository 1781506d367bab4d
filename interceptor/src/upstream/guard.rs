//! Which of the addresses that a host resolved to may be dialled.
//!
//! A name that is permitted can be made to point anywhere by whoever owns it. So every address is judged, each time, and
//! only those that were judged are dialled: an answer that changes between the check and the dial has no effect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use interceptor_policy::{Deny, Filter, Host, Policy, Reason};

use super::UpstreamError;

/// Those of `addresses` that the policy permits; when it permits none, why it refuses the first.
pub(super) fn permitted(
    policy: &Policy,
    host: &Host,
    port: u16,
    addresses: Vec<IpAddr>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let judge = |address| {
        policy.decide_address(host, address, port).and_then(|()| not_own(policy, host, address, port))
    };
    keep(addresses.into_iter().map(|address| SocketAddr::new(address.to_canonical(), port)), judge)
}

/// The same for addresses that the operator gave (`--resolve`): special-purpose ones are what such an override is for, so
/// only a deny rule that names the address, at the port the sandbox asked for, refuses it.
pub(super) fn overridden(
    policy: &Policy,
    host: &Host,
    port: u16,
    addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let judge = |address| match policy.decide_address(host, address, port) {
        Err(deny) if deny.rule.is_some() => Err(deny),
        _ => Ok(()),
    };
    keep(addresses.into_iter(), judge)
}

fn keep(
    addresses: impl Iterator<Item = SocketAddr>,
    judge: impl Fn(IpAddr) -> Result<(), Deny>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let mut refused = None;
    let mut permitted = Vec::new();
    for address in addresses {
        match judge(address.ip()) {
            Ok(()) => permitted.push(address),
            Err(deny) => {
                refused.get_or_insert((address.ip(), deny));
            }
        }
    }
    match refused {
        Some((address, deny)) if permitted.is_empty() => {
            Err(UpstreamError::AddressDenied { address, deny: Box::new(deny) })
        }
        _ => Ok(permitted),
    }
}

/// Refuses the addresses of this host itself, public ones included: behind them stand services that trust whoever is near.
/// An allow rule that names the address permits it, as for the special-purpose ones.
pub(super) fn not_own(policy: &Policy, host: &Host, address: IpAddr, port: u16) -> Result<(), Deny> {
    if !is_own(address) || policy.allows_address(address, port) {
        return Ok(());
    }
    Err(Deny {
        reason: Reason::HostDenied,
        status: Reason::HostDenied.status(),
        filter: Filter::Network,
        rule: None,
        credential: None,
        message: format!(
            "{host} port {port} was refused by the network policy: it resolves to {address}, which belongs to the host \
             that runs the interceptor; an allow rule that names the address would permit it"
        ),
        nearest: None,
    })
}

/// Whether this host would answer at `address`. The routing table knows: to reach an address of one's own, that address
/// itself is the source. Connecting a UDP socket looks the route up and sends nothing.
pub(super) fn is_own(address: IpAddr) -> bool {
    let unspecified = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let route = || {
        let socket = UdpSocket::bind((unspecified, 0))?;
        socket.connect((address, 9))?;
        socket.local_addr()
    };
    // Without a route it is nobody's, and dialling it will fail.
    route().is_ok_and(|source| source.ip() == address)
}
