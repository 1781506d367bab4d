//! Attaching, refusing to attach, and leaving nothing behind.

use std::fs::File;
use std::net::TcpStream;
use std::time::Duration;

use super::rig::{Rig, enforcer, errno, networks};
use super::tcp::while_serving;
use crate::kernel::{Enforcer, KernelError, LoadOptions};
use crate::seam::{HalfOpen as _, MapFills as _};

#[test]
fn o7_dropping_an_attachment_leaves_no_entry_and_no_program() {
    let enforcer = enforcer();
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8", "2001:db8::/32", "::/1"]);
    enforcement.allowed_loopback = networks(&["127.0.0.0/8"]);
    let mut attachment = rig.attach(&enforcer, &enforcement).unwrap();
    // Nobody accepts: once the listener's queue is full, connections stay half open.
    let mut clients = Vec::new();
    while attachment.half_open() == 0 {
        assert!(clients.len() < 5000, "the queue is never full");
        clients.push(rig.inside(|| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let asked: std::net::SocketAddr = "192.0.2.1:80".parse().unwrap();
            assert_eq!(errno(socket.connect(&asked.into())), libc::EINPROGRESS);
            socket
        }));
    }
    assert_eq!((enforcer.maps().flows(), enforcer.maps().entries()), (1, 4));
    let gauge = enforcer.gauge();
    let fill = || gauge.read().iter().map(|fill| fill.entries).collect::<Vec<_>>();
    assert_eq!(fill(), [1, 1, 4], "sandboxes, flows, networks");
    assert_eq!(attachment.half_open_gauge().read(), Some(1));
    attachment.set_networks(&networks(&["11.0.0.0/8"]), &[]).unwrap();
    assert_eq!(enforcer.maps().entries(), 1, "those before, of both kinds, are gone");
    assert_eq!(fill(), [1, 1, 1]);
    drop(attachment);
    assert_eq!(fill(), [0, 0, 0]);
    assert_eq!((enforcer.maps().flows(), enforcer.maps().entries()), (0, 0));
    // The cgroup is as before: without a route the error differs from the programs' refusal.
    rig.inside(|| assert_eq!(errno(TcpStream::connect("192.0.2.1:80")), libc::ENETUNREACH));
}

#[test]
fn o7_a_cgroup_that_is_enforced_again_knows_nothing_of_before() {
    let enforcer = enforcer();
    let rig = Rig::new();
    for round in 0..50 {
        let ports = rig.listen();
        let mut enforcement = rig.enforcement(&ports);
        enforcement.denied =
            networks(if round % 2 == 0 { &["10.0.0.0/8"] } else { &["11.0.0.0/8"] });
        let attachment = rig.attach(&enforcer, &enforcement).unwrap();
        let (denied, open) = if round % 2 == 0 {
            ("10.0.0.1:1", "11.0.0.1:1")
        } else {
            ("11.0.0.1:1", "10.0.0.1:1")
        };
        let ((), seen) = while_serving(&ports, &*enforcer.destinations(), || {
            rig.inside(|| {
                assert_eq!(errno(TcpStream::connect(denied)), libc::EPERM);
                drop(
                    TcpStream::connect_timeout(&open.parse().unwrap(), Duration::from_secs(10))
                        .unwrap(),
                );
            });
        });
        assert_eq!(seen, [Some(open.parse().unwrap())]);
        drop(attachment);
    }
}

#[test]
fn a_second_enforcement_is_refused_at_above_and_below() {
    // Two enforcers, like two processes.
    let (first, second) = (enforcer(), enforcer());
    let rig = Rig::new();
    let ports = rig.listen();
    let enforcement = rig.enforcement(&ports);
    let nested = rig.nest("nested");
    let below = |enforcer: &Enforcer| {
        let mut enforcement = enforcement.clone();
        enforcement.cgroup_id =
            std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&nested).unwrap());
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
        let KernelError::AlreadyEnforced { place } = &error else { panic!("{error}") };
        assert_eq!(place, "a cgroup above this one");
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
fn k18_pinned_programs_stand_when_the_interceptor_is_gone_and_are_taken_over() {
    let bpffs = Bpffs::mount();
    let pins = bpffs.path().join("sandbox");
    let rig = Rig::new();
    let refused = || {
        rig.inside(|| {
            for address in ["192.0.2.1:80", "[2001:db8::1]:80", "127.0.0.1:80"] {
                assert_eq!(errno(TcpStream::connect(address)), libc::EPERM, "{address}");
            }
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            assert_eq!(errno(socket.send_to(b"x", "192.0.2.1:53")), libc::EPERM);
            assert_eq!(errno(socket.send_to(b"x", "192.0.2.1:443")), libc::EPERM);
        });
    };
    let enforcement = |ports: &super::rig::Ports| {
        let mut enforcement = rig.enforcement(ports);
        enforcement.shared_netns = true;
        enforcement.denied = networks(&["10.0.0.0/8"]);
        enforcement
    };
    let works = |enforcer: &Enforcer, ports: &super::rig::Ports| {
        let ((), seen) = while_serving(ports, &*enforcer.destinations(), || {
            rig.inside(|| {
                drop(TcpStream::connect("192.0.2.1:80").unwrap());
                assert_eq!(errno(TcpStream::connect("10.0.0.1:80")), libc::EPERM);
            });
        });
        assert_eq!(seen, [Some("192.0.2.1:80".parse().unwrap())]);
    };
    {
        let first = enforcer();
        let ports = rig.listen();
        let mut attachment =
            first.attach(File::open(&rig.cgroup).unwrap(), &enforcement(&ports)).unwrap();
        ports.mark(&attachment);
        attachment.pin(&pins).unwrap();
        works(&first, &ports);
        attachment.keep_programs();
    }
    refused();
    let second = enforcer();
    // The interceptor's own sockets, created in the cgroup while the old programs are attached.
    let ports = rig.listen();
    let error = rig.attach(&second, &enforcement(&ports)).unwrap_err();
    assert!(matches!(error, KernelError::AlreadyEnforced { .. }), "{error}");
    let (wanted, next) = (enforcement(&ports), pins.with_file_name("next"));
    let cgroup = File::open(&rig.cgroup).unwrap();
    let stale = [pins.clone()];
    let attachment = second.attach_pinned(cgroup, &wanted, &next, &stale).unwrap();
    assert!(!pins.exists());
    ports.mark(&attachment);
    works(&second, &ports);
    assert_eq!(std::fs::read_dir(&next).unwrap().count(), crate::kernel::HOOKS.len());
    // A normal end leaves nothing behind, nor does a removal after another crash.
    drop(attachment);
    assert!(!next.exists());
    let mut attachment = rig.attach(&second, &enforcement(&ports)).unwrap();
    attachment.pin(&pins).unwrap();
    attachment.keep_programs();
    refused();
    crate::kernel::remove_pins(&pins).unwrap();
    assert!(!pins.exists());
    rig.inside(|| assert_eq!(errno(TcpStream::connect("192.0.2.1:80")), libc::ENETUNREACH));
}

/// The test's own bpffs.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("bpf"), directory.path(), Some("bpf"), none, None::<&str>).unwrap();
        Self(directory)
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
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
    // The events come from the enforcer's thread, so the subscriber must be global.
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

#[test]
fn another_process_goes_on_with_the_same_programs_and_maps() {
    let (first, second) = (enforcer(), enforcer());
    let rig = Rig::new();
    let ports = rig.listen();
    let mut enforcement = rig.enforcement(&ports);
    enforcement.denied = networks(&["10.0.0.0/8"]);
    let pins =
        crate::kernel::bpffs().unwrap().join(format!("interceptor-inherit-{}", std::process::id()));
    let mut attachment = rig.attach(&first, &enforcement).unwrap();
    attachment.pin(&pins).unwrap();
    ports.mark(&attachment);
    // Connected before the hand-over, accepted after it.
    let early = rig.inside(|| {
        TcpStream::connect_timeout(&"192.0.2.9:9".parse().unwrap(), Duration::from_secs(10))
            .unwrap()
    });

    let descriptors =
        attachment.descriptors().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    let inherited = second.inherit(descriptors).unwrap();
    // A failure in the middle changes nothing.
    drop(inherited.attachment(attachment.cgroup_id(), &pins, None).unwrap());
    assert_eq!(first.maps().entries(), 1);
    let inherited = second.inherit(
        attachment.descriptors().iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect(),
    );
    let inherited = inherited.unwrap();
    let cgroup = File::open(&rig.cgroup).unwrap().into();
    let mut taken = inherited.attachment(attachment.cgroup_id(), &pins, Some(cgroup)).unwrap();
    assert_eq!(taken.lost(), [""; 0]);
    attachment.keep_programs();
    let programs = first.maps();
    taken.take_ownership();

    let asked: std::net::SocketAddr = "192.0.2.1:80".parse().unwrap();
    let ((), seen) = while_serving(&ports, &*inherited.destinations(), || {
        rig.inside(|| {
            assert_eq!(errno(TcpStream::connect("10.0.0.1:1")), libc::EPERM);
            drop(TcpStream::connect_timeout(&asked, Duration::from_secs(10)).unwrap());
        });
    });
    drop(early);
    assert_eq!(seen, [Some("192.0.2.9:9".parse().unwrap()), Some(asked)]);
    taken.set_networks(&networks(&["11.0.0.0/8", "12.0.0.0/8"]), &[]).unwrap();
    assert_eq!(programs.entries(), 2, "the old set is gone");
    drop(taken);
    assert_eq!((programs.entries(), programs.flows()), (0, 0));
    assert!(!pins.exists());
    rig.inside(|| assert_eq!(errno(TcpStream::connect("192.0.2.1:80")), libc::ENETUNREACH));
}
