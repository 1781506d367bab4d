//! Attaching, refusing to attach, and what is left afterwards: nothing.

use std::fs::File;
use std::net::TcpStream;
use std::time::Duration;

use super::rig::{Rig, enforcer, errno, networks};
use super::tcp::while_serving;
use crate::kernel::{Enforcer, KernelError, LoadOptions};

#[test]
fn o7_dropping_an_attachment_leaves_no_entry_and_no_program() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8", "2001:db8::/32", "::/1"]);
    enforcement.allowed_loopback = networks(&["127.0.0.0/8"]);
    let mut attachment = rig.attach(&enforcer, &enforcement).unwrap();
    // Nobody accepts: once the listener's queue is full, a connection stays half open.
    let mut clients = Vec::new();
    while attachment.half_open() == 0 {
        assert!(clients.len() < 5000, "the queue is never full");
        clients.push(rig.inside(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let asked: std::net::SocketAddr = "192.0.2.1:80".parse().unwrap();
            assert_eq!(errno(socket.connect(&asked.into())), libc::EINPROGRESS);
            socket
        }));
    }
    assert_eq!((enforcer.maps().flows(), enforcer.maps().entries()), (1, 4));
    attachment.set_denied(&networks(&["11.0.0.0/8"])).unwrap();
    assert_eq!(enforcer.maps().entries(), 2);
    drop(attachment);
    assert_eq!((enforcer.maps().flows(), enforcer.maps().entries()), (0, 0));
    // The cgroup is as before: there is no way out here, which is another error than the programs'.
    rig.inside(|| assert_eq!(errno(TcpStream::connect("192.0.2.1:80")), libc::ENETUNREACH));
}

#[test]
fn o7_a_cgroup_that_is_enforced_again_knows_nothing_of_before() {
    let enforcer = enforcer();
    let rig = Rig::new();
    for round in 0..50 {
        let ports = rig.listen();
        let mut enforcement = rig.enforcement(&ports);
        enforcement.denied = networks(if round % 2 == 0 { &["10.0.0.0/8"] } else { &["11.0.0.0/8"] });
        let attachment = rig.attach(&enforcer, &enforcement).unwrap();
        let (denied, open) =
            if round % 2 == 0 { ("10.0.0.1:1", "11.0.0.1:1") } else { ("11.0.0.1:1", "10.0.0.1:1") };
        let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
            rig.inside(|| {
                assert_eq!(errno(TcpStream::connect(denied)), libc::EPERM);
                drop(TcpStream::connect_timeout(&open.parse().unwrap(), Duration::from_secs(10)).unwrap());
            });
        });
        assert_eq!(seen, [Some(open.parse().unwrap())]);
        drop(attachment);
    }
}

#[test]
fn a_second_enforcement_is_refused_at_above_and_below() {
    // Two enforcers, as two processes have them.
    let (first, second) = (enforcer(), enforcer());
    let rig = Rig::new();
    let ports = rig.listen();
    let enforcement = rig.enforcement(&ports);
    let nested = rig.nest("nested");
    let below = |enforcer: &Enforcer| {
        let mut enforcement = enforcement.clone();
        enforcement.cgroup_id = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&nested).unwrap());
        enforcer.attach(File::open(&nested).unwrap(), &enforcement)
    };
    let attachment = rig.attach(&first, &enforcement).unwrap();
    for enforcer in [&first, &second] {
        let error = rig.attach(enforcer, &enforcement).unwrap_err();
        assert!(
            matches!(&error, KernelError::AlreadyEnforced { place } if place == "this cgroup"),
            "{error}"
        );
        let error = below(enforcer).unwrap_err();
        assert!(
            matches!(&error, KernelError::AlreadyEnforced { place } if place == "a cgroup above this one"),
            "{error}"
        );
    }
    drop(attachment);
    let attachment = below(&first).unwrap();
    let error = rig.attach(&second, &enforcement).unwrap_err();
    assert!(
        matches!(&error, KernelError::AlreadyEnforced { place } if place.ends_with("/nested")),
        "{error}"
    );
    drop(attachment);
    rig.attach(&second, &enforcement).unwrap();
}

#[test]
fn what_is_no_cgroup_or_another_is_refused() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    let error = enforcer.attach(File::open("/proc").unwrap(), &enforcement).unwrap_err();
    assert!(matches!(error, KernelError::NotCgroup2), "{error}");
    enforcement.cgroup_id += 1;
    let error = rig.attach(&enforcer, &enforcement).unwrap_err();
    assert!(matches!(error, KernelError::WrongCgroup { .. }), "{error}");
}

#[test]
fn more_sandboxes_than_the_maps_are_made_for_are_refused_by_number() {
    let enforcer = Enforcer::load_with(LoadOptions { sandboxes: 1, debug: false }).unwrap();
    let (first, second) = (Rig::new(), Rig::new());
    let ports = [first.listen(), second.listen()];
    let attachment = first.attach(&enforcer, &first.enforcement(&ports[0])).unwrap();
    let error = second.attach(&enforcer, &second.enforcement(&ports[1])).unwrap_err();
    assert!(matches!(error, KernelError::Full { sandboxes: 1 }), "{error}");
    drop(attachment);
    second.attach(&enforcer, &second.enforcement(&ports[1])).unwrap();
}

#[test]
fn the_programs_load_with_their_debug_events_and_report_a_refusal() {
    let events = Events::default();
    let seen = std::sync::Arc::clone(&events.0);
    // The events come from a thread of the enforcer's own, so the subscriber has to be everybody's.
    tracing::subscriber::set_global_default(events).unwrap();
    let enforcer = Enforcer::load_with(LoadOptions { sandboxes: 1, debug: true }).unwrap();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8"]);
    let _attachment = rig.attach(&enforcer, &enforcement).unwrap();
    rig.inside(|| {
        assert_eq!(errno(TcpStream::connect("10.11.12.13:80")), libc::EPERM);
        assert_eq!(errno(TcpStream::connect("[::ffff:10.11.12.14]:81")), libc::EPERM);
    });
    drop(enforcer);
    let seen = seen.lock().unwrap().join("\n");
    assert!(seen.contains("refused protocol=6 destination=[::ffff:10.11.12.13]:80"), "{seen}");
    assert!(seen.contains("refused protocol=6 destination=[::ffff:10.11.12.14]:81"), "{seen}");
}

/// Keeps the text of every event.
#[derive(Default)]
struct Events(std::sync::Arc<std::sync::Mutex<Vec<String>>>);

impl tracing::Subscriber for Events {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("interceptor::kernel")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{value:?} "));
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
}
