//! Whose the other end of a TCP connection on this host is: its user, and the cgroup in which its
//! socket was made, by sock_diag(7). A process can be moved to another cgroup later; its sockets
//! stay what they are.

use std::io;
use std::net::SocketAddr;

use super::diag::Diag;

/// Whose a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketOwner {
    /// The id of the cgroup it was made in.
    pub(crate) cgroup: u64,
    /// The user.
    pub(crate) uid: u32,
}

/// Whose the socket at `peer` is that is connected to `own`.
///
/// # Errors
/// If the kernel does not tell, or there is no such socket any more.
pub(crate) fn owner_of(peer: SocketAddr, own: SocketAddr) -> io::Result<SocketOwner> {
    let found = Diag::open()?.find(peer, own)?;
    let owner =
        |socket: super::diag::Socket| Some(SocketOwner { cgroup: socket.cgroup?, uid: socket.uid });
    found.and_then(owner).ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_other_end_of_a_connection_is_known_by_its_user_and_cgroup() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let own = server.local_addr().unwrap();
            let found = owner_of(peer, own).unwrap();
            assert_eq!(owner_of(own, peer).unwrap(), found, "both ends are of this process");
            assert!(found.cgroup > 0);
            assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
            drop((client, server));
            owner_of(peer, "127.0.0.1:1".parse().unwrap()).unwrap_err();
            // Who merely listens there is connected to nobody.
            owner_of(own, "127.0.0.1:1".parse().unwrap()).unwrap_err();
            owner_of(own, SocketAddr::new(own.ip(), 1)).unwrap_err();
        }
    }

    #[test]
    fn a_client_that_writes_its_address_in_six_is_found_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(format!("[::ffff:127.0.0.1]:{port}")).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert!(owner_of(peer, server.local_addr().unwrap()).unwrap().cgroup > 0);
    }
}
