//! One table of ways out, tried in every kind of sandbox: in a private network namespace, in the
//! host's, and in an existing cgroup, by an ordinary user and by root. TCP and DNS reach the
//! interceptor; everything else fails at once.

use std::collections::HashMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use interceptor_tests::cage::{Cage, PYTHON};
use interceptor_tests::lab::Road;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

/// Nobody has `203.0.113.9` or `2001:db8::9`; `198.51.100.0/24` is denied by address.
const WAYS: &str = r"
import ctypes, errno, socket, struct, sys, threading
V4, V6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
libc = ctypes.CDLL(None, use_errno=True)
head = b'GET / HTTP/1.1\r\nhost: evil.test\r\n\r\n'
A4, A6, MAPPED = ('203.0.113.9', 80), ('2001:db8::9', 80), ('::ffff:203.0.113.9', 80)
def way(name, do):
    try: result = do()
    except TimeoutError: result = 'TIMEOUT'
    except OSError as e: result = errno.errorcode[e.errno] if e.errno else repr(e)
    print(name, result or 'SUCCEEDED', flush=True)
def answer(s):
    s.settimeout(10)
    data = s.recv(4096)
    return 'proxied' if data.startswith(b'HTTP/1.1 403') else 'TALKED'
def stream(family, to, before=lambda s: None):
    def do():
        s = socket.socket(family, TCP); s.settimeout(10); before(s); s.connect(to)
        s.sendall(head); return answer(s)
    return do
def option(level, number, value):
    def set(s):
        try: s.setsockopt(level, number, value)
        except OSError: pass
    return set
def nonblocking():
    s = socket.socket(V4, TCP); s.setblocking(False)
    try: s.connect(A4)
    except BlockingIOError: pass
    s.setblocking(True); s.sendall(head); return answer(s)
def fastopen():
    s = socket.socket(V4, TCP); s.sendto(head, 0x20000000, A4); return answer(s)
def unspec(s):
    if libc.connect(s.fileno(), struct.pack('=H14x', 0), 16):
        raise OSError(ctypes.get_errno(), 'AF_UNSPEC')
def again():
    s = socket.socket(V4, TCP); s.settimeout(10); s.connect(('203.0.113.8', 80)); unspec(s)
    s.connect(A4); s.sendall(head); return answer(s)
def again_denied():
    s = socket.socket(V4, TCP); s.settimeout(10); s.connect(A4); unspec(s)
    s.connect(('198.51.100.66', 80))
way('tcp4', stream(V4, A4)); way('tcp6', stream(V6, A6)); way('mapped', stream(V6, MAPPED))
way('nonblocking', nonblocking); way('fastopen', fastopen)
way('fastopen_connect', stream(V4, A4, option(socket.IPPROTO_TCP, 30, 1)))
way('bind4', stream(V4, A4, lambda s: s.bind(('0.0.0.0', 0))))
way('bind6', stream(V6, A6, lambda s: s.bind(('::', 0))))
way('mark', stream(V4, A4, option(socket.SOL_SOCKET, 36, 7)))
way('transparent', stream(V4, A4, option(socket.IPPROTO_IP, 19, 1)))
way('device', stream(V4, A4, option(socket.SOL_SOCKET, 25, b'lo\0')))
way('v6only', stream(V6, A6, option(socket.IPPROTO_IPV6, 26, 1))); way('unspec_again', again)
way('unspec_denied', again_denied)
for family, to in ((V4, ('198.51.100.7', 80)), (V6, ('::ffff:198.51.100.8', 80))):
    way('denied', stream(family, to))
QUERY = (struct.pack('>HHHHHH', 0x77, 0x0100, 1, 0, 0, 0) + b'\4good\4test\0'
         + struct.pack('>HH', 1, 1))
def resolved(data):
    synthetic = data[-4:-2] in (b'\xc6\x12', b'\xc6\x13')
    return 'resolved' if data[:2] == QUERY[:2] and synthetic else repr(data)
def dns(family, server, connected):
    def do():
        s = socket.socket(family, UDP); s.settimeout(10)
        if connected: s.connect((server, 53)); s.send(QUERY); return resolved(s.recv(512))
        s.sendto(QUERY, (server, 53)); data, source = s.recvfrom(512)
        return resolved(data) if source[:2] == (server, 53) else repr(source)
    return do
for family, server in ((V4, '8.8.8.8'), (V4, '203.0.113.53'), (V6, '2001:4860:4860::8888'),
                       (V6, '::ffff:203.0.113.53')):
    for connected in (False, True): way('dns', dns(family, server, connected))
def dns_tcp():
    s = socket.create_connection(('203.0.113.53', 53), 10)
    s.sendall(struct.pack('>H', len(QUERY)) + QUERY); return resolved(s.recv(512)[2:])
way('dns', dns_tcp)
def two_servers():
    # As musl does: both questions to both servers on one socket; the first answer to each counts.
    s = socket.socket(V4, UDP); s.settimeout(10); s.bind(('0.0.0.0', 0))
    servers = ['203.0.113.53', '203.0.113.54']
    four, six = QUERY, struct.pack('>H', 0x78) + QUERY[2:-4] + struct.pack('>HH', 28, 1)
    for server in servers:
        for query in (four, six): s.sendto(query, (server, 53))
    pending = {four[:2], six[:2]}
    while pending:
        data, source = s.recvfrom(512)
        if source[0] in servers and source[1] == 53: pending.discard(data[:2])
    return 'resolved'
way('dns', two_servers)
def datagram(family, to): return lambda: socket.socket(family, UDP).sendto(b'x', to)
def connected(family, to):
    def do(): s = socket.socket(family, UDP); s.connect(to); s.send(b'x')
    return do
def elsewhere():
    s = socket.socket(V4, UDP); s.connect(('203.0.113.53', 53))
    s.sendto(b'x', ('203.0.113.9', 443))
def reconnected():
    s = socket.socket(V4, UDP); s.connect(('203.0.113.53', 53)); unspec(s)
    s.connect(('203.0.113.9', 443)); s.send(b'x')
def info():
    s = socket.socket(V4, UDP)
    ancillary = (socket.IPPROTO_IP, 8, struct.pack('=I4s4s', 1, bytes(4), bytes(4)))
    s.sendmsg([b'x'], [ancillary], 0, ('203.0.113.9', 443))
for family, to in ((V4, ('203.0.113.9', 443)), (V6, ('2001:db8::9', 443)),
                   (V6, ('::ffff:203.0.113.9', 443))):
    way('udp', datagram(family, to)); way('udp', connected(family, to))
way('udp', elsewhere); way('udp', reconnected); way('udp', info)
make = lambda *a: (lambda: socket.socket(*a) and None)
for protocol in (1, 2, 6, 17, 47, 132, 255): way('raw', make(V4, socket.SOCK_RAW, protocol))
for protocol in (58, 17, 255): way('raw', make(V6, socket.SOCK_RAW, protocol))
way('ping', make(V4, UDP, 1)); way('ping', make(V6, UDP, 58))
for kind, protocol in ((TCP, 262), (TCP, 132), (socket.SOCK_SEQPACKET, 132), (UDP, 136),
                       (6, 33), (TCP, 256)):
    way('protocol', make(V4, kind, protocol)); way('protocol', make(V6, kind, protocol))
if 'families' in sys.argv:
    way('packet', make(17, socket.SOCK_RAW, 0)); way('packet', make(17, UDP, 0))
    way('packet', make(V4, 10, 0x300))
    for family in (29, 30, 31, 38, 40, 42, 43, 44):
        way('family', make(family, TCP, 0)); way('family', make(family, socket.SOCK_SEQPACKET, 0))
    for protocol in (4, 9, 12, 15, 16):
        way('netlink', make(socket.AF_NETLINK, socket.SOCK_RAW, protocol))
    way('abstract', lambda: socket.socket(socket.AF_UNIX).connect('\0' + sys.argv[1]))
print('end')
";

/// Fails at once, with an error that says so.
const REFUSALS: [&str; 6] =
    ["EPERM", "EACCES", "EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "EINVAL"];

/// The expected result of each way.
#[track_caller]
fn judge(place: &str, text: &str) {
    assert!(text.ends_with("end\n"), "{place}: {text}");
    let mut count: HashMap<&str, usize> = HashMap::new();
    for line in text.lines().filter(|line| *line != "end") {
        let (name, outcome) = line.split_once(' ').unwrap();
        *count.entry(name).or_default() += 1;
        let fine = match name {
            "dns" => outcome == "resolved",
            "denied" | "unspec_denied" => outcome == "EPERM",
            "udp" | "raw" | "ping" | "protocol" | "packet" | "family" | "netlink" => {
                REFUSALS.contains(&outcome)
            }
            "abstract" => ["EPERM", "ECONNREFUSED"].contains(&outcome),
            _ => outcome == "proxied",
        };
        assert!(fine, "{place}: {line} in:\n{text}");
    }
    assert_eq!(
        (count["dns"], count["udp"], count["raw"], count["protocol"]),
        (10, 9, 10, 12),
        "{place}"
    );
}

fn policy() -> Value {
    json!({ "network": { "allow": ["good.test"], "deny": ["198.51.100.0/24"] } })
}

/// Compiles a fixture to where a sandbox can run it.
fn compile(source: &str, to: &Path, compiler: &str, options: &[&str]) -> PathBuf {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(source);
    let target = to.join(format!("{source}.bin"));
    let mut command = Command::new(compiler);
    let output = command
        .args(["-O1", "-static"])
        .args(options)
        .arg("-o")
        .arg(&target)
        .arg(&fixture)
        .output();
    let output = output.unwrap_or_else(|error| panic!("{compiler} is needed: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755)).unwrap();
    target
}

/// Every kind of sandbox that `run` makes: its name, whether the namespace is the host's, the user.
const PLACES: [(bool, &str); 4] =
    [(false, "nobody"), (false, "root"), (true, "nobody"), (true, "root")];

fn in_each_place(lab: &Lab, command: &[&str], mut judge: impl FnMut(&str, &Outcome)) {
    // Without sudo it is always the member.
    let is_another = |user: &str| lab.road() == Road::Root || user != "root";
    for (host, user) in PLACES.into_iter().filter(|(_, user)| is_another(user)) {
        let sandbox = lab.sandbox(&policy()).quiet_log().at_forbidden("good.test").user(user);
        let sandbox = if host { sandbox.host_net() } else { sandbox };
        let outcome = sandbox.run(command);
        judge(&format!("host network {host}, user {user}"), &outcome);
    }
}

#[test]
fn k1_k2_k3_k4_k5_k8_k15_every_way_out_is_intercepted_or_refused_in_every_place_of_run() {
    Lab::test_on_both_roads(|lab| {
        let name = format!("interceptor-families-{}", std::process::id());
        let _listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        in_each_place(lab, &[PYTHON, "-c", WAYS, &name, "families"], |place, outcome| {
            judge(place, &outcome.success().out());
            audited(place, outcome);
        });
    });
}

#[test]
fn k25_the_root_of_a_user_namespace_inside_has_no_other_ways() {
    Lab::test_on_both_roads(|lab| {
        let name = format!("interceptor-families-{}", std::process::id());
        let _listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for host in [false, true] {
            let sandbox =
                lab.sandbox(&policy()).quiet_log().at_forbidden("good.test").option("--nesting");
            let sandbox = if host { sandbox.host_net() } else { sandbox };
            let root =
                ["unshare", "--user", "--map-root-user", "--mount", "--ipc", "--uts", "--cgroup"];
            let outcome =
                sandbox.run(&[&root[..], &[PYTHON, "-c", WAYS, &name, "families"]].concat());
            judge(&format!("nested, host network {host}"), &outcome.success().out());
            audited("nested", &outcome);
        }
    });
}

/// Asserts that the audit file has each kernel refusal once.
#[track_caller]
fn audited(place: &str, outcome: &Outcome) {
    let refused = |ip: &str, port: u16| -> Vec<_> {
        let records = outcome.audit.iter().filter(|record| {
            record.kind == "connection"
                && record.ip.as_deref() == Some(ip)
                && record.port == Some(port)
        });
        records.collect()
    };
    for ip in ["198.51.100.7", "198.51.100.8", "198.51.100.66"] {
        let records = refused(ip, 80);
        let [record] = records.as_slice() else { panic!("{place}: {ip}: {:#?}", outcome.audit) };
        assert_eq!(
            (
                record.decision.as_deref(),
                record.reason.as_deref(),
                record.filter.as_deref(),
                record.rule.as_deref()
            ),
            (Some("deny"), Some("host_denied"), Some("network"), Some("198.51.100.0/24")),
            "{place}"
        );
        assert_eq!(record.host.as_deref(), Some(ip), "{place}");
    }
    let datagrams = refused("203.0.113.9", 443);
    // Seven by IPv4 and its mapped form: two with each address, one to elsewhere, one after
    // AF_UNSPEC, one with its source given.
    assert_eq!(datagrams.len(), 7, "{place}: {datagrams:#?}");
    assert!(
        datagrams.iter().all(|record| record.reason.as_deref() == Some("protocol_denied")),
        "{place}"
    );
    assert_eq!(refused("2001:db8::9", 443).len(), 2, "{place}");
}

#[test]
fn k1_k3_k6_io_uring_is_absent_and_many_datagrams_at_once_are_refused_in_every_place_of_run() {
    Lab::test_on_both_roads(|lab| {
        let program = compile("ways.c", &lab.work(), "cc", &[]);
        in_each_place(lab, &[program.to_str().unwrap()], |place, outcome| {
            let expected =
                format!("sendmmsg {}\nio_uring {}\n", libc_errno("EPERM"), libc_errno("ENOSYS"));
            assert_eq!(outcome.success().out(), expected, "{place}");
        });
    });
}

/// The numbers are those of all architectures of Linux that are supported.
fn libc_errno(name: &str) -> i32 {
    nix::errno::Errno::from_raw(match name {
        "EPERM" => 1,
        _ => 38,
    }) as i32
}

#[cfg(target_arch = "x86_64")]
#[test]
fn k1_the_system_calls_of_32_bits_kill_the_caller_in_every_place_of_run() {
    Lab::test_on_both_roads(|lab| {
        let options = ["-m32", "-nostdlib", "-fno-stack-protector"];
        let program = compile("i386.c", &lab.work(), "cc", &options);
        // Outside it can make sockets, so the fixture works.
        let output = Command::new(&program).output().unwrap();
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("c 2 1 0\ns 2 1 0\n"),
            "{output:?}"
        );
        in_each_place(
            lab,
            &["sh", "-c", "\"$0\"; echo status $?", program.to_str().unwrap()],
            |place, outcome| {
                // SIGSYS, before the first socket.
                assert_eq!(outcome.success().out(), "status 159\n", "{place}");
            },
        );
    });
}

/// A cage under `attach`, and the most packets it may send.
fn attached(directory: &Path) -> (Cage, interceptor_tests::cage::Attach, usize) {
    let cage = Cage::new();
    let file = directory.join("policy.json");
    std::fs::write(&file, policy().to_string()).unwrap();
    let attach = cage
        .attach(&["--policy", file.to_str().unwrap(), "--resolve", "good.test:127.0.0.1:9"])
        .enforcing();
    let before = cage.packets().len();
    (cage, attach, before)
}

/// As root of the host, who is in the cgroup as a container without user namespaces is, and as a
/// user without capabilities.
fn users(cage: &Cage, command: &[&str]) -> Vec<(&'static str, Command)> {
    let root = {
        let mut root = cage.command(command[0]);
        root.args(&command[1..]);
        root
    };
    let mut nobody = cage.command("setpriv");
    nobody
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"])
        .args(command);
    vec![("attach, root", root), ("attach, nobody", nobody)]
}

#[test]
fn k2_k3_k4_k5_k8_k15_every_way_out_is_intercepted_or_refused_in_an_attached_cgroup() {
    let directory = tempfile::tempdir().unwrap();
    let (cage, attach, before) = attached(directory.path());
    for (place, mut command) in users(&cage, &[PYTHON, "-c", WAYS]) {
        let output = command.output().unwrap();
        judge(
            place,
            &(String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)),
        );
    }
    let packets = cage.packets();
    assert_eq!(packets.len(), before, "{:?}", &packets[before..]);
    attach.end();
}

#[test]
fn k6_io_uring_meets_the_same_hooks_where_no_filter_hides_it() {
    let directory = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program = compile("ways.c", directory.path(), "cc", &[]);
    let (cage, attach, before) = attached(directory.path());
    for (place, mut command) in users(&cage, &[program.to_str().unwrap()]) {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.starts_with("sendmmsg 1\nio_uring 0\n"),
            "{place}: this kernel offers no io_uring: {text}"
        );
        let expected = "sendmmsg 1\nio_uring 0\nring_connect4 proxied 403\nring_connect6 proxied \
                        403\nring_send4 1\nring_send6 1\nring_udp 1\nring_raw 1\nring_mptcp 1\n";
        assert_eq!(text, expected, "{place}");
    }
    let packets = cage.packets();
    assert_eq!(packets.len(), before, "{:?}", &packets[before..]);
    attach.end();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn k1_the_system_calls_of_32_bits_meet_the_same_hooks_in_an_attached_cgroup() {
    let directory = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let program =
        compile("i386.c", directory.path(), "cc", &["-m32", "-nostdlib", "-fno-stack-protector"]);
    let (cage, attach, _) = attached(directory.path());
    for (place, mut command) in users(&cage, &[program.to_str().unwrap()]) {
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("c 2 1 0\ns 2 1 0\n") && text.ends_with("end\n"), "{place}: {text}");
        for line in text.lines().filter(|line| {
            line.split(' ').nth(1).is_some_and(|family| ["2", "10"].contains(&family))
        }) {
            let fields: Vec<&str> = line.split(' ').collect();
            let packet = fields[2] == "10";
            let permitted =
                [("1", "0"), ("1", "6"), ("2", "0"), ("2", "17")].contains(&(fields[2], fields[3]));
            // The obsolete spelling of a packet socket is no internet socket to the kernel, and is
            // root's here (see SECURITY.md).
            assert!(permitted || packet && place.ends_with("root"), "{place}: {line}");
        }
    }
    attach.end();
}

#[test]
fn d2_two_c_libraries_with_three_servers_resolve_by_the_interceptor() {
    let directory = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap();
    let musl = compile("resolve.c", directory.path(), "musl-gcc", &[]);
    let servers = directory.path().join("resolv.conf");
    std::fs::write(
        &servers,
        "nameserver 203.0.113.53\nnameserver 8.8.8.8\nnameserver 2001:4860:4860::8888\n",
    )
    .unwrap();
    let (cage, attach, before) = attached(directory.path());
    for command in [format!("{} good.test", musl.display()), "getent ahosts good.test".to_owned()] {
        let script =
            format!("mount --bind {} /etc/resolv.conf && exec {command}", servers.display());
        let output =
            cage.command("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("198.18.") || text.contains("198.19."), "{command}: {output:?}");
        assert!(text.contains("2001:2:"), "{command}: {output:?}");
    }
    let packets = cage.packets();
    assert_eq!(packets.len(), before, "{:?}", &packets[before..]);
    attach.end();
}

#[test]
fn d5_answers_of_the_sandboxs_own_making_lead_nowhere() {
    Lab::test(|lab| {
        let policy = lab.governed("api.example.test", json!([{ "methods": [], "paths": ["/"] }]));
        // The sandbox claims that a name has an attacker's address: the interceptor resolves the
        // name itself.
        let script = "curl -sS --max-time 20 --resolve api.example.test:443:203.0.113.66 \
                      https://api.example.test/x";
        let outcome = lab.sandbox(&policy).at_origin("api.example.test").shell(script);
        for seen in lab.seen() {
            assert_eq!(
                seen.values("authorization"),
                [format!("Bearer {}", lab.key())],
                "{}",
                outcome.err()
            );
        }
        assert!(lab.seen().len() <= 1);
        // The sandbox claims that a denied name has the synthetic address of an allowed one.
        let script = "address=$(getent ahostsv4 api.example.test | head -1 | cut -d' ' -f1); \
                      curl -sS --max-time 20 --resolve evil.test:443:$address https://evil.test/x \
                           -o body -w '%{http_code}'; grep -o '\"type\":\"[a-z_]*\"' body";
        let before = lab.seen().len();
        let outcome = lab
            .sandbox(&policy)
            .at_origin("api.example.test")
            .at_forbidden("evil.test")
            .shell(script);
        let text = outcome.out();
        assert!(
            text.starts_with("421") || text.starts_with("403") || !text.contains("200"),
            "{text}"
        );
        assert_eq!(lab.seen().len(), before);
    });
}

#[test]
fn d6_a_name_at_the_address_of_another_is_judged_by_itself() {
    Lab::test(|lab| {
        // Both names lead to one machine outside; only one is allowed.
        let policy = json!({ "network": { "allow": ["good-front.test"] } });
        let script = "curl -sS https://good-front.test/x > /dev/null || exit 9
address=$(getent ahostsv4 good-front.test \
             | head -1 | cut -d' ' -f1)
curl -s --max-time 20 --connect-to evil-front.test:443:$address:443 \
             https://evil-front.test/x -o /dev/null -w '%{http_code}\\n'
curl -s --max-time 20 https://good-front.test/x \
             -H 'host: evil-front.test' -o /dev/null -w '%{http_code}\\n'
curl -s --max-time 20 https://evil-front.test/x \
             -o /dev/null -w '%{http_code}\\n'";
        let sandbox =
            lab.sandbox(&policy).at_origin("good-front.test").at_origin("evil-front.test");
        let outcome = sandbox.shell(script);
        let text = outcome.success().out();
        let codes: Vec<&str> = text.lines().collect();
        assert!(
            codes.iter().all(|code| ["421", "403", "000"].contains(code)) && codes.len() == 3,
            "{text}"
        );
        assert_eq!(lab.seen().len(), 1);
    });
}
