//! Decides which addresses of a host may be dialled.
//!
//! The owner of a permitted name can point it anywhere. So every address is judged every time, and
//! only judged addresses are dialled: a DNS answer that changes between check and dial has no
//! effect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use interceptor_policy::{Deny, Filter, Host, Policy, Reason};

use super::UpstreamError;
use crate::entrance::is_page;

/// The `addresses` that the policy permits; if none, why it refuses the first.
pub(super) fn permitted(
    policy: &Policy,
    host: &Host,
    port: u16,
    addresses: Vec<IpAddr>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let judge = |address: SocketAddr| {
        policy
            .decide_address(host, address.ip(), port)
            .and_then(|()| not_own(policy, host, address.ip(), port))
    };
    keep(addresses.into_iter().map(|address| SocketAddr::new(address.to_canonical(), port)), judge)
}

/// The same for the operator's `--resolve` addresses, and for loopback under the names of this host
/// itself. These may be special-purpose ones, so only a
/// deny rule that names the address, at the port the sandbox asked for, refuses one.
pub(super) fn overridden(
    policy: &Policy,
    host: &Host,
    port: u16,
    addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let judge = |address: SocketAddr| match policy.decide_address(host, address.ip(), port) {
        Err(deny) if deny.rule.is_some() => Err(deny),
        _ => Ok(()),
    };
    keep(addresses.into_iter(), judge)
}

fn keep(
    addresses: impl Iterator<Item = SocketAddr>,
    judge: impl Fn(SocketAddr) -> Result<(), Deny>,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let mut refused = None;
    let mut permitted = Vec::new();
    for address in addresses {
        match judge(address).and_then(|()| not_a_page(address)) {
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

/// Refuses the host's own addresses, public ones included, because local services may trust local
/// clients. An allow rule that names the address permits it, as for special-purpose ones.
pub(super) fn not_own(
    policy: &Policy,
    host: &Host,
    address: IpAddr,
    port: u16,
) -> Result<(), Deny> {
    if !is_own(address) || policy.allows_address(address, port) {
        return Ok(());
    }
    Err(refused(format!(
        "{host} port {port} was refused by the network policy: it resolves to {address}, \
         which belongs to the host that runs the interceptor; an allow rule that names the \
         address would permit it"
    )))
}

/// Refuses the page of an interceptor, whatever the policy says: it decides about sandboxes.
fn not_a_page(address: SocketAddr) -> Result<(), Deny> {
    if !is_page(address) {
        return Ok(());
    }
    Err(refused(format!(
        "{address} is the page of an interceptor, which no sandbox reaches, whatever its \
         policy allows"
    )))
}

fn refused(message: String) -> Deny {
    Deny {
        reason: Reason::HostDenied,
        status: Reason::HostDenied.status(),
        filter: Filter::Network,
        rule: None,
        credential: None,
        message,
        nearest: None,
    }
}

/// Whether `address` is this host's own. The routing table tells: the source for a local address is
/// that address. Connecting a UDP socket looks up the route without sending.
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
    // Without a route it is not ours, and dialling it will fail.
    route().is_ok_and(|source| source.ip() == address)
}
