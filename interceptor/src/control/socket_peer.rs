//! Access control for a connection over loopback, where the kernel names no process: its socket
//! must have been made outside every sandbox.
//!
//! A sandbox's own connections never get here: the kernel redirects them to its proxy, and no proxy
//! dials a page. This is for sockets from before a sandbox was made around their process.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::peer::{UNKNOWN, mount, outside_at};
use crate::fleet::Fleet;
use crate::kernel::{self, SocketOwner};
use crate::sandbox::cgroup;

/// The other end of a connection.
#[derive(Debug)]
pub(crate) struct SocketPeer {
    /// Whose its socket is, if the kernel told.
    owner: Option<SocketOwner>,
    /// The cgroup that its socket was made in, once that was looked for.
    cgroup: OnceLock<PathBuf>,
}

impl SocketPeer {
    /// The other end of a connection just accepted; `None` if that has ended. Blocks briefly.
    pub(crate) fn of(stream: &impl AsFd, peer: SocketAddr, own: SocketAddr) -> Option<SocketPeer> {
        let owner = kernel::owner_of(peer, own)
            .inspect_err(|error| tracing::debug!(%error, "cannot look at a socket"))
            .ok();
        // Looked at last: once a connection has ended, its other address may be another process's,
        // which was found then.
        is_open(stream).then(|| SocketPeer { owner, cgroup: OnceLock::new() })
    }

    /// Whether it is outside every sandbox now. Blocks briefly.
    ///
    /// # Errors
    /// Why it is not, or why that cannot be told.
    pub(crate) fn outside(&self, fleet: &Fleet) -> Result<(), &'static str> {
        let mount = mount()?;
        let path = match self.cgroup.get() {
            Some(path) => path,
            None => {
                let owner = self.owner.as_ref().ok_or(UNKNOWN)?;
                let found = cgroup::find(&mount, owner.cgroup)
                    .inspect_err(|error| tracing::debug!(%error, "cannot look at a socket"));
                let path = found.map_err(|_| UNKNOWN)?.ok_or(UNKNOWN)?;
                self.cgroup.get_or_init(|| path)
            }
        };
        outside_at(&mount, path, &fleet.cgroups())
    }

    /// Its user, if the kernel told.
    pub(crate) fn uid(&self) -> Option<u32> {
        self.owner.as_ref().map(|owner| owner.uid)
    }
}

/// Whether the other end of a connection neither has reset it nor ends it.
fn is_open(stream: &impl AsFd) -> bool {
    let mut looked = [PollFd::new(stream.as_fd(), ended_flag())];
    loop {
        match poll(&mut looked, PollTimeout::ZERO) {
            Ok(ready) => return ready == 0,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// What nix does not name; a reset is reported without being asked for.
fn ended_flag() -> PollFlags {
    PollFlags::from_bits_retain(libc::POLLRDHUP)
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn p9_a_connection_that_has_ended_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let pair = || {
            let client = TcpStream::connect(own).unwrap();
            let (server, peer) = listener.accept().unwrap();
            (client, server, peer)
        };
        let (client, server, peer) = pair();
        let uid = nix::unistd::geteuid().as_raw();
        assert_eq!(SocketPeer::of(&server, peer, own).unwrap().uid(), Some(uid));
        client.shutdown(Shutdown::Write).unwrap();
        ended(&server);
        assert!(SocketPeer::of(&server, peer, own).is_none(), "it ends");
        // Reset, and its address used by another socket meanwhile.
        let (client, server, peer) = pair();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        ended(&server);
        let next =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        next.set_reuse_address(true).unwrap();
        next.bind(&peer.into()).unwrap();
        next.connect(&own.into()).unwrap();
        assert!(kernel::owner_of(peer, own).is_ok(), "somebody has the address");
        assert!(SocketPeer::of(&server, peer, own).is_none(), "it was another connection");
    }

    /// Waits until the kernel has noticed.
    fn ended(server: &TcpStream) {
        let mut looked = [PollFd::new(server.as_fd(), ended_flag())];
        assert_eq!(poll(&mut looked, 30_000_u16).unwrap(), 1);
    }
}
