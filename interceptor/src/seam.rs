//! Plain types and traits shared by the kernel half and the user-space half of a sandbox, so that
//! neither depends on the other. No logic lives here.

use std::fmt::Debug;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;

/// The address the launcher connects to from inside the sandbox, before the command starts, to
/// prove that interception works. It is unassigned (the last address of RFC 2544 space) and never a
/// synthetic one. The proxy answers with one line, the token given to [`Listeners`], and closes.
pub const SELF_TEST: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(198, 19, 255, 254), 9));

/// The listening sockets of one sandbox, bound inside its network namespace and in its cgroup.
#[derive(Debug)]
pub struct Listeners {
    /// Redirected TCP over IPv4.
    pub tcp4: TcpListener,
    /// Redirected TCP over IPv6, if the namespace has IPv6.
    pub tcp6: Option<TcpListener>,
    /// Redirected DNS over UDP/IPv4. DNS over TCP arrives at the TCP listeners with destination
    /// port 53.
    pub dns4: UdpSocket,
    /// Redirected DNS over UDP/IPv6.
    pub dns6: Option<UdpSocket>,
    /// The proxy's response at [`SELF_TEST`].
    pub self_test_token: String,
}

/// Looks up the original destination of a redirected connection.
pub trait Destinations: Send + Sync {
    /// The address the sandbox asked for; `None` if the socket was not redirected and must be
    /// closed.
    fn original(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SocketAddr>>;
}

/// Why the kernel programs refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A deny rule covers the address, or it is loopback outside the sandbox.
    Network,
    /// Neither TCP nor DNS over UDP: a datagram, or a socket whose creation was refused.
    Protocol,
    /// The sandbox has reached its limit of half-open connections.
    Limit,
    /// The proxy was not listening, or the kernel was out of memory.
    Unserved,
}

/// One refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub cause: Cause,
    /// The protocol number (`IPPROTO_TCP` …).
    pub protocol: u32,
    /// The destination; `None` if the socket was never created.
    pub destination: Option<SocketAddr>,
}

/// Receives a sandbox's refusals on the kernel side's reader thread, which it must not block.
pub trait Refusals: Send + Sync {
    /// One refusal.
    fn refused(&self, refusal: &Refusal);

    /// `number` refusals were dropped without details, because they came too fast.
    fn dropped(&self, number: u64);
}

/// The fill level of one eBPF map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// The map's name, e.g. `flows`.
    pub map: &'static str,
    /// Current number of entries.
    pub entries: u64,
    /// Maximum number of entries.
    pub capacity: u64,
}

/// Reads the fill levels of a program set's maps.
pub trait MapFills: Debug + Send + Sync {
    /// Every map that can fill up. Costs a few system calls per sandbox.
    fn read(&self) -> Vec<MapFill>;
}

/// Reads the number of half-open connections of one sandbox.
pub trait HalfOpen: Debug + Send + Sync {
    /// The number; `None` once the sandbox is gone.
    fn read(&self) -> Option<u64>;
}
