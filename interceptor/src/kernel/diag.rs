//! Lists and closes the TCP and UDP sockets of a network namespace by sock_diag(7)
//! (`include/uapi/linux/inet_diag.h`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `INET_DIAG_CGROUP_ID`, Linux 5.8.
const CGROUP_ID: u16 = 21;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Position of `struct inet_diag_sockid` in `struct inet_diag_msg`.
const ID: std::ops::Range<usize> = 4..52;
/// Length of `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// All TCP states except TIME_WAIT, SYN_RECV and NEW_SYN_RECV, whose sockets have no descriptor.
const STATES: u32 = !((1 << 6) | (1 << 3) | (1 << 12));

/// One socket.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    family: u8,
    protocol: u8,
    /// `struct inet_diag_sockid`: addresses, ports and a cookie; identifies exactly this socket.
    id: [u8; 48],
    /// The inode number shown in `/proc/PID/fd`.
    pub(super) inode: u32,
    /// The id of the cgroup it was created in.
    pub(super) cgroup: Option<u64>,
    /// The user whose it is.
    pub(super) uid: u32,
    /// Its peer.
    pub(super) remote: Option<SocketAddr>,
}

/// Why sock_diag failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The kernel module that lists these sockets is not loaded and cannot be loaded.
    NoModule {
        /// The module.
        module: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Sockets could not be listed.
    List(io::Error),
    /// A socket could not be closed.
    Destroy(io::Error),
}

/// A sock_diag socket; sees the network namespace of the thread that opened it.
pub(super) struct Diag(OwnedFd);

impl Diag {
    /// Opens the socket.
    pub(super) fn open() -> io::Result<Self> {
        let protocol = Some(SockProtocol::NetlinkSockDiag);
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?))
    }

    /// Every TCP and UDP socket.
    pub(super) fn sockets(&mut self) -> Result<Vec<Socket>, Failure> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for (protocol, module) in
                [(libc::IPPROTO_TCP, "tcp_diag"), (libc::IPPROTO_UDP, "udp_diag")]
            {
                let listed = self.dump(family as u8, protocol as u8, &mut found);
                listed.map_err(|source| match source.raw_os_error() {
                    // ENOENT does not mean "no sockets": the kernel lacks the module that lists
                    // them.
                    Some(libc::ENOENT) => Failure::NoModule { module, source },
                    _ => Failure::List(source),
                })?;
            }
        }
        Ok(found)
    }

    /// Closes a socket; its owner's next call fails with `ECONNABORTED`. A socket that is already
    /// gone is no error.
    pub(super) fn destroy(&mut self, socket: &Socket) -> io::Result<()> {
        self.send(SOCK_DESTROY, NLM_F_ACK, socket.family, socket.protocol, &socket.id)?;
        let mut buffer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        match messages(&buffer[..length]).next().map(|(kind, body)| error_of(kind, body)) {
            Some(Err(error)) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Some(outcome) => outcome,
            None => Err(malformed()),
        }
    }

    /// The TCP socket with these ends, the first of which is its own; `None` if there is none.
    pub(super) fn find(&mut self, own: SocketAddr, peer: SocketAddr) -> io::Result<Option<Socket>> {
        let protocol = libc::IPPROTO_TCP as u8;
        let (family, id) = between(own, peer);
        self.send(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, family, protocol, &id)?;
        let mut buffer = [0; 4096];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        match messages(&buffer[..length]).next() {
            // Where no connection has these ends, the kernel answers with who listens there.
            Some((SOCK_DIAG_BY_FAMILY, body)) => Ok(parse(protocol, body)
                .filter(|found| found.remote.map(canonical) == Some(canonical(peer)))),
            Some((kind, body)) => match error_of(kind, body) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                other => other.map(|()| None),
            },
            None => Err(malformed()),
        }
    }

    fn dump(&mut self, family: u8, protocol: u8, found: &mut Vec<Socket>) -> io::Result<()> {
        self.send(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, protocol, &[0; 48])?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, body) in messages(&buffer[..length]) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    SOCK_DIAG_BY_FAMILY => found.extend(parse(protocol, body)),
                    NLMSG_ERROR => return error_of(kind, body),
                    _ => {}
                }
            }
        }
    }

    /// Sends `struct inet_diag_req_v2`.
    fn send(
        &self,
        kind: u16,
        flags: u16,
        family: u8,
        protocol: u8,
        id: &[u8; 48],
    ) -> io::Result<()> {
        let mut request = Vec::with_capacity(HEADER + 56);
        request.extend(72_u32.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        request.extend([0; 8]);
        request.extend([family, protocol, 0, 0]);
        request.extend(STATES.to_ne_bytes());
        request.extend(id);
        sendto(self.0.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }
}

/// The family of a socket and its `struct inet_diag_sockid`, without a cookie.
fn between(own: SocketAddr, peer: SocketAddr) -> (u8, [u8; 48]) {
    let mut id = [0; 48];
    id[0..2].copy_from_slice(&own.port().to_be_bytes());
    id[2..4].copy_from_slice(&peer.port().to_be_bytes());
    let mut put = |at: usize, ip: IpAddr| match ip {
        IpAddr::V4(ip) => id[at..at + 4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => id[at..at + 16].copy_from_slice(&ip.octets()),
    };
    put(4, own.ip());
    put(20, peer.ip());
    // `INET_DIAG_NOCOOKIE`.
    id[40..48].fill(0xff);
    let family = if own.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    (family as u8, id)
}

/// An address as it is written in its own family.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Splits a datagram into messages: type and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(bytes, 0)? as usize;
        let kind = half(bytes, 4)?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Parses `struct inet_diag_msg` and its attributes; `None` for a socket without a descriptor.
fn parse(protocol: u8, body: &[u8]) -> Option<Socket> {
    let id: [u8; 48] = body.get(ID)?.try_into().ok()?;
    let uid = word(body, 64)?;
    let inode = word(body, 68).filter(|inode| *inode != 0)?;
    let (family, state) = (body[0], body[1]);
    // Ports and addresses are in network byte order: source port, destination port, source,
    // destination.
    let port = u16::from_be_bytes([id[2], id[3]]);
    let ip = if i32::from(family) == libc::AF_INET {
        Ipv4Addr::new(id[20], id[21], id[22], id[23]).into()
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(&id[20..36]).ok()?).into()
    };
    /// `TCP_LISTEN` of `include/net/tcp_states.h`.
    const LISTEN: u8 = 10;
    let remote = (state != LISTEN && port != 0).then(|| SocketAddr::new(ip, port));
    let mut attributes = body.get(MESSAGE..).unwrap_or_default();
    let mut cgroup = None;
    while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
        let value = attributes.get(4..usize::from(length)).unwrap_or_default();
        if kind == CGROUP_ID {
            cgroup = value.try_into().ok().map(u64::from_ne_bytes);
        }
        let next = usize::from(length).max(4).next_multiple_of(4);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    Some(Socket { family, protocol, id, inode, cgroup, uid, remote })
}

/// NLMSG_ERROR: zero acknowledges, anything else is a negative errno.
fn error_of(kind: u16, body: &[u8]) -> io::Result<()> {
    match (kind, word(body, 0).map(u32::cast_signed)) {
        (NLMSG_ERROR, Some(0)) => Ok(()),
        (NLMSG_ERROR, Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::other("sock_diag sent a malformed answer")
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}
