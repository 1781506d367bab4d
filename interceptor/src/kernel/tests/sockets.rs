//! Which Internet sockets can be created at all.

use super::rig::{Rig, enforcer};
use crate::kernel::sys;

/// Every Internet protocol number a kernel may support, and some that none does.
const PROTOCOLS: [i32; 15] = [0, 1, 2, 4, 6, 17, 33, 41, 47, 50, 58, 132, 136, 255, 262];

#[test]
fn k4_k5_only_tcp_and_udp_sockets_can_be_made() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    // Lets the kernel give "ping" sockets to anybody.
    rig.command("echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range");
    let before = rig.inside(made);
    let _attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    let after = rig.inside(made);
    // The kernel permits these; the programs must refuse them.
    for refused in [
        (libc::SOCK_RAW, 1),
        (libc::SOCK_RAW, 255),
        (libc::SOCK_DGRAM, 1),
        (libc::SOCK_DGRAM, 136),
        (libc::SOCK_STREAM, 262),
    ] {
        assert!(
            before
                .iter()
                .any(|(_, kind, protocol, error)| (*kind, *protocol) == refused && *error == 0),
            "{refused:?} cannot be made without the programs either: this kernel does not test \
             them"
        );
    }
    for (family, kind, protocol, error) in after {
        let kept =
            matches!((kind, protocol), (libc::SOCK_STREAM, 0 | 6) | (libc::SOCK_DGRAM, 0 | 17));
        let expected =
            match before.iter().find(|line| (line.0, line.1, line.2) == (family, kind, protocol)) {
                _ if kept => 0,
                // What the kernel refuses by itself keeps its own error.
                Some((.., error)) if *error != 0 => *error,
                _ => libc::EPERM,
            };
        assert_eq!(error, expected, "socket({family}, {kind}, {protocol})");
        assert!(
            kept || [
                libc::EPERM,
                libc::EPROTONOSUPPORT,
                libc::ESOCKTNOSUPPORT,
                libc::EINVAL,
                libc::EACCES
            ]
            .contains(&error)
        );
    }
}

/// The outcome for every socket: family, type, protocol, error.
fn made() -> Vec<(i32, i32, i32, i32)> {
    let mut outcomes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // Not type 10: the kernel turns SOCK_PACKET into an AF_PACKET socket, which has no hook
        // (packet(7)).
        for kind in [
            libc::SOCK_STREAM,
            libc::SOCK_DGRAM,
            libc::SOCK_RAW,
            libc::SOCK_RDM,
            libc::SOCK_SEQPACKET,
            6,
        ] {
            for protocol in PROTOCOLS {
                let error = sys::socket(family, kind, protocol)
                    .err()
                    .map_or(0, |error| error.raw_os_error().unwrap());
                outcomes.push((family, kind, protocol, error));
            }
        }
    }
    outcomes
}
