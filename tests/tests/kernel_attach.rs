//! `interceptor attach` against members of the cgroup that are root in their network namespace,
//! with sockets from before, and with programs of others: an observer outside sees nothing.

use std::fs;
use std::process::Command;

use interceptor_tests::bpf::{PROGRAMS, take_one_off};
use interceptor_tests::cage::{Cage, PYTHON, cgroup2, wait_until};
use interceptor_tests::sandbox::binary;

/// Opens one socket of each kind, and reports on request which still work.
const EXISTING: &str = r"
import os, socket, sys
def tcp(family, to):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(2); s.connect(to); return s
def udp(family, to):
    s = socket.socket(family, socket.SOCK_DGRAM); s.connect(to); return s
listener = socket.create_server(('127.0.0.1', 0))
own = tcp(socket.AF_INET, listener.getsockname()); accepted, _ = listener.accept()
sockets = {
    'tcp4': tcp(socket.AF_INET, ('203.0.113.9', 443)),
    'tcp6': tcp(socket.AF_INET6, ('2001:db8::9', 443)),
    'mapped': tcp(socket.AF_INET6, ('::ffff:203.0.113.9', 443)),
    'udp4': udp(socket.AF_INET, ('203.0.113.9', 9)),
    'udp6': udp(socket.AF_INET6, ('2001:db8::9', 9)), 'own': own,
}
print('open', flush=True)
for line in sys.stdin:
    if line == 'enter\n':
        open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); print('in', flush=True); continue
    works = []
    for name, s in sockets.items():
        try:
            try: s.send(b'x' * 10)
            except ConnectionRefusedError: s.send(b'x' * 10)  # the answer to the datagram before
            if s.type == socket.SOCK_STREAM and name != 'own': s.recv(10)
            if name == 'own': accepted.settimeout(1); accepted.recv(10)
            works.append(name)
        except OSError: pass
    print(' '.join(works), flush=True)
";

const ALL: &str = "tcp4 tcp6 mapped udp4 udp6 own";

#[test]
fn k7_connections_from_before_are_counted_or_closed() {
    let cage = Cage::new();
    let path = cage.cgroup().to_str().unwrap().to_owned();
    // One process created its sockets in the cgroup, and one entered with its sockets.
    let mut born = cage.talk(cage.command(PYTHON), EXISTING);
    let mut moved =
        cage.talk(cage.beside(PYTHON), &EXISTING.replace("sys.argv[1]", &format!("{path:?}")));
    assert_eq!((born.line(), moved.line()), ("open".to_owned(), "open".to_owned()));
    assert_eq!(moved.ask("enter"), "in");
    assert_eq!((born.ask("?"), moved.ask("?")), (ALL.to_owned(), ALL.to_owned()));

    // Reported, not closed: sockets created here are stopped at the device but not on `lo`; no hook
    // sees those created elsewhere.
    let attached = cage.attach(&[]).enforcing();
    assert_eq!(born.ask("?"), "own");
    assert_eq!(moved.ask("?"), ALL);
    let said = attached.end();
    // Six and six, and the accepted end and listener of the stranger's own loopback, and the
    // accepted end of the other's.
    assert!(
        said.contains("15 sockets") && said.contains("8 of them were opened outside"),
        "{said}"
    );
    assert!(said.contains("--kill-existing"), "{said}");
    // The kernel gives up on unsendable data only after a while, so use a new process with new
    // sockets.
    drop(born);
    let mut born = cage.talk(cage.command(PYTHON), EXISTING);
    assert_eq!(born.line(), "open");

    let attached = cage.attach(&["--kill-existing"]).enforcing();
    let before = cage.packets().len();
    assert_eq!((born.ask("?"), moved.ask("?")), (String::new(), String::new()));
    assert_eq!(cage.packets().len(), before, "{:?}", &cage.packets()[before..]);
    let said = attached.end();
    assert!(!said.contains("--kill-existing"), "{said}");
}

/// Tries every way to redirect a socket by socket options or the namespace's own rules.
const OPTIONS: &str = r"
import socket, subprocess
V4, V6 = socket.AF_INET, socket.AF_INET6
IP, IP6, SOL = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_SOCKET
options = [(SOL, 36, 7, 'SO_MARK'), (SOL, 25, b'inside\0', 'SO_BINDTODEVICE'),
    (IP, 19, 1, 'IP_TRANSPARENT'), (IP, 15, 1, 'IP_FREEBIND'), (IP, 50, 2 << 24, 'IP_UNICAST_IF'),
    (IP, 4, bytes([131, 7, 4, 203, 0, 113, 9, 0]), 'source route'), (SOL, 5, 1, 'SO_DONTROUTE'),
    (SOL, 62, 2, 'SO_BINDTOIFINDEX'), (IP, 80, 1, 'SO_ORIGINAL_DST'), (SOL, 12, 6, 'SO_PRIORITY')]
def attempt(name, family, kind, level, option, value, bound):
    to = ('203.0.113.9', 443) if family == V4 else ('2001:db8::9', 443)
    try:
        s = socket.socket(family, kind); s.settimeout(0.1)
        try: s.setsockopt(level, option, value)
        except OSError: pass
        if bound: s.bind((bound, 0))
        s.sendto(b'x', to) if kind == socket.SOCK_DGRAM else s.connect(to)
        if kind == socket.SOCK_STREAM: s.sendall(b'GET / HTTP/1.1\r\nhost: evil.test\r\n\r\n')
    except OSError: pass
def all():
    for level, option, value, name in options:
        for family in (V4, V6):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for bound in (None, '10.99.0.1' if family == V4 else 'fd99::1'):
                    attempt(name, family, kind, level, option, value, bound)
all()
for command in COMMANDS:
    done = subprocess.run(['sh', '-c', command], capture_output=True, text=True)
    if done.returncode: print(command, '->', done.stderr.strip())
    all()
print('done')
";

#[test]
fn k15_no_socket_option_and_no_rule_of_the_namespace_leads_round_the_wall() {
    let cage = Cage::new();
    let commands = [
        "ip rule add fwmark 7 table 100 && ip route add default via 10.99.0.2 table 100",
        "ip route add 203.0.113.0/24 via 10.99.0.2 dev inside",
        "ip -6 route add 2001:db8::/32 via fd99::2 dev inside",
        // Without what the kernel itself would say over it: an address of its own, and questions
        // for neighbours.
        "ip link add tunnel type vxlan id 7 remote 10.99.0.2 local 10.99.0.1 dstport 4789 dev \
         inside && ip link set tunnel addrgenmode none arp off multicast off && ip addr add \
         203.0.113.1/24 dev tunnel && ip link set tunnel up",
        "ip route replace 127.0.0.0/8 via 10.99.0.2 dev inside; ip addr del 127.0.0.1/8 dev lo; \
         ip addr add 127.0.0.1/8 dev inside",
    ];
    let program = OPTIONS.replace("COMMANDS", &format!("{commands:?}"));
    let attached = cage.attach(&[]).enforcing();
    let before = cage.packets().len();
    assert_eq!(cage.python(&program), "done\n");
    assert_eq!(sent(&cage, before), Vec::<String>::new());
    attached.end();
}

/// What the sandbox's sockets have sent since. Where the loopback route is gone, the kernel itself
/// resets connections to `::1` and 127.0.0.1 by whatever device is left: those packets are no
/// socket's, hold no byte of anybody's, and no machine takes them.
fn sent(cage: &Cage, before: usize) -> Vec<String> {
    let mut packets = cage.packets().split_off(before);
    packets.retain(|packet| {
        let fields: Vec<&str> = packet.split(' ').collect();
        let (to_loopback, length) =
            (["::1", "127.0.0.1"].contains(&fields[2]), fields[3].parse::<u32>().unwrap());
        // An Ethernet, an IP and a TCP header with time stamps.
        let without_data = fields[1] == "6" && length <= if fields[0] == "6" { 86 } else { 66 };
        !(to_loopback && without_data)
    });
    packets
}

#[test]
fn k16_with_every_rule_and_route_of_the_namespace_gone_there_is_no_network() {
    let cage = Cage::new();
    let commands = [
        "ip rule flush",
        "ip rule add table main",
        "ip route flush table local",
        "ip route add default via 10.99.0.2 dev inside onlink",
        "ip addr flush dev lo",
        "ip link set lo down",
        "ip tuntap add dev way mode tun && ip addr add 203.0.113.1/24 dev way && ip link set way \
         up",
    ];
    let program = OPTIONS.replace("COMMANDS", &format!("{commands:?}"));
    let attached = cage.attach(&[]).enforcing();
    let before = cage.packets().len();
    let said = cage.python(&program);
    assert!(said.ends_with("done\n"), "{said}");
    assert_eq!(sent(&cage, before), Vec::<String>::new());
    attached.end();
}

#[test]
fn k19_no_fragment_and_no_odd_header_gets_by_the_device() {
    // Raw sockets from before the attach: the only ones there are.
    let program = r"
import socket, struct, sys
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
raw6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 255)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.connect(('203.0.113.9', 9))
def header(flags, length, protocol=17):
    return struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + length, 7, flags, 64, protocol, 0,
                       socket.inet_aton('10.99.0.1'), socket.inet_aton('203.0.113.9'))
def header6(following, payload):
    return struct.pack('!IHBB16s16s', 0x60000000, len(payload), following, 64,
                       socket.inet_pton(socket.AF_INET6, 'fd99::1'),
                       socket.inet_pton(socket.AF_INET6, '2001:db8::9')) + payload
def attempts():
    for flags in (0x2000, 0x2001, 1, 3, 0x4000, 0x1fff):
        yield raw, header(flags, 24) + b'y' * 24, ('203.0.113.9', 0)
    for protocol in (1, 2, 4, 6, 17, 41, 47, 50, 51, 132, 136, 253):
        yield raw, header(0, 24, protocol) + b'y' * 24, ('203.0.113.9', 0)
    for following in (0, 43, 44, 60, 135, 139, 253, 254):
        payload = bytes([17, 0, 0, 1, 0, 0, 0, 7]) + b'y' * 16
        yield raw6, header6(following, payload), ('2001:db8::9', 0, 0, 0)
    yield udp, b'y' * 20000, None
for line in sys.stdin:
    sent = 0
    for s, packet, to in attempts():
        try: s.sendto(packet, to) if to else s.send(packet)
        except OSError: continue
        sent += 1
    print(sent, flush=True)
";
    let cage = Cage::new();
    let mut inside = cage.talk(cage.command(PYTHON), program);
    let sent: usize = inside.ask("?").parse().unwrap();
    let open = cage.packets();
    assert!(
        sent > 20 && open.len() > sent,
        "{sent} were sent without a wall, and arrived: {open:?}"
    );
    let attached = cage.attach(&[]).enforcing();
    let before = cage.packets().len();
    inside.ask("?");
    let packets = cage.packets();
    assert_eq!(packets.len(), before, "{:?}", &packets[before..]);
    attached.end();
}

#[test]
fn k10_a_program_on_a_nested_cgroup_changes_nothing_and_nobody_inside_takes_ours_off() {
    let cage = Cage::new();
    let attached = cage.attach(&[]).enforcing();
    let nested = cage.cgroup().join("nested");
    fs::create_dir(&nested).unwrap();
    // Root of the host, outside, attaches beside (MULTI) and as one that may be overridden
    // (OVERRIDE).
    let before = cage.packets().len();
    for (number, flags) in [2, 1].into_iter().enumerate() {
        let below = nested.join(number.to_string());
        fs::create_dir(&below).unwrap();
        let program = format!("{PROGRAMS}\nprint(attach({below:?}, {flags}))");
        let output = cage.beside(PYTHON).args(["-c", &program]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{output:?}");
        let connect = format!(
            "open({:?} + '/cgroup.procs', 'w').write('0')\nimport socket\ns = \
             socket.create_connection(('203.0.113.9', 80), 5)\ns.sendall(b'GET / \
             HTTP/1.1\\r\\nhost: evil.test\\r\\n\\r\\n'); print(s.recv(12))",
            below.to_str().unwrap()
        );
        // The proxy answers, whatever address the nested program has written.
        let said = cage.python(&connect);
        assert!(said.starts_with("b'HTTP/1.1 "), "flags {flags}: {said}");
    }
    let packets = cage.packets();
    assert_eq!(packets.len(), before, "{:?}", &packets[before..]);

    // Inside, without capabilities: neither seen nor detached, neither by cgroup nor by link, and
    // none is loaded.
    let program = format!(
        "{PROGRAMS}\nprint(ids({path:?}), load(), bpf(9, struct.pack('<IIII', os.open({path:?}, \
         os.O_RDONLY), 0, CONNECT4, 0)), bpf(30, struct.pack('<I', 1)))",
        path = cage.cgroup().to_str().unwrap()
    );
    let output = cage
        .command("setpriv")
        .args([
            "--reuid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
            PYTHON,
            "-c",
            &program,
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let codes: Vec<i32> = said.split_whitespace().map(|code| code.parse().unwrap()).collect();
    assert!(codes.len() == 4 && codes.iter().all(|code| *code < 0), "{output:?}");
    assert_eq!(
        (codes[0], codes[1], codes[3]),
        (-1, -1, -1),
        "EPERM is expected, but for taking off what one cannot name"
    );
    let connect = "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\ntry: s.sendto(b'x', \
                   ('203.0.113.9', 9))\nexcept OSError as e: print(e.errno)";
    assert_eq!(cage.python(connect), "1\n");
    attached.end();
}

#[test]
fn k17_what_is_no_cgroup_or_of_another_version_is_refused_with_the_remedy() {
    let attach = |path: &str| {
        let output = Command::new(binary("interceptor"))
            .args(["attach", "--cgroup", path])
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (path, expected) in [
        ("/nonexistent", "is no cgroup"),
        ("/tmp", "is no cgroup"),
        (cgroup2().to_str().unwrap(), "root of all cgroups"),
    ] {
        let (code, said) = attach(path);
        assert!(code == Some(2) && said.contains(expected), "{path}: {code:?} {said}");
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let v1 = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup");
    if let Some(v1) = v1 {
        let (code, said) = attach(v1[1]);
        assert!(
            code == Some(2) && (said.contains("version 1") || said.contains("is no cgroup")),
            "{code:?} {said}"
        );
    }
    // Without a bpffs to pin the programs, the wall would fall with the process.
    let cage = Cage::new();
    let script = format!(
        "mount -t tmpfs none /sys && exec {} attach --cgroup {}",
        binary("interceptor").display(),
        cage.cgroup().display()
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && !said.is_empty(), "{output:?}");
}

#[test]
fn k17_programs_that_somebody_takes_off_are_noticed() {
    let cage = Cage::new();
    let directory = tempfile::tempdir().unwrap();
    let audit = directory.path().join("audit.jsonl");
    let attached = cage.attach(&["--audit", audit.to_str().unwrap()]).enforcing();
    // Root of the host detaches one link, by its id.
    let program = take_one_off(cage.cgroup());
    let output = cage.beside(PYTHON).args(["-c", &program]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0", "{output:?}");
    wait_until(|| fs::read_to_string(&audit).unwrap_or_default().contains("enforcement_lost"));
    let said = attached.end();
    assert!(said.contains("connect4") && said.contains("no longer"), "{said}");
}
