//! One sandbox in user space: everything between its listeners and its origins, owned together and dropped together.

pub(crate) mod budget;
pub(crate) mod echoes;
mod handed;
pub(crate) mod live;
pub(crate) mod pace;
pub(crate) mod quota;
mod refusals;
mod runtime;
mod sandbox;
mod serving;

pub use handed::{HandedNames, HandedSandbox};
pub use refusals::{Cause, Refusal, Refusals};
pub use runtime::{Runtime, RuntimeOptions};
pub use sandbox::{ProxyError, Rules, Sandbox};
pub use serving::Serving;

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
