//! Sandboxes side by side, in nested cgroups, and in a namespace shared with the host.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use super::dns::while_resolving;
use super::rig::{Rig, enforcer, errno, eventually, networks};
use super::tcp::while_serving;

#[test]
fn k14_two_sandboxes_in_one_namespace_never_cross() {
    const CONNECTIONS: u16 = 2500;
    let enforcer = enforcer();
    let rigs = {
        let first = Rig::new();
        let second = Rig::beside(&first);
        [first, second]
    };
    let ports = [rigs[0].listen(), rigs[1].listen()];
    // Both try a network that only the other one is denied.
    let denied = ["10.0.0.0/8", "11.0.0.0/8"];
    let attachments = [0, 1].map(|number: usize| {
        let mut enforcement = rigs[number].enforcement(&ports[number]);
        enforcement.shared_netns = true;
        enforcement.denied = networks(&[denied[number]]);
        rigs[number].attach(&enforcer, &enforcement).unwrap()
    });
    for (ports, attachment) in ports.iter().zip(&attachments) {
        ports.mark(attachment);
    }
    let destinations = enforcer.destinations();
    let connect = |number: usize| {
        let [own, other] = if number == 0 { [20, 11] } else { [30, 10] };
        let forbidden = if number == 0 { 10 } else { 11 };
        for connection in 0..CONNECTIONS {
            let [high, low] = connection.to_be_bytes();
            let to = |first: u8| SocketAddr::from((Ipv4Addr::new(first, 0, high, low), 443));
            let asked = to(if connection % 2 == 0 { own } else { other });
            let mut stream = TcpStream::connect(asked).unwrap();
            if connection % 3 == 0 {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            } else {
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                assert_eq!(text, asked.to_string());
            }
            if connection % 100 == 0 {
                assert_eq!(errno(TcpStream::connect(to(forbidden))), libc::EPERM);
                // The other sandbox's listeners, by their ports.
                let door = ports[1 - number].tcp4.local_addr().unwrap();
                assert_eq!(errno(TcpStream::connect(door)), libc::EPERM);
            }
        }
    };
    let ((_, second), first) = while_serving(&ports[0], &*destinations, || {
        while_serving(&ports[1], &*destinations, || {
            thread::scope(|scope| {
                let connect = &connect;
                let clients = [0, 1].map(|number| {
                    let rig = &rigs[number];
                    scope.spawn(move || rig.inside(|| connect(number)))
                });
                for client in clients {
                    client.join().unwrap();
                }
            });
        })
    });
    for (seen, own, other) in [(first, 20, 11), (second, 30, 10)] {
        assert!(seen.len() > usize::from(CONNECTIONS) / 2);
        for address in seen.into_iter().flatten() {
            let SocketAddr::V4(address) = address else { panic!("{address}") };
            assert!(
                [own, other].contains(&address.ip().octets()[0]),
                "{address} is the other sandbox's"
            );
        }
    }
}

#[test]
fn k9_a_nested_cgroup_is_in_the_sandbox_at_any_depth() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8"]);
    let _attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let mut name = String::new();
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        for depth in 1..=5 {
            name.push_str("/nested");
            let nested = rig.nest(name.trim_start_matches('/'));
            rig.inside_of(&nested, || {
                assert_eq!(errno(TcpStream::connect("10.0.0.1:80")), libc::EPERM, "depth {depth}");
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                assert_eq!(
                    errno(socket.send_to(b"x", "192.0.2.1:443")),
                    libc::EPERM,
                    "depth {depth}"
                );
                let mut text = String::new();
                TcpStream::connect("192.0.2.1:80").unwrap().read_to_string(&mut text).unwrap();
                assert_eq!(text, "192.0.2.1:80", "depth {depth}");
            });
        }
    });
    assert_eq!(seen.len(), 5);
}

#[test]
fn k7_a_socket_keeps_the_sandbox_in_which_it_was_born() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8"]);
    let _attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let socket = rig.inside(|| {
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap()
    });
    // Passed out of the sandbox and used there, the socket is still judged.
    let denied = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 80));
    assert_eq!(errno(socket.connect(&denied.into())), libc::EPERM);
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        socket.connect(&SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80)).into()).unwrap();
    });
    assert_eq!(seen, [Some("192.0.2.1:80".parse().unwrap())]);
}

#[test]
fn k20_the_loopback_of_a_shared_namespace_is_closed_unless_allowed() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.shared_netns = true;
    enforcement.allowed_loopback = networks(&["127.0.0.2/32"]);
    let attachment = rig.attach(&enforcer, &enforcement).unwrap();
    for listener in [&ports.tcp4, &ports.tcp6] {
        attachment.mark(listener).unwrap();
    }
    let (host4, host6, hostudp) = rig.beside_cgroup(|| {
        let tcp = |address: &str| TcpListener::bind(address).unwrap();
        (tcp("0.0.0.0:0"), tcp("[::1]:0"), UdpSocket::bind("127.0.0.1:0").unwrap())
    });
    let (port4, port6) = (host4.local_addr().unwrap().port(), host6.local_addr().unwrap().port());
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            for address in
                ["127.0.0.1", "127.0.0.3", "0.0.0.0", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"]
            {
                assert_eq!(
                    errno(TcpStream::connect(format!("{address}:{port4}"))),
                    libc::EPERM,
                    "{address}"
                );
            }
            for address in ["[::1]", "[::]"] {
                assert_eq!(
                    errno(TcpStream::connect(format!("{address}:{port6}"))),
                    libc::EPERM,
                    "{address}"
                );
            }
            // Nor the interceptor's own port, which an unmarked sandbox could otherwise use without
            // a record.
            assert_eq!(errno(TcpStream::connect(ports.tcp4.local_addr().unwrap())), libc::EPERM);
            // If a rule allows it, the connection goes to the proxy.
            drop(TcpStream::connect(format!("127.0.0.2:{port4}")).unwrap());
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            assert_eq!(errno(socket.send_to(b"x", hostudp.local_addr().unwrap())), libc::EPERM);
            assert_eq!(errno(socket.send_to(b"x", ports.dns4.local_addr().unwrap())), libc::EPERM);
        });
    });
    assert_eq!(seen, [Some(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port4)))]);
    // The resolver may answer here only because it is marked.
    let ask = || {
        rig.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send_to(b"x", "192.0.2.53:53").unwrap();
            socket.recv_from(&mut [0; 8]).unwrap().1
        })
    };
    let client =
        rig.beside_cgroup(|| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert_eq!(errno(ports.dns4.send_to(b"x", client)), libc::EPERM);
    ports.mark(&attachment);
    assert_eq!(while_resolving(&ports, ask).to_string(), "192.0.2.53:53");
}

#[test]
fn k18_what_was_connected_before_the_attach_sends_nothing_to_a_device() {
    let enforcer = enforcer();
    // A namespace with a link to another, as a container's or the host's has.
    let rig = Rig::new();
    let outside = Rig::new();
    let ports = rig.listen();
    link(&rig, &outside);
    let server = outside.beside_cgroup(|| TcpListener::bind("10.99.0.2:0").unwrap());
    let receiver = outside.beside_cgroup(|| UdpSocket::bind("10.99.0.2:0").unwrap());
    let (mut client, datagrams) = rig.inside(|| {
        let datagrams = UdpSocket::bind("10.99.0.1:0").unwrap();
        datagrams.connect(receiver.local_addr().unwrap()).unwrap();
        (TcpStream::connect(server.local_addr().unwrap()).unwrap(), datagrams)
    });
    let (mut accepted, _) = server.accept().unwrap();
    accepted.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client.write_all(b"before").unwrap();
    datagrams.send(b"before").unwrap();
    let mut buffer = [0; 32];
    assert_eq!(accepted.read(&mut buffer).unwrap(), 6);
    assert_eq!(receiver.recv(&mut buffer).unwrap(), 6);

    let attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    // The socket accepts the bytes, but they do not leave; a datagram's sender gets an error.
    client.write_all(b"after").unwrap();
    assert_eq!(errno(datagrams.send(b"after")), libc::EPERM);
    assert!(accepted.read(&mut buffer).is_err(), "bytes went out after the attach");
    assert!(receiver.recv(&mut buffer).is_err(), "a datagram went out after the attach");
    // A new connection goes to the proxy.
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| drop(TcpStream::connect(server.local_addr().unwrap()).unwrap()));
    });
    assert_eq!(seen, [Some(server.local_addr().unwrap())]);
    // Without the programs the old connection works again, so it was they that stopped it.
    drop(attachment);
    accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(accepted.read(&mut buffer).unwrap(), 5);
}

#[test]
fn k18_nobody_takes_the_place_of_a_dead_interceptor_in_a_shared_namespace() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.shared_netns = true;
    let attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let refused = || {
        rig.inside(|| {
            for address in [
                "192.0.2.1:80",
                "[2001:db8::1]:80",
                "[::ffff:192.0.2.1]:80",
                "192.0.2.1:53",
                "[2001:db8::1]:53",
            ] {
                assert_eq!(errno(TcpStream::connect(address)), libc::EPERM, "TCP {address}");
                let socket =
                    UdpSocket::bind(if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" })
                        .unwrap();
                assert_eq!(errno(socket.send_to(b"x", address)), libc::EPERM, "sendto {address}");
                assert_eq!(errno(socket.connect(address)), libc::EPERM, "connect {address}");
            }
        });
    };
    // Not marked yet, then dead, then with other sockets on the ports.
    refused();
    ports.mark(&attachment);
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            drop(TcpStream::connect("192.0.2.1:80").unwrap());
            drop(TcpStream::connect("[2001:db8::1]:80").unwrap());
            UdpSocket::bind("[::]:0").unwrap().connect("[2001:db8::1]:53").unwrap();
        });
    });
    assert_eq!(seen.len(), 2);
    drop(ports);
    refused();
    let strangers = rig.beside_cgroup(|| {
        (
            TcpListener::bind(enforcement.tcp4).unwrap(),
            TcpListener::bind(enforcement.tcp6.unwrap()).unwrap(),
            UdpSocket::bind(enforcement.dns4).unwrap(),
            UdpSocket::bind(enforcement.dns6.unwrap()).unwrap(),
        )
    });
    refused();
    strangers.0.set_nonblocking(true).unwrap();
    assert_eq!(strangers.0.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn k22_nobody_outside_reaches_a_listener_of_the_sandbox() {
    let enforcer = enforcer();
    let (rig, outside) = (Rig::new(), Rig::new());
    let ports = rig.listen();
    link(&rig, &outside);
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    let (listener, socket) = rig.inside(|| {
        (TcpListener::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("0.0.0.0:0").unwrap())
    });
    let at = |port: u16| SocketAddr::from((Ipv4Addr::new(10, 99, 0, 1), port));
    outside.beside_cgroup(|| {
        let port = listener.local_addr().unwrap().port();
        let error = TcpStream::connect_timeout(&at(port), Duration::from_millis(500)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        UdpSocket::bind("10.99.0.2:0")
            .unwrap()
            .send_to(b"x", at(socket.local_addr().unwrap().port()))
            .unwrap();
    });
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(socket.recv(&mut [0; 8]).is_err(), "a datagram came in from outside");
    // From inside, the listener is reachable.
    rig.inside(|| {
        drop(TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).unwrap())
    });
}

#[test]
fn k14_a_sandbox_at_its_limit_of_half_open_connections_stops_no_other() {
    let enforcer = enforcer();
    let (greedy, other) = (Rig::new(), Rig::new());
    // Nobody accepts the greedy sandbox's connections: once the queue is full, they stay half open.
    let (greedy_ports, ports) = (greedy.listen(), other.listen());
    let attachment = greedy.attach(&enforcer, &greedy.enforcement(&greedy_ports)).unwrap();
    let _attachment = other.attach(&enforcer, &other.enforcement(&ports)).unwrap();
    let limit = u64::from(interceptor_ebpf::layout::HALF_OPEN_LIMIT);
    let sockets = greedy.inside(|| {
        let connect = |number: u16| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let [high, low] = number.to_be_bytes();
            let outcome =
                socket.connect(&SocketAddr::from((Ipv4Addr::new(203, 0, high, low), 80)).into());
            (socket, errno(outcome))
        };
        let mut sockets = Vec::new();
        for number in 0..5000 {
            let (socket, error) = connect(number);
            sockets.push(socket);
            if error != libc::EINPROGRESS {
                assert_eq!(error, libc::EPERM, "connection {number}");
                break;
            }
        }
        assert_eq!(connect(5000).1, libc::EPERM);
        sockets
    });
    assert_eq!(attachment.half_open(), limit);
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        other.inside(|| {
            for number in 0..100 {
                drop(TcpStream::connect((Ipv4Addr::new(203, 1, 0, number), 80)).unwrap());
            }
        });
    });
    assert_eq!(seen.iter().flatten().count(), 100);
    // The entries vanish with the sockets.
    drop(sockets);
    eventually(|| (attachment.half_open(), enforcer.maps().flows()) == (0, 0));
}

/// A pair of devices between two namespaces: 10.99.0.1 in the first, 10.99.0.2 in the second.
fn link(first: &Rig, second: &Rig) {
    let file = second.netns_path();
    first.command(&format!(
        "ip link add test0 type veth peer name test1 && ip link set test1 netns {file} && ip \
         address add 10.99.0.1/24 dev test0 && ip link set test0 up"
    ));
    second.command("ip address add 10.99.0.2/24 dev test1 && ip link set test1 up");
}
