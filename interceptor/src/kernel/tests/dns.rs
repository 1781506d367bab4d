//! UDP: queries to port 53 reach the resolver and seem to be answered by the address asked; nothing
//! else leaves.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::rig::{Ports, Rig, bytes, enforcer, errno};
use crate::kernel::sys;

/// Answers each datagram with itself, until stopped.
fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], peer).unwrap();
        }
    }
}

/// Runs both resolvers during a test's body.
pub(super) fn while_resolving<T>(ports: &Ports, body: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for socket in [&ports.dns4, &ports.dns6] {
            scope.spawn(|| echo(socket, &stop));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A socket for an address's family, with a timeout.
fn client(address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Resolver addresses a sandbox may use.
const SERVERS: [&str; 7] = [
    "192.0.2.53:53",
    "8.8.8.8:53",
    "127.0.0.53:53",
    "[2001:db8::53]:53",
    "[::1]:53",
    "[::ffff:192.0.2.53]:53",
    "255.255.255.255:53",
];

#[test]
fn d2_a_question_to_any_server_reaches_the_resolver_and_is_answered_by_that_server() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    while_resolving(&ports, || {
        rig.inside(|| {
            let mut buffer = [0; 64];
            for text in SERVERS {
                let server: SocketAddr = text.parse().unwrap();
                // Unconnected.
                let socket = client(server);
                socket.set_broadcast(true).unwrap();
                socket.send_to(b"question", server).unwrap();
                let (length, peer) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], peer), (&b"question"[..], server), "sendto");
                // Connected: the kernel drops datagrams from other addresses, so this also shows
                // the sender is right.
                let socket = client(server);
                socket.set_broadcast(true).unwrap();
                socket.connect(server).unwrap();
                assert_eq!(socket.peer_addr().unwrap(), server);
                socket.send(b"again").unwrap();
                let (length, peer) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], peer), (&b"again"[..], server), "connect");
            }
            // Two servers on one socket, one after the other.
            let socket = client("192.0.2.1:53".parse().unwrap());
            for text in ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:53"] {
                socket.send_to(b"x", text).unwrap();
                assert_eq!(socket.recv_from(&mut buffer).unwrap().1.to_string(), text);
            }
        });
    });
}

#[test]
fn k3_every_udp_but_port_53_fails_with_eperm() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    let destinations = [
        "192.0.2.1:443",
        "192.0.2.1:52",
        "198.18.0.1:443",
        "224.0.0.251:5353",
        "255.255.255.255:67",
        "[2001:db8::1]:443",
        "[2001:2::1]:853",
        "[ff02::fb]:5353",
        "[::ffff:192.0.2.1]:443",
    ];
    while_resolving(&ports, || {
        rig.inside(|| {
            for text in destinations {
                let destination: SocketAddr = text.parse().unwrap();
                let socket = client(destination);
                socket.set_broadcast(true).unwrap();
                assert_eq!(errno(socket.send_to(b"x", destination)), libc::EPERM, "sendto {text}");
                assert_eq!(errno(socket.connect(destination)), libc::EPERM, "connect {text}");
                let more = sys::send_to(socket.as_fd(), libc::MSG_MORE, &bytes(destination));
                assert_eq!(errno(more), libc::EPERM, "MSG_MORE {text}");
                // Connected to a resolver, yet sending elsewhere.
                let server =
                    if destination.is_ipv4() { "192.0.2.53:53" } else { "[2001:db8::53]:53" };
                socket.connect(server).unwrap();
                assert_eq!(
                    errno(socket.send_to(b"x", destination)),
                    libc::EPERM,
                    "connected sendto {text}"
                );
            }
        });
    });
}

#[test]
fn k8_no_family_trick_sends_udp_out() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    while_resolving(&ports, || {
        rig.inside(|| {
            let v4 = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            let v6 = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            let destination = bytes("192.0.2.1:443".parse().unwrap());
            // AF_UNSPEC, which sendto on an IPv4 socket takes for AF_INET (udp(7)).
            let mut unspecified = destination.clone();
            unspecified[..2].copy_from_slice(&[0; 2]);
            assert_eq!(errno(sys::send_to(v4.as_fd(), 0, &unspecified)), libc::EPERM);
            assert_eq!(errno(sys::send_to(v6.as_fd(), 0, &unspecified)), libc::EDESTADDRREQ);
            // An IPv4 address on an IPv6 socket.
            assert_eq!(errno(sys::send_to(v6.as_fd(), 0, &destination)), libc::EPERM);
            // Connected, disconnected, then sending elsewhere.
            let server = SockAddr::from("192.0.2.53:53".parse::<SocketAddr>().unwrap());
            v4.connect(&server).unwrap();
            sys::connect(v4.as_fd(), &[0; 16]).unwrap();
            assert_eq!(errno(v4.send(b"x")), libc::EDESTADDRREQ);
            assert_eq!(errno(sys::send_to(v4.as_fd(), 0, &destination)), libc::EPERM);
            assert_eq!(errno(sys::connect(v4.as_fd(), &destination)), libc::EPERM);
        });
    });
}

#[test]
fn k20_udp_on_the_own_loopback_works_in_a_private_namespace() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    rig.inside(|| {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let (one, other) = (UdpSocket::bind(text).unwrap(), UdpSocket::bind(text).unwrap());
            let address = other.local_addr().unwrap();
            one.send_to(b"x", address).unwrap();
            let (_, peer) = other.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(peer, one.local_addr().unwrap());
        }
    });
}
