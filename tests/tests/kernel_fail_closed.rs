//! A proxy that dies, hangs, runs out of descriptors or of memory, again and again and at any
//! moment, while programs inside try every way out: an observer outside the sandbox sees not one
//! packet.

use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use interceptor_tests::cage::{Cage, PYTHON, Talk};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

/// The number of times each fault occurs.
const KILLED_AT_WORK: usize = 80;
const KILLED_AT_START: usize = 80;
const STOPPED: usize = 20;
const OUT_OF_DESCRIPTORS: usize = 15;
const OUT_OF_MEMORY: usize = 15;

/// Tries every way out from several threads, until told to stop. `count` answers how many attempts
/// there were.
const LOAD: &str = r"
import socket, struct, sys, threading
stop = threading.Event()
tries = [0] * 8
query = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + b'\4evil\4test\0' + struct.pack('>HH', 1, 1)
def tcp(n, family, to):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(0.2)
    s.connect(to); s.sendall(b'GET / HTTP/1.1\r\nhost: evil.test\r\n\r\n'); s.recv(100); s.close()
def udp(n, family, to): socket.socket(family, socket.SOCK_DGRAM).sendto(query, to)
def connected(n, family, to):
    s = socket.socket(family, socket.SOCK_DGRAM); s.connect(to); s.send(query)
def raw(n, family, to):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    s.sendto(b'\x08\0\xf7\xff\0\0\0\0', ('203.0.113.9', 0))
def fast(n, family, to): socket.socket(family, socket.SOCK_STREAM).sendto(b'x', 0x20000000, to)
V4, V6 = socket.AF_INET, socket.AF_INET6
ways = [(tcp, V4, ('203.0.113.9', 443)), (tcp, V6, ('2001:db8::9', 443)),
        (tcp, V6, ('::ffff:203.0.113.9', 443)), (tcp, V4, ('10.99.0.2', 9)),
        (tcp, V4, ('203.0.113.9', 53)), (udp, V4, ('203.0.113.9', 443)),
        (udp, V4, ('203.0.113.9', 53)), (udp, V6, ('2001:db8::9', 53)),
        (udp, V6, ('::ffff:203.0.113.9', 443)), (connected, V4, ('203.0.113.9', 53)),
        (connected, V6, ('2001:db8::9', 443)), (raw, V4, None), (fast, V4, ('203.0.113.9', 443))]
def load(n):
    while not stop.is_set():
        for way, family, to in ways[n % 2::2] if n < 6 else ways:
            try: way(n, family, to)
            except OSError: pass
            tries[n] += 1
def once():
    for way, family, to in ways:
        try: way(0, family, to)
        except OSError: pass
once(); print('tried', flush=True)
for line in sys.stdin:
    if line == 'start\n':
        threads = [threading.Thread(target=load, args=(n,)) for n in range(8)]
        for thread in threads: thread.start()
    elif line == 'stop\n':
        stop.set()
        for thread in threads: thread.join()
    print(sum(tries), flush=True)
";

/// Random numbers without a crate, the same in every run: which moments they hit depends on the
/// machine anyway.
struct Random(u64);

impl Random {
    fn milliseconds(&mut self, below: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(self.0 % below)
    }
}

fn limit(pid: nix::unistd::Pid, what: &str) {
    let status = Command::new("prlimit").arg(format!("--pid={pid}")).arg(what).status().unwrap();
    assert!(status.success(), "prlimit {what}");
}

#[test]
fn k18_not_one_packet_leaves_in_two_hundred_deaths_of_the_proxy() {
    let cage = Cage::new();
    let evil = TcpListener::bind("127.0.0.1:0").unwrap();
    evil.set_nonblocking(true).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.json");
    std::fs::write(&policy, json!({ "network": { "allow": ["good.test"] } }).to_string()).unwrap();
    let resolve = format!("evil.test:{}", evil.local_addr().unwrap());
    let arguments = ["--policy", policy.to_str().unwrap(), "--resolve", &resolve];

    // Without a wall everything arrives, which shows that the observer and the ways out work.
    let mut load: Talk = cage.talk(cage.command(PYTHON), LOAD);
    assert_eq!(load.line(), "tried");
    let open = cage.packets();
    for expected in [
        "4 6 203.0.113.9",
        "6 6 2001:db8::9",
        "4 17 203.0.113.9",
        "6 17 2001:db8::9",
        "4 1 203.0.113.9",
    ] {
        assert!(
            open.iter().any(|packet| packet.starts_with(expected)),
            "{expected} is missing: {open:?}"
        );
    }

    let attached = cage.attach(&arguments).enforcing();
    let before = cage.packets().len();
    load.ask("start");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    thread::sleep(Duration::from_millis(50));
    attached.kill();
    for _ in 0..KILLED_AT_START {
        let attached = cage.attach(&arguments);
        thread::sleep(random.milliseconds(250));
        attached.kill();
    }
    for round in 0..KILLED_AT_WORK + STOPPED + OUT_OF_DESCRIPTORS + OUT_OF_MEMORY {
        let attached = cage.attach(&arguments).enforcing();
        thread::sleep(random.milliseconds(30));
        let fault = round.checked_sub(KILLED_AT_WORK);
        match fault {
            None => {}
            Some(number) if number < STOPPED => {
                kill(attached.pid(), Signal::SIGSTOP).unwrap();
                thread::sleep(Duration::from_millis(30));
            }
            Some(number) if number < STOPPED + OUT_OF_DESCRIPTORS => {
                limit(attached.pid(), "--nofile=12:12");
                thread::sleep(Duration::from_millis(50));
            }
            Some(_) => {
                limit(attached.pid(), "--as=1048576:1048576");
                thread::sleep(Duration::from_millis(50));
            }
        }
        attached.kill();
    }
    let attempts: usize = load.ask("stop").parse().unwrap();
    let packets = cage.packets();
    assert_eq!(
        packets.len(),
        before,
        "{attempts} attempts, and these got out: {:?}",
        &packets[before..]
    );
    assert!(attempts > 2_000, "only {attempts} attempts: no load");
    assert_eq!(
        evil.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock,
        "the proxy dialled a host that is not allowed"
    );
    // Then it works again, and ends without leaving anything behind.
    cage.attach(&arguments).enforcing().end();
}
