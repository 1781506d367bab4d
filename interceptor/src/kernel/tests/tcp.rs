//! Redirected connections, and their original destinations.

use std::collections::{HashSet, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::rig::{Ports, Rig, bytes, enforcer, errno, eventually, networks};
use crate::kernel::sys;
use crate::seam::Destinations;

/// Accepts until stopped: sends each client its original destination, and returns all of them.
pub(super) fn serve(
    listener: &TcpListener,
    destinations: &dyn Destinations,
    stop: &AtomicBool,
) -> Vec<Option<SocketAddr>> {
    listener.set_nonblocking(true).unwrap();
    let mut seen = Vec::new();
    // Closing with unread data would reset the connection before the client has read: keep the last
    // few open.
    let mut open = VecDeque::new();
    loop {
        // Checked before the queue: connections made before the stop are still accepted.
        let stopping = stop.load(Ordering::Relaxed);
        match listener.accept() {
            Ok((mut stream, _)) => {
                let original = destinations.original(stream.as_fd()).unwrap();
                // A client that has reset its connection does not read it.
                let _ = stream.write_all(
                    original.map_or("none".to_owned(), |address| address.to_string()).as_bytes(),
                );
                let _ = stream.shutdown(Shutdown::Write);
                seen.push(original);
                open.push_back(stream);
                if open.len() > 64 {
                    open.pop_front();
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if stopping {
                    return seen;
                }
                thread::sleep(Duration::from_micros(100));
            }
            // The connection was reset before it was accepted.
            Err(_) => {}
        }
    }
}

/// Runs both listeners' accept loops during a test's body, and returns what they saw.
pub(super) fn while_serving<T>(
    ports: &Ports,
    destinations: &dyn Destinations,
    body: impl FnOnce() -> T,
) -> (T, Vec<Option<SocketAddr>>) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let servers = [&ports.tcp4, &ports.tcp6]
            .map(|listener| scope.spawn(move || serve(listener, destinations, stop)));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        stop.store(true, Ordering::Relaxed);
        let seen = servers.into_iter().flat_map(|server| server.join().unwrap()).collect();
        (outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), seen)
    })
}

/// The server's message to a client.
fn answer(mut stream: &TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// The address of the nth connection: all differ, and the three forms alternate.
fn destination(thread: u8, number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    let port = 1024 + number % 50_000;
    match number % 3 {
        0 => (Ipv4Addr::new(203, thread, high, low), port).into(),
        1 => (Ipv6Addr::new(0x2001, 0xdb8, thread.into(), number, 0, 0, 0, 1), port).into(),
        _ => (Ipv4Addr::new(192, thread, high, low).to_ipv6_mapped(), port).into(),
    }
}

/// The address as user space sees it: mapped ones become IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn k2_every_original_destination_is_right_over_ipv4_ipv6_and_mapped() {
    const CONNECTIONS: u16 = 5000;
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    let wrong = Mutex::new(Vec::new());
    let client = |thread: u8| {
        for number in 0..CONNECTIONS {
            let asked = destination(thread, number);
            let stream = TcpStream::connect_timeout(&asked, Duration::from_secs(10)).unwrap();
            if number % 4 == 3 {
                reset(stream);
                continue;
            }
            assert_eq!(stream.peer_addr().unwrap(), asked, "getpeername");
            let told = answer(&stream);
            if told != canonical(asked).to_string() {
                wrong.lock().unwrap().push((asked, told));
            }
        }
    };
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            thread::scope(|scope| {
                for thread in 0..2 {
                    scope.spawn(move || client(thread));
                }
            });
        });
    });
    assert_eq!(*wrong.lock().unwrap(), []);
    // Reset connections cannot tell their destination, but all destinations differ.
    let known: Vec<SocketAddr> = seen.iter().flatten().copied().collect();
    let distinct: HashSet<_> = known.iter().collect();
    assert_eq!(distinct.len(), known.len(), "a destination was seen twice");
    let asked: HashSet<SocketAddr> = (0..2)
        .flat_map(|thread| {
            (0..CONNECTIONS).map(move |number| canonical(destination(thread, number)))
        })
        .collect();
    assert!(known.iter().all(|address| asked.contains(address)));
    // FLOWS ends up empty: connections never accepted are deleted on close.
    eventually(|| (enforcer.maps().flows(), attachment.half_open()) == (0, 0));
}

#[test]
fn k2_a_connection_to_a_denied_network_fails_with_eperm_in_every_form() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&[
        "10.0.0.0/8",
        "192.0.2.7/32",
        "2001:db8:bad::/48",
        "198.18.0.0/15",
        "2001:2::/48",
    ]);
    let mut attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let refused = |address: &str| errno(TcpStream::connect(address)) == libc::EPERM;
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            for address in
                ["10.1.2.3:80", "[::ffff:10.1.2.3]:80", "192.0.2.7:443", "[2001:db8:bad:1::1]:80"]
            {
                assert!(refused(address), "{address}");
            }
            // Neighbours, synthetic addresses, and the resolver's port whatever the address.
            for address in [
                "11.0.0.1:80",
                "192.0.2.8:443",
                "[2001:db8:bae::1]:80",
                "198.18.0.9:443",
                "[2001:2::9]:443",
                "10.1.2.3:53",
            ] {
                assert_eq!(answer(&TcpStream::connect(address).unwrap()), address);
            }
        });
        attachment.set_networks(&networks(&["11.0.0.0/8"]), &[]).unwrap();
        rig.inside(|| {
            assert!(refused("11.0.0.1:80"));
            assert_eq!(answer(&TcpStream::connect("10.1.2.3:80").unwrap()), "10.1.2.3:80");
        });
        attachment.set_networks(&[], &[]).unwrap();
        rig.inside(|| {
            assert_eq!(answer(&TcpStream::connect("11.0.0.1:80").unwrap()), "11.0.0.1:80")
        });
    });
    assert_eq!(seen.len(), 8);
}

#[test]
fn k8_a_socket_that_disconnects_and_connects_again_is_judged_again() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8"]);
    let _attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let (_, seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let target = SockAddr::from(ports.tcp4.local_addr().unwrap());
            for asked in ["192.0.2.1:80", "192.0.2.2:80"] {
                socket.connect(&SockAddr::from(asked.parse::<SocketAddr>().unwrap())).unwrap();
                disconnect(&socket);
            }
            let denied = SockAddr::from("10.0.0.1:80".parse::<SocketAddr>().unwrap());
            assert_eq!(errno(socket.connect(&denied)), libc::EPERM);
            disconnect(&socket);
            // The last redirection's record must not make this direct connection look redirected.
            socket.connect(&target).unwrap();
        });
    });
    let expected = ["192.0.2.1:80", "192.0.2.2:80"].map(|text| Some(text.parse().unwrap()));
    assert_eq!(seen, [expected[0], expected[1], None]);
}

/// `connect` with `AF_UNSPEC`, which undoes a connection.
fn disconnect(socket: &Socket) {
    sys::connect(socket.as_fd(), &[0; 16]).unwrap();
}

#[test]
fn k12_a_connection_to_the_listener_itself_has_no_record() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            for listener in [&ports.tcp4, &ports.tcp6] {
                let address = listener.local_addr().unwrap();
                assert_eq!(answer(&TcpStream::connect(address).unwrap()), "none");
            }
            let mapped = SocketAddr::from((
                Ipv4Addr::LOCALHOST.to_ipv6_mapped(),
                ports.tcp4.local_addr().unwrap().port(),
            ));
            assert_eq!(answer(&TcpStream::connect(mapped).unwrap()), "none");
        });
        // Nor has one from a process in the namespace but outside the sandbox.
        rig.beside_cgroup(|| {
            assert_eq!(
                answer(&TcpStream::connect(ports.tcp4.local_addr().unwrap()).unwrap()),
                "none"
            );
        });
    });
    assert_eq!(seen, [None; 4]);
}

#[test]
fn k5_fast_open_and_non_blocking_connections_keep_their_destination() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    rig.command("echo 3 > /proc/sys/net/ipv4/tcp_fastopen");
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8"]);
    rig.inside(|| {
        for listener in [&ports.tcp4, &ports.tcp6] {
            sys::set_fast_open(listener.as_fd()).unwrap();
        }
    });
    let _attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            // The first connection requests a cookie, the others send data with the SYN.
            for number in 1..4 {
                for text in [format!("192.0.2.{number}:80"), format!("[2001:db8::{number}]:80")] {
                    let asked: SocketAddr = text.parse().unwrap();
                    let socket =
                        Socket::new(Domain::for_address(asked), Type::STREAM, None).unwrap();
                    sys::send_to(socket.as_fd(), libc::MSG_FASTOPEN, &bytes(asked)).unwrap();
                    let stream = TcpStream::from(socket);
                    assert_eq!(stream.peer_addr().unwrap(), asked);
                    assert_eq!(answer(&stream), text);
                }
            }
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let denied = bytes("10.0.0.1:80".parse().unwrap());
            assert_eq!(
                errno(sys::send_to(socket.as_fd(), libc::MSG_FASTOPEN, &denied)),
                libc::EPERM
            );
            for text in ["192.0.2.9:80", "[2001:db8::9]:80"] {
                let asked: SocketAddr = text.parse().unwrap();
                let socket = Socket::new(Domain::for_address(asked), Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                assert_eq!(errno(socket.connect(&SockAddr::from(asked))), libc::EINPROGRESS);
                socket.set_nonblocking(false).unwrap();
                assert_eq!(answer(&TcpStream::from(socket)), text);
            }
        });
    });
    assert_eq!(seen.len(), 8);
    assert!(seen.iter().all(Option::is_some));
}

#[test]
fn k8_odd_addresses_are_redirected_refused_or_no_addresses_at_all() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    let ((), _) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            // Destinations the kernel has no route for reach the proxy, which explains the refusal.
            for text in [
                "255.255.255.255:80",
                "224.0.0.1:80",
                "192.0.2.1:0",
                "169.254.169.254:80",
                "[ff02::1]:80",
            ] {
                let asked: SocketAddr = text.parse().unwrap();
                assert_eq!(answer(&TcpStream::connect(asked).unwrap()), text);
            }
            let v4 = bytes("192.0.2.1:80".parse().unwrap());
            let v6 = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            // An IPv4 address on an IPv6 socket, and a truncated one.
            assert_eq!(errno(sys::connect(v6.as_fd(), &v4)), libc::EINVAL);
            let short = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            assert_eq!(errno(sys::connect(short.as_fd(), &v4[..8])), libc::EINVAL);
            // A scope that names a device does not bypass this.
            let scoped: SocketAddr = "[fe80::1%1]:80".parse().unwrap();
            assert_eq!(answer(&TcpStream::connect(scoped).unwrap()), "[fe80::1]:80");
            // An IPv6-only socket gets no IPv4.
            v6.set_only_v6(true).unwrap();
            let mapped = SockAddr::from("[::ffff:192.0.2.1]:80".parse::<SocketAddr>().unwrap());
            assert_eq!(errno(v6.connect(&mapped)), libc::ENETUNREACH);
        });
    });
}

#[test]
fn k20_the_own_loopback_works_in_a_private_namespace() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    rig.inside(|| {
        let server = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        for text in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"] {
            let client = TcpStream::connect(format!("{text}:{port}")).unwrap();
            let (server_side, peer) = server.accept().unwrap();
            assert_eq!(client.local_addr().unwrap().port(), peer.port(), "{text}");
            drop(server_side);
        }
        assert_eq!(enforcer.destinations().original(server.as_fd()).unwrap(), None);
    });
}
