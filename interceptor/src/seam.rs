//! What the kernel's half and the user-space half of a sandbox have in common: plain types and traits,
//! so that neither knows the other. Nothing here does anything.

use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;

/// Where the launcher connects, from inside the sandbox, to see that interception works before the command starts:
/// an address nobody has (RFC 2544 space, the last of it), never a synthetic one. The proxy answers with one line, the
/// token given to [`Listeners`], and closes.
pub const SELF_TEST: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(198, 19, 255, 254), 9));

/// The sockets of one sandbox, bound inside its network namespace, members of its cgroup.
#[derive(Debug)]
pub struct Listeners {
    /// Redirected TCP over IPv4.
    pub tcp4: TcpListener,
    /// Redirected TCP over IPv6, where the namespace has IPv6.
    pub tcp6: Option<TcpListener>,
    /// Redirected DNS over UDP/IPv4. (DNS over TCP arrives at the TCP listeners, with port 53 as its destination.)
    pub dns4: UdpSocket,
    /// Redirected DNS over UDP/IPv6.
    pub dns6: Option<UdpSocket>,
    /// What the proxy answers at [`SELF_TEST`].
    pub self_test_token: String,
}

/// Where an accepted connection was going before it was redirected.
pub trait Destinations: Send + Sync {
    /// The address the sandbox asked for; `None` when this socket was not redirected, and must be closed.
    fn original(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>>;
}

/// Why the kernel's programs refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A deny rule covers the address, or it is loopback that is not the sandbox's own.
    Network,
    /// Neither TCP nor DNS over UDP: a datagram, or a socket that was not made.
    Protocol,
    /// As many connections as a sandbox may have are half open.
    Limit,
    /// The proxy was not at its place, or the kernel had no memory.
    Unserved,
}

/// One refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub cause: Cause,
    /// The number of the protocol (`IPPROTO_TCP` …).
    pub protocol: u32,
    /// Where to; `None` for a socket that was not made.
    pub destination: Option<SocketAddr>,
}

/// Hears of a sandbox's refusals, on a thread of the kernel's side that it must not hold up.
pub trait Refusals: Send + Sync {
    /// One refusal.
    fn refused(&self, refusal: &Refusal);

    /// So many refusals of which nothing else is known: they came too fast.
    fn dropped(&self, number: u64);
}

/// One map of the kernel's programs, as full as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Its name, e.g. `flows`.
    pub map: &'static str,
    /// Entries it has.
    pub entries: u64,
    /// Entries it has room for.
    pub capacity: u64,
}

/// Reads how full the maps of a program set are.
pub trait MapFills: Debug + Send + Sync {
    /// Every map that can be full. It costs a few system calls a sandbox.
    fn read(&self) -> Vec<MapFill>;
}

/// Reads how many half-open connections one sandbox has.
pub trait HalfOpen: Debug + Send + Sync {
    /// Their number; `None` once the sandbox is gone.
    fn read(&self) -> Option<u64>;
}
