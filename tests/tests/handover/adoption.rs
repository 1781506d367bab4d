//! What a daemon leaves when it is killed, and what the next one does with it.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use interceptor_tests::bpf::take_one_off;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Daemon, Guest, ToServe, until};
use interceptor_tests::lab::Lab;
use serde_json::json;

use super::{HOST, Load, events, policy, successor};

/// A mount namespace with its own bpffs, so that a test's daemon finds no pins of other tests.
struct PinSpace(Child);

impl PinSpace {
    fn new() -> PinSpace {
        let script = "mount -t bpf bpf /sys/fs/bpf && echo ready && exec sleep 600";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        PinSpace(child)
    }

    fn daemon<'lab>(&self, lab: &'lab Lab) -> ToServe<'lab> {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.0.id());
        lab.daemon().quiet_log().at_origin(HOST).under(&["nsenter", &namespace, "--"])
    }

    /// Whether anything is pinned for a guest's cgroup.
    fn has(&self, cgroup: u64) -> bool {
        Path::new(&format!("/proc/{}/root/sys/fs/bpf/interceptor/{cgroup}", self.0.id())).exists()
    }
}

impl Drop for PinSpace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sandboxed program's ways out: past the proxy, over UDP and to a port of the host.
const ESCAPES: &str = r#"
import socket, sys, time, os
udp, tcp, stop = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print('trying', flush=True)
while not os.path.exists(stop):
    for kind, port in (socket.SOCK_DGRAM, udp), (socket.SOCK_STREAM, tcp):
        try:
            with socket.socket(type=kind) as s:
                s.settimeout(1); s.connect(('127.0.0.1', port)); s.send(b'out')
        except OSError: pass
    time.sleep(0.001)
"#;

/// An outside listener that would notice.
struct Observer {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
}

impl Observer {
    fn new() -> Observer {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        Observer { udp, tcp }
    }

    fn heard(&self) -> bool {
        self.udp.recv(&mut [0; 8]).is_ok() || self.tcp.accept().is_ok()
    }

    /// Starts a program in the sandbox that tries to reach it all the time.
    fn tried_by(&self, guest: &Guest<'_>, stop: &Path) -> Child {
        let ports = [self.udp.local_addr().unwrap().port(), self.tcp.local_addr().unwrap().port()];
        let mut command = guest.command("/usr/bin/python3");
        command.args(["-u", "-c", ESCAPES]).args(ports.map(|port| port.to_string())).arg(stop);
        let mut child = command.spawn().unwrap();
        let mut first = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        child
    }
}

/// The configuration of a daemon with one sandbox.
fn configuration(lab: &Lab, id: &str, cgroup: &Path) -> std::path::PathBuf {
    let policy = lab.secret_file("configured.json", &policy(lab).to_string());
    let config = json!({ "sandboxes": [{ "id": id, "cgroup": cgroup, "policy": policy }] });
    lab.secret_file("config.json", &config.to_string())
}

fn works(daemon: &Daemon<'_>, guest: Guest<'_>) {
    let made = daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json();
    let guest = daemon.guest_of(guest.cgroup, &made);
    let plan = Plan::https(HOST, "h2").ask_with(
        "GET",
        "/",
        &[("authorization", "Bearer $LAB_API_KEY")],
        "",
    );
    let reports = guest.fetch(&plan);
    assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
}

#[test]
fn k18_a_killed_daemon_leaves_the_wall_and_the_next_one_adopts_without_a_gap() {
    Lab::test(|lab| {
        lab.unordered();
        lab.audit_may_be_lost();
        let space = PinSpace::new();
        let observer = Observer::new();
        let first = space.daemon(lab).start();
        let guest = first.guest(&policy(lab));
        let stop = lab.work().join("stop-escapes");
        let mut escaping = observer.tried_by(&guest, &stop);
        let load = Load::start(lab, &guest);
        load.go_on(5);
        let config = configuration(lab, &guest.id, guest.cgroup.path());
        first.kill();
        // Several crashes, so that occupied pin paths occur too.
        for round in 0..4 {
            let next = space.daemon(lab).option("--config").option(&config).start();
            assert_eq!(next.ids(), *std::slice::from_ref(&guest.id), "round {round}");
            assert!(until(|| events(&next, "sandbox_adopted") == 1), "round {round}");
            next.kill();
            assert!(!observer.heard(), "round {round}");
        }
        fs::write(&load.stop, "").unwrap();
        let _ = load.end();
        let last = space.daemon(lab).option("--config").option(&config).start();
        fs::write(&stop, "").unwrap();
        escaping.wait().unwrap();
        assert!(!observer.heard(), "something got out");
        let id = guest.cgroup.id();
        works(&last, guest);
        let said = last.finish().err();
        assert!(
            said.contains("adopted sandbox") && said.contains("new CA and new placeholders"),
            "{said}"
        );
        assert!(!space.has(id));
    });
}

#[test]
fn o7_a_daemon_removes_what_it_is_told_not_to_keep_and_what_is_gone_and_keeps_the_rest_closed() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let space = PinSpace::new();
        let observer = Observer::new();
        let program = format!(
            "import socket\ntry: socket.create_connection(('127.0.0.1', {}), 5); \
             print('out')\nexcept OSError: print('refused')",
            observer.tcp.local_addr().unwrap().port()
        );
        let pins = |guest: &Guest<'_>| space.has(guest.cgroup.id());
        let first = space.daemon(lab).start();
        let [kept, gone, unwanted] = [(); 3].map(|()| first.guest(&json!({})));
        first.kill();
        gone.cgroup.remove();

        // By default it keeps sandboxes without a policy closed.
        let second = space.daemon(lab).start();
        assert!(second.ids().is_empty());
        assert_eq!([pins(&kept), pins(&gone), pins(&unwanted)], [true, false, true]);
        assert!(until(|| events(&second, "sandbox_kept_closed") == 2));
        assert_eq!([kept.python(&program), unwanted.python(&program)], ["refused\n", "refused\n"]);
        // Another sandbox on the cgroup takes the closed one's place.
        let again = json!({ "cgroup": unwanted.cgroup.path() });
        let made = second.call("POST", "/v1/sandboxes", &again.to_string());
        assert_eq!(made.status, 201, "{made:?}");
        second.kill();

        let third = space.daemon(lab).option("--adopt").option(&kept.id).start();
        assert_eq!([pins(&kept), pins(&unwanted)], [true, false]);
        assert!(until(|| events(&third, "sandbox_kept_closed")
            + events(&third, "sandbox_removed")
            == 2));
        assert_eq!([kept.python(&program), unwanted.python(&program)], ["refused\n", "out\n"]);
        third.finish();
        assert!(pins(&kept), "what it did not adopt is not its own to remove");
        let fourth = space.daemon(lab).option("--adopt").option("none").start();
        assert!(!pins(&kept));
        fourth.finish();
    });
}

#[test]
fn k17_programs_that_somebody_takes_off_are_noticed_before_and_after_a_takeover() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let (first, second) = (daemon.guest(&policy(lab)), daemon.guest(&policy(lab)));
        let take_one_off = |guest: &Guest<'_>| {
            let program = take_one_off(guest.cgroup.path());
            let output = Command::new("python3").args(["-c", &program]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{output:?}");
        };
        take_one_off(&first);
        assert!(until(|| events(&daemon, "enforcement_lost") == 1));
        daemon.remove(&first);
        let next = successor(lab, &daemon);
        assert!(until(|| events(&daemon, "sandbox_handed_over") == 1));
        let said = daemon.finish();
        let alarm = format!("ALARM: sandbox {}: somebody removed the eBPF programs", first.id);
        assert!(said.err().contains(&alarm), "{}", said.err());
        assert_eq!(events(&next, "enforcement_lost"), 0);
        take_one_off(&second);
        assert!(until(|| events(&next, "enforcement_lost") == 1));
        next.remove(&second);
        let said = next.finish();
        let alarm = format!("ALARM: sandbox {}: somebody removed the eBPF programs", second.id);
        assert!(said.err().contains(&alarm), "{}", said.err());
    });
}
