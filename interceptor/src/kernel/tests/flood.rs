//! Many connections at once: none gets another's destination, no sandbox blocks another, and
//! replacing a policy leaves no moment without one.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::rig::{Rig, enforcer, errno, eventually, networks};
use super::tcp::while_serving;

/// The number of threads, and of connections each makes.
const THREADS: u8 = 4;
const EACH: u16 = 25_000;

/// A destination that only this connection asks for.
fn destination(thread: u8, number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(100, thread, high, low), 443))
}

#[test]
fn k14_x4_of_100_000_connections_each_maps_right_or_is_closed_and_another_sandbox_works_on() {
    let enforcer = enforcer();
    let (greedy, other) = (Rig::new(), Rig::new());
    let (greedy_ports, other_ports) = (greedy.listen(), other.listen());
    let attachment = greedy.attach(&enforcer, &greedy.enforcement(&greedy_ports)).unwrap();
    let _beside = other.attach(&enforcer, &other.enforcement(&other_ports)).unwrap();
    let refused = AtomicUsize::new(0);
    let flood = |thread: u8| {
        for number in 0..EACH {
            let asked = destination(thread, number);
            if number % 16 == 0 {
                // Keeps the connection until the server has told its destination.
                let Ok(mut stream) = TcpStream::connect_timeout(&asked, Duration::from_secs(10))
                else {
                    refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let mut told = String::new();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                if stream.read_to_string(&mut told).is_ok() {
                    assert_eq!(told, asked.to_string());
                }
                continue;
            }
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
            match socket.connect(&SockAddr::from(asked)) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                // At its limit of half-open connections.
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    let done = AtomicBool::new(false);
    let works = AtomicUsize::new(0);
    let ((_, others), seen) = while_serving(&greedy_ports, &*enforcer.destinations(), || {
        while_serving(&other_ports, &*enforcer.destinations(), || {
            thread::scope(|scope| {
                let (flood, done, works) = (&flood, &done, &works);
                scope.spawn(|| {
                    other.inside(|| {
                        let mut number = 0;
                        while !done.load(Ordering::Relaxed) || number < 100 {
                            let asked = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1 + number));
                            let mut told = String::new();
                            TcpStream::connect(asked).unwrap().read_to_string(&mut told).unwrap();
                            assert_eq!(told, asked.to_string());
                            works.fetch_add(1, Ordering::Relaxed);
                            number = (number + 1) % 60_000;
                        }
                    });
                });
                greedy.inside(move || {
                    thread::scope(|scope| {
                        for thread in 0..THREADS {
                            scope.spawn(move || flood(thread));
                        }
                    });
                    done.store(true, Ordering::Relaxed);
                });
            });
        })
    });
    let known: Vec<SocketAddr> = seen.iter().flatten().copied().collect();
    let distinct: HashSet<_> = known.iter().collect();
    assert_eq!(distinct.len(), known.len(), "a destination was seen twice");
    let asked: HashSet<SocketAddr> = (0..THREADS)
        .flat_map(|thread| (0..EACH).map(move |number| destination(thread, number)))
        .collect();
    assert!(
        known.iter().all(|address| asked.contains(address)),
        "a destination that nobody asked for"
    );
    assert!(known.len() > usize::from(EACH) / 16, "{} of the flood arrived", known.len());
    let others: Vec<_> = others.into_iter().flatten().collect();
    assert_eq!(others.len(), works.load(Ordering::Relaxed));
    assert!(
        others.len() >= 100
            && others.iter().all(|address| address.ip() == Ipv4Addr::new(192, 0, 2, 1))
    );
    eventually(|| attachment.half_open() == 0);
}

#[test]
fn denied_networks_are_replaced_as_a_whole_under_load() {
    const REPLACEMENTS: usize = 60;
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    // Two sets that differ in much, share one network, and both lack another.
    let set = |first: &str, block: u8| -> Vec<IpNet> {
        let filler = (0..500_u16).map(|number| {
            let [high, low] = number.to_be_bytes();
            IpNet::new(Ipv4Addr::new(block, high, low, 0).into(), 24).unwrap()
        });
        networks(&[first, "12.0.0.0/8", "2001:db8::/32"]).into_iter().chain(filler).collect()
    };
    let sets = [set("10.0.0.0/8", 90), set("11.0.0.0/8", 91)];
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied.clone_from(&sets[0]);
    let mut attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let done = AtomicBool::new(false);
    let tried = AtomicUsize::new(0);
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    rig.inside(|| {
                        while !done.load(Ordering::Relaxed) {
                            for denied in
                                ["12.1.2.3:80", "[2001:db8::7]:80", "[::ffff:12.3.2.1]:80"]
                            {
                                assert_eq!(
                                    errno(TcpStream::connect(denied)),
                                    libc::EPERM,
                                    "{denied} got through"
                                );
                            }
                            drop(TcpStream::connect("13.0.0.1:80").unwrap());
                            tried.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                });
            }
            for number in 1..=REPLACEMENTS {
                attachment.set_networks(&sets[number % 2], &[]).unwrap();
                let [open, closed] = if number % 2 == 0 {
                    ["11.0.0.1:80", "10.0.0.1:80"]
                } else {
                    ["10.0.0.1:80", "11.0.0.1:80"]
                };
                rig.inside(|| {
                    assert_eq!(
                        errno(TcpStream::connect(closed)),
                        libc::EPERM,
                        "replacement {number}"
                    );
                    drop(TcpStream::connect(open).unwrap());
                });
            }
            done.store(true, Ordering::Relaxed);
        });
    });
    assert!(tried.load(Ordering::Relaxed) > REPLACEMENTS);
    assert!(
        seen.iter().flatten().all(
            |address| !matches!(address.ip(), std::net::IpAddr::V4(ip) if ip.octets()[0] == 12)
        )
    );
    assert_eq!(enforcer.maps().entries(), sets[0].len());
}
