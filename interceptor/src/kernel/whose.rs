//! Whose the other end of a TCP connection on this host is: the cgroup in which its socket was
//! made, by sock_diag(7). A process can be moved to another cgroup later; its sockets stay what
//! they are.

use std::io;
use std::net::SocketAddr;

use super::diag::Diag;

/// The id of the cgroup in which the socket at `peer` was made that is connected to `own`.
///
/// # Errors
/// If the kernel does not tell, or there is no such socket any more.
pub(crate) fn cgroup_of(peer: SocketAddr, own: SocketAddr) -> io::Result<u64> {
    let found = Diag::open()?.find(peer, own)?;
    found.and_then(|socket| socket.cgroup).ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_other_end_of_a_connection_is_known_by_its_cgroup() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let own = server.local_addr().unwrap();
            let found = cgroup_of(peer, own).unwrap();
            assert_eq!(cgroup_of(own, peer).unwrap(), found, "both ends are of this process");
            assert!(found > 0);
            drop((client, server));
            cgroup_of(peer, "127.0.0.1:1".parse().unwrap()).unwrap_err();
        }
    }

    #[test]
    fn a_client_that_writes_its_address_in_six_is_found_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(format!("[::ffff:127.0.0.1]:{port}")).unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert!(cgroup_of(peer, server.local_addr().unwrap()).unwrap() > 0);
    }
}
