//! The sockets that receive redirected traffic, bound inside the sandbox's network namespace.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

/// The accept backlog; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Receive buffer for DNS queries that arrive while the proxy is busy, in bytes.
const DNS_RECEIVE_BUFFER: usize = 1 << 20;

/// The sockets of one sandbox. Both IPv6 sockets exist, or neither.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Redirected TCP over IPv4.
    pub(crate) tcp4: TcpListener,
    /// Redirected DNS over UDP/IPv4.
    pub(crate) dns4: UdpSocket,
    /// The IPv6 counterparts.
    pub(crate) v6: Option<(TcpListener, UdpSocket)>,
    /// Whether the network namespace has no device besides `lo`.
    pub(crate) closed: bool,
}

impl Sockets {
    /// Binds them to free ports on the loopback addresses of this network namespace.
    pub(crate) fn bind(ipv6: bool) -> io::Result<Self> {
        let tcp4 = tcp(Ipv4Addr::LOCALHOST.into())?;
        let dns4 = udp(Ipv4Addr::LOCALHOST.into())?;
        let v6 = if ipv6 {
            Some((tcp(Ipv6Addr::LOCALHOST.into())?, udp(Ipv6Addr::LOCALHOST.into())?))
        } else {
            None
        };
        Ok(Sockets { tcp4, dns4, v6, closed: false })
    }

    /// Their addresses.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let v4 = [self.tcp4.local_addr(), self.dns4.local_addr()];
        let v6 = self.v6.iter().flat_map(|(tcp6, dns6)| [tcp6.local_addr(), dns6.local_addr()]);
        v4.into_iter().chain(v6).filter_map(Result::ok).collect()
    }

    /// Their descriptors, in the order that [`Sockets::from_descriptors`] expects.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.tcp4.as_fd(), self.dns4.as_fd()];
        if let Some((tcp6, dns6)) = &self.v6 {
            all.extend([tcp6.as_fd(), dns6.as_fd()]);
        }
        all
    }

    /// From descriptors sent by another process; `None` unless there are two or four.
    pub(crate) fn from_descriptors(descriptors: Vec<OwnedFd>, closed: bool) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let (tcp4, dns4) = (descriptors.next()?, descriptors.next()?);
        let v6 = match (descriptors.next(), descriptors.next(), descriptors.next()) {
            (None, ..) => None,
            (Some(tcp6), Some(dns6), None) => Some((tcp6.into(), dns6.into())),
            _ => return None,
        };
        Some(Sockets { tcp4: tcp4.into(), dns4: dns4.into(), v6, closed })
    }
}

fn tcp(address: std::net::IpAddr) -> io::Result<TcpListener> {
    let address = SocketAddr::new(address, 0);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn udp(address: std::net::IpAddr) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(address, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel silently caps it at `net.core.rmem_max`, which is enough.
    socket.set_recv_buffer_size(DNS_RECEIVE_BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
