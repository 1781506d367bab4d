//! Ways out that are not connections: other cgroups, other namespaces, other sockets, other system
//! calls.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

#[test]
fn k1_no_socket_family_but_the_four_that_are_harmless() {
    Lab::test_on_both_roads(|lab| {
        let program = "
import socket
allowed = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}
for family in range(46):
    for kind in range(1, 11):
        for protocol in (0, 1, 6, 17, 33, 58, 132, 136, 255, 262):
            try: socket.socket(family, kind, protocol).close()
            except (OSError, OverflowError): continue
            if family in allowed and protocol in (0, 1, 6, 17): continue
            if family == socket.AF_NETLINK and protocol == 0: continue
            print('made', family, kind, protocol)
print('done')
";
        let outcome = lab.sandbox(&policy(lab)).python(program);
        assert_eq!(outcome.success().out(), "done\n");
    });
}

/// `kill(0)` signals the whole process group, and no namespace stops it.
#[test]
fn k_a_signal_to_the_own_process_group_stays_in_the_sandbox() {
    Lab::test_on_both_roads(|lab| {
        for host_net in [false, true] {
            let sandbox = lab.sandbox(&policy(lab)).bare().quiet_log().user("root");
            let sandbox = if host_net { sandbox.host_net() } else { sandbox };
            let outcome = sandbox.run(&["python3", "-c", "import os; os.kill(0, 9)"]);
            // The interceptor survives.
            assert_eq!((outcome.code(), outcome.signal()), (Some(137), None), "{}", outcome.tail());
        }
    });
}

#[test]
fn k1_k6_k10_system_calls_that_go_round_the_hooks_are_refused() {
    Lab::test_on_both_roads(|lab| {
        // By number, because no library offers them: x86-64, then aarch64 if they differ.
        let program = "
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
arm = platform.machine() == 'aarch64'
def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    print(name, 'ok' if result >= 0 else errno.errorcode[ctypes.get_errno()])
buffer = ctypes.create_string_buffer(4096)
call('io_uring_setup', 425, 8, buffer)
call('bpf', 280 if arm else 321, 0, buffer, 128)
call('unshare_net', 97 if arm else 272, 0x40000000)
call('ptrace', 117 if arm else 101, 16, 1, 0, 0)
if not arm:
    call('x32_socket', 0x40000000 + 41, 40, 1, 0)
";
        let outcome = lab.sandbox(&policy(lab)).python(program);
        let text = outcome.success().out();
        assert!(text.lines().count() >= 4, "{text}");
        assert!(!text.contains(" ok"), "{text}");
    });
}

#[test]
fn k9_a_process_cannot_leave_its_cgroup() {
    Lab::test_on_both_roads(|lab| {
        let script = "
for file in $(find /sys/fs/cgroup -name cgroup.procs 2>/dev/null | head -200); \
                      do
    echo $$ > $file 2>/dev/null && echo \"moved to $file\"
done
mkdir /sys/fs/cgroup/unified/mine \
                      /sys/fs/cgroup/mine 2>/dev/null && echo made one
unshare -Urn true 2>/dev/null \
                      && curl -sS --max-time 3 https://evil.test/ -o /dev/null
unshare -Ur mount -t cgroup2 none /mnt 2>/dev/null && echo mounted
nsenter -t 1 -n true 2>/dev/null && echo entered
true";
        let outcome = lab.sandbox(&policy(lab)).at_forbidden("evil.test").shell(script);
        assert_eq!(outcome.success().out(), "");
    });
}

#[test]
fn k11_the_hosts_abstract_sockets_are_not_the_sandboxs() {
    Lab::test_on_both_roads(|lab| {
        let name = format!("interceptor-lab-{}", std::process::id());
        let listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let program = format!(
            "import socket\ntry: socket.socket(socket.AF_UNIX).connect('\\0{name}'); \
             print('connected')\nexcept OSError as e: print('refused')\n"
        );
        let outcome = lab.sandbox(&policy(lab)).python(&program);
        assert_eq!(outcome.success().out(), "refused\n");
        drop(listener);
    });
}

#[test]
fn k14_two_sandboxes_at_once_never_get_each_others_key_or_policy() {
    Lab::test(|lab| {
        lab.unordered();
        let second = lab.another_key();
        let one = policy(lab);
        let mut two = policy(lab);
        two["credentials_v2"]["lab"]["key"] = json!({ "file": lab.secret_file("second", &second) });
        two["credentials_v2"]["lab"]["endpoints"] =
            json!([{ "methods": ["GET"], "paths": ["/two"] }]);
        let plan = |path: &str| {
            let mut plan =
                (0..5).fold(Plan::https(HOST, "http/1.1"), |plan, _| plan.ask("GET", path));
            plan.connections = 60;
            plan
        };
        let statuses = |policy: &Value, path: &str| {
            let reports = lab.sandbox(policy).at_origin(HOST).quiet_log().fetch(&plan(path));
            assert!(reports.iter().all(|report| report.error.is_none()), "{reports:?}");
            reports
                .into_iter()
                .flat_map(|report| report.answers)
                .map(|answer| answer.status)
                .collect::<Vec<_>>()
        };
        std::thread::scope(|scope| {
            let first = scope.spawn(|| statuses(&one, "/one"));
            let denied = scope.spawn(|| statuses(&two, "/one"));
            let allowed = scope.spawn(|| statuses(&two, "/two"));
            assert_eq!(first.join().unwrap(), [200; 300]);
            assert_eq!(denied.join().unwrap(), [403; 300]);
            assert_eq!(allowed.join().unwrap(), [200; 300]);
        });
        for seen in lab.seen() {
            let key = if seen.path == "/one" { lab.key() } else { &second };
            assert_eq!(seen.values("authorization"), [format!("Bearer {key}")], "{}", seen.path);
        }
    });
}

#[test]
fn k14_connections_that_reset_at_once_do_not_confuse_the_others() {
    Lab::test_on_both_roads(|lab| {
        lab.unordered();
        let program = format!(
            r#"
import socket, ssl, struct, threading
address = socket.getaddrinfo('{HOST}', 443, socket.AF_INET)[0][4]
other = socket.getaddrinfo('other.example.test', 443, socket.AF_INET)[0][4]
def resets():
    for n in range(600):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        s.setblocking(False)
        try: s.connect(other)
        except BlockingIOError: pass
        s.close()
thread = threading.Thread(target=resets); thread.start()
context = ssl.create_default_context()
good = 0
for n in range(60):
    s = socket.create_connection(address, 10)
    t = context.wrap_socket(s, server_hostname='{HOST}')
    t.sendall(b'GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n')
    good += b' 200 ' in t.recv(4096)
    t.close()
thread.join()
print(good)
"#
        );
        let sandbox = lab
            .sandbox(&policy(lab))
            .at_origin(HOST)
            .at_forbidden("other.example.test")
            .quiet_log();
        assert_eq!(sandbox.python(&program).success().out(), "60\n");
    });
}

#[test]
fn k5_fast_open_and_nonblocking_connects_are_redirected_too() {
    Lab::test_on_both_roads(|lab| {
        let program = format!(
            r#"
import socket, ssl
address = socket.getaddrinfo('{HOST}', 80, socket.AF_INET)[0][4]
head = b'GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n'
s = socket.socket(); s.settimeout(10)
try:
    s.sendto(head, 0x20000000, address)
    print(s.recv(100).split(b'\r\n')[0])
except OSError as e: print('fast open', e)
s = socket.socket(); s.settimeout(10); s.setsockopt(socket.IPPROTO_TCP, 30, 1)
s.connect(address); s.sendall(head)
print(s.recv(100).split(b'\r\n')[0])
s = socket.socket(); s.setblocking(False)
try: s.connect(address)
except BlockingIOError: pass
s.setblocking(True); s.settimeout(10); s.sendall(head)
print(s.recv(100).split(b'\r\n')[0])
"#
        );
        // All of them reached the interceptor, which refuses plain HTTP to a governed host.
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&program);
        let text = outcome.success().out();
        assert_eq!(
            (text.matches("403").count() + text.matches("fast open").count(), text.lines().count()),
            (3, 3),
            "{text}"
        );
        assert_eq!(lab.seen().len(), 0);
    });
}

#[test]
fn k12_the_listeners_own_port_is_no_way_out() {
    Lab::test_on_both_roads(|lab| {
        // A direct connection to the interceptor's listening port is not a redirected connection.
        let program = "
import socket
ports = set()
for name in ('/proc/net/tcp', '/proc/net/tcp6'):
    for line in open(name).readlines()[1:]:
        fields = line.split()
        if fields[3] == '0A': ports.add((name, int(fields[1].split(':')[1], 16)))
print(len(ports) > 0)
for name, port in ports:
    for address in ('127.0.0.1', '::1'):
        try:
            s = socket.create_connection((address, port), 5); s.settimeout(5)
            s.sendall(b'GET / HTTP/1.1\\r\\nhost: api.example.test\\r\\n\\r\\n')
            data = s.recv(1000)
            if data: print('answered', data)
        except OSError: pass
";
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(program);
        assert_eq!(outcome.success().out(), "True\n");
        assert_eq!(lab.seen().len(), 0);
    });
}
