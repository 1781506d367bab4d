//! Every refusal of the programs is reported once, or counted.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use interceptor_ebpf::layout::REPORT_LIMIT;

use super::rig::{Rig, enforcer, errno, eventually, networks};
use super::tcp::while_serving;
use crate::kernel::sys;
use crate::seam::{Cause, Refusal, Refusals};

/// Stores what it receives.
#[derive(Default)]
struct Heard {
    refusals: Mutex<Vec<Refusal>>,
    dropped: AtomicU64,
}

impl Refusals for Heard {
    fn refused(&self, refusal: &Refusal) {
        self.refusals.lock().unwrap().push(*refusal);
    }

    fn dropped(&self, number: u64) {
        self.dropped.fetch_add(number, Ordering::Relaxed);
    }
}

impl Heard {
    fn of(&self) -> Vec<(Cause, u32, Option<SocketAddr>)> {
        let heard = self.refusals.lock().unwrap();
        heard.iter().map(|refusal| (refusal.cause, refusal.protocol, refusal.destination)).collect()
    }
}

#[test]
fn o4_every_refusal_is_reported_once_with_its_cause_and_destination() {
    let enforcer = enforcer();
    let (rig, other) = (Rig::new(), Rig::new());
    let (ports, other_ports) = (rig.listen(), other.listen());
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8", "2001:db8::/32"]);
    let mut attachment = rig.attach(&enforcer, &enforcement).unwrap();
    let mut beside = other.attach(&enforcer, &other.enforcement(&other_ports)).unwrap();
    let heard = Arc::new(Heard::default());
    let elsewhere = Arc::new(Heard::default());
    // Not reported: nobody has subscribed yet.
    rig.inside(|| assert_eq!(errno(TcpStream::connect("10.0.0.1:80")), libc::EPERM));
    attachment.report_to(heard.clone()).unwrap();
    beside.report_to(elsewhere.clone()).unwrap();
    let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
        rig.inside(|| {
            for address in ["10.0.0.1:80", "[2001:db8::1]:81", "[::ffff:10.0.0.2]:82"] {
                assert_eq!(errno(TcpStream::connect(address)), libc::EPERM, "{address}");
            }
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            assert_eq!(errno(socket.send_to(b"x", "192.0.2.1:443")), libc::EPERM);
            assert_eq!(errno(socket.connect("192.0.2.1:444")), libc::EPERM);
            // As C libraries do to sort a name's addresses.
            assert_eq!(errno(socket.connect("198.18.0.7:443")), libc::EPERM);
            assert_eq!(errno(sys::socket(libc::AF_INET, libc::SOCK_RAW, 1)), libc::EPERM);
            // Permitted connections are not reported.
            drop(TcpStream::connect("192.0.2.1:80").unwrap());
        });
    });
    assert_eq!(seen.len(), 1);
    // The reader delivers them without being asked.
    let at = |text: &str| Some(text.parse().unwrap());
    let expected = [
        (Cause::Network, 6, at("10.0.0.1:80")),
        (Cause::Network, 6, at("[2001:db8::1]:81")),
        (Cause::Network, 6, at("10.0.0.2:82")),
        (Cause::Protocol, 17, at("192.0.2.1:443")),
        (Cause::Protocol, 17, at("192.0.2.1:444")),
        (Cause::Protocol, 1, None),
    ];
    eventually(|| heard.of().len() >= expected.len());
    attachment.flush_refusals();
    assert_eq!(heard.of(), expected);
    assert_eq!(elsewhere.of(), []);
    drop(attachment);
    drop(beside);
    assert_eq!(heard.of().len(), expected.len());
}

#[test]
fn x7_a_flood_of_refusals_is_bounded_and_what_is_dropped_is_counted() {
    const FLOOD: u64 = 20_000;
    let enforcer = enforcer();
    let (rig, other) = (Rig::new(), Rig::new());
    let (ports, other_ports) = (rig.listen(), other.listen());
    let mut attachment = rig.attach(&enforcer, &rig.enforcement(&ports)).unwrap();
    let mut beside = other.attach(&enforcer, &other.enforcement(&other_ports)).unwrap();
    let (heard, elsewhere) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
    attachment.report_to(heard.clone()).unwrap();
    beside.report_to(elsewhere.clone()).unwrap();
    let start = std::time::Instant::now();
    rig.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..FLOOD {
            assert_eq!(errno(socket.send_to(b"x", "192.0.2.1:443")), libc::EPERM);
        }
    });
    let windows = start.elapsed().as_nanos() >> interceptor_ebpf::layout::REPORT_WINDOW_SHIFT;
    // The other sandbox's refusals still arrive.
    other.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(errno(socket.send_to(b"x", "192.0.2.2:443")), libc::EPERM);
    });
    eventually(|| heard.dropped.load(Ordering::Relaxed) > 0 && !elsewhere.of().is_empty());
    attachment.flush_refusals();
    let reported = heard.of().len() as u64;
    assert_eq!(reported + heard.dropped.load(Ordering::Relaxed), FLOOD);
    assert!(reported <= (windows as u64 + 2) * REPORT_LIMIT, "{reported} in {windows} windows");
    assert_eq!((elsewhere.of().len(), elsewhere.dropped.load(Ordering::Relaxed)), (1, 0));
}
