//! How every interceptor of the host knows where pages are, so that none of them dials one for its
//! sandbox: whoever serves a page holds an abstract unix socket (unix(7)) that is named after the
//! address. The kernel removes the name with the process.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};

/// The name of a page, while it is held.
#[derive(Debug)]
pub(super) struct Claim(UnixDatagram);

impl Claim {
    /// Holds the name of an address.
    ///
    /// # Errors
    /// If somebody else does.
    pub(super) fn make(address: SocketAddr) -> io::Result<Claim> {
        UnixDatagram::bind_addr(&name(address)?).map(Claim)
    }

    /// Holds the name that another process holds.
    pub(super) fn inherit(socket: UnixDatagram) -> Claim {
        Claim(socket)
    }
}

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn name(address: SocketAddr) -> io::Result<UnixAddress> {
    UnixAddress::from_abstract_name(format!("interceptor-page {address}"))
}

/// Whether an interceptor serves a page at the address that is dialled. In doubt, it does.
pub(crate) fn is_page(address: SocketAddr) -> bool {
    // Dialling no address is dialling this host.
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    if !ip.is_loopback() {
        return false;
    }
    let address = SocketAddr::new(ip, address.port());
    let asked = || UnixDatagram::unbound()?.connect_addr(&name(address)?);
    asked().err().is_none_or(|error| error.kind() != io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_known_by_every_way_to_its_address_and_gone_with_its_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), address.port());
        assert!(!is_page(address));
        let claim = Claim::make(address).unwrap();
        Claim::make(address).unwrap_err();
        for ip in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert!(is_page(at(ip)), "{ip}");
        }
        for ip in ["127.0.0.2", "::1", "::", "192.0.2.1"] {
            assert!(!is_page(at(ip)), "{ip}");
        }
        drop(claim);
        assert!(!is_page(address));
    }
}
