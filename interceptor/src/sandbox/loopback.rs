//! Brings up the loopback device of a fresh network namespace, over rtnetlink(7).
//!
//! Each family gets one address besides loopback: resolvers that query only families with a
//! configured address (`AI_ADDRCONFIG`, RFC 3493 section 6.1) ignore loopback addresses, and would
//! query nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// The sandbox's own address: the first of the synthetic range, never assigned to a name.
pub(crate) const ADDRESS4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Its counterpart in IPv6.
pub(crate) const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x2, 0, 0, 0, 0, 0, 1);

/// In a new network namespace `lo` is always the first device.
const LOOPBACK_INDEX: u32 = 1;

/// How long the kernel may take to create the routes.
const ROUTES_WITHIN: Duration = Duration::from_secs(5);

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: the address is usable at once.
const IFA_F_NODAD: u8 = 2;
const HEADER: usize = 16;

/// Brings `lo` up and assigns the sandbox's addresses. Returns whether IPv6 is available.
pub(crate) fn up() -> io::Result<bool> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkRoute),
    )?;
    exchange(&socket, RTM_NEWLINK, 0, &link_up())?;
    add(&socket, ADDRESS4.into())?;
    match add(&socket, ADDRESS6.into()) {
        Ok(()) => wait_for_routes().map(|()| true),
        // The kernel has no IPv6, or it is disabled: the sandbox then has none, which opens no
        // hole.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EACCES | libc::EAFNOSUPPORT)
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// As [`up`], in a namespace somebody else created, which may be ready already.
pub(crate) fn ensure() -> io::Result<()> {
    match up() {
        // Assigned by another container of the pod, or by an earlier interceptor.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other.map(drop),
    }
}

/// The kernel creates routes to IPv6 addresses in the background. Until then, connections to them
/// wait a second or fail. A datagram to ourselves shows that they exist.
fn wait_for_routes() -> io::Result<()> {
    let deadline = Instant::now() + ROUTES_WITHIN;
    for address in [ADDRESS6, Ipv6Addr::LOCALHOST] {
        while let Err(error) = reach_oneself(address) {
            // A crashed interceptor left the cgroup closed, so there is no way to check.
            if error.raw_os_error() == Some(libc::EPERM) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

fn reach_oneself(address: Ipv6Addr) -> io::Result<()> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(2)))?;
    socket.connect(socket.local_addr()?)?;
    socket.send(&[0])?;
    socket.recv(&mut [0]).map(drop)
}

fn add(socket: &OwnedFd, address: IpAddr) -> io::Result<()> {
    exchange(socket, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &new_address(address))
}

/// `struct ifinfomsg`: family, padding, type, index, flags, change mask.
fn link_up() -> Vec<u8> {
    let up = libc::IFF_UP as u32;
    let mut body = vec![0, 0, 0, 0];
    body.extend(LOOPBACK_INDEX.to_ne_bytes());
    body.extend(up.to_ne_bytes());
    body.extend(up.to_ne_bytes());
    body
}

/// `struct ifaddrmsg` (family, prefix length, flags, scope, index) and its attributes.
fn new_address(address: IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let prefix = bytes.len() as u8 * 8;
    let mut body = vec![family as u8, prefix, IFA_F_NODAD, libc::RT_SCOPE_UNIVERSE];
    body.extend(LOOPBACK_INDEX.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        // Four bytes of header; address lengths are multiples of four, so there is no padding.
        body.extend((4 + bytes.len() as u16).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(&bytes);
    }
    body
}

/// Sends one request and waits for the kernel's reply.
fn exchange(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend((HEADER as u32 + body.len() as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(body);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    outcome(&answer[..length])
}

/// Reads an NLMSG_ERROR message: zero acknowledges, anything else is a negative errno.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::other("rtnetlink sent a malformed answer");
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let code =
        answer.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Runs `test` in a new network namespace, in a thread; the namespace ends with the thread.
    fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            test();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn loopback_works_in_both_families_and_nothing_else_is_reachable() {
        in_a_namespace(|| {
            assert!(
                TcpStream::connect("127.0.0.1:9")
                    .is_err_and(|e| e.kind() != io::ErrorKind::ConnectionRefused)
            );
            assert!(up().unwrap());
            for address in [
                IpAddr::from(ADDRESS4),
                ADDRESS6.into(),
                Ipv4Addr::LOCALHOST.into(),
                Ipv6Addr::LOCALHOST.into(),
            ] {
                let listener = TcpListener::bind((address, 0)).unwrap();
                TcpStream::connect(listener.local_addr().unwrap())
                    .unwrap_or_else(|error| panic!("{address}: {error}"));
            }
            let error = TcpStream::connect("192.0.2.1:80").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
        });
    }

    #[test]
    fn an_error_of_the_kernel_is_returned() {
        in_a_namespace(|| {
            up().unwrap();
            assert_eq!(up().unwrap_err().raw_os_error(), Some(libc::EEXIST));
        });
        assert!(outcome(&[]).is_err());
    }
}
