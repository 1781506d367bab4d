//! Deliberate attempts to exhaust the proxy (attack X1 to X5, X7, X8): it survives, its memory
//! stays bounded, and it serves the next connection.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use interceptor_tests::Lab;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
/// The most resident memory allowed under any attack. An idle debug build has about 60 MB.
const MOST_MEMORY: u64 = 400 << 20;

/// Connections, and frames of HTTP/2 (RFC 9113) as bytes.
const PYTHON: &str = r#"
import os, socket, ssl, struct, sys, time
HOST = 'api.example.test'
def connect(alpn=None, patience=20):
    context = ssl.create_default_context()
    if alpn: context.set_alpn_protocols([alpn])
    s = socket.create_connection((HOST, 443), patience); s.settimeout(patience)
    return context.wrap_socket(s, server_hostname=HOST)
def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + struct.pack('>BBI', kind, flags, stream) + payload
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING = 0, 1, 2, 3, 4, 6
GOAWAY, WINDOW, CONTINUATION = 7, 8, 9
def text(value):
    if len(value) < 127: return bytes([len(value)]) + value
    return b'\x7f' + varint(len(value) - 127) + value
def varint(number):
    out = b''
    while number >= 128: out += bytes([number & 127 | 128]); number >>= 7
    return out + bytes([number])
def head(path=b'/x'):
    return b'\x82\x87' + b'\x01' + text(HOST.encode()) + b'\x04' + text(path)
def h2(settings=b'', patience=20):
    s = connect('h2', patience)
    assert s.selected_alpn_protocol() == 'h2'
    s.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(SETTINGS, 0, 0, settings))
    return s
def flood(name, s, pieces):
    'Sends all there is, until the other side has had enough.'
    s.settimeout(0.2)
    ended = 'took everything'
    s.setblocking(False)
    deadline = time.time() + 15
    for piece in pieces:
        while piece:
            try: piece = piece[s.send(piece):]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
                time.sleep(0.001)
                if time.time() > deadline: piece = b''; ended = 'slow'
            except OSError: ended = 'closed'; piece = b''
            try:
                while s.recv(65536): pass
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError): pass
            except OSError: ended = 'closed'
        if ended != 'took everything': break
    sys.stderr.write(f'{name}: {ended}\n')
    s.close()
def served(note=''):
    s = connect()
    s.sendall(b'GET /served HTTP/1.1\r\nhost: api.example.test\r\nconnection: close\r\n\r\n')
    line = s.recv(12)
    print(note, line.decode(), flush=True)
    s.close()
"#;

fn policy(lab: &Lab, limits: Value) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["limits"] = limits;
    policy
}

/// Runs a program in a sandbox, then requests one more answer while it runs. The memory must stay
/// bounded; returns its peak in bytes.
fn survives(lab: &Lab, policy: &Value, program: &str) -> u64 {
    let sandbox =
        lab.sandbox(policy).at_origin(HOST).resolve("*.flood.test:443", lab.origin()).quiet_log();
    let program = format!("{PYTHON}{program}\nserved('after'); sys.stdin.readline()");
    let mut running = sandbox.open_stdin().start(&["/usr/bin/python3", "-c", &program]);
    running.wait_for("after HTTP/1.1 200");
    let peak = running.peak_memory_bytes();
    running.write(b"\n");
    let outcome = running.finish();
    // Shown if the test fails, and with `--nocapture`.
    println!("{} MB at most\n{}", peak >> 20, outcome.err());
    outcome.success();
    assert!(!outcome.err().contains("panicked"), "{}", outcome.err());
    assert!(peak < MOST_MEMORY, "the interceptor had {} MB", peak >> 20);
    peak
}

#[test]
fn x1_thousands_of_random_names_cost_bounded_memory() {
    Lab::test(|lab| {
        lab.unordered();
        let mut policy = policy(lab, json!({}));
        policy["network"]["allow"] = json!([HOST, "*.flood.test"]);
        let program = r#"
# A name that has its certificate goes on; one without would wait until the flood's pace allows
# another.
served('before')
context = ssl.create_default_context()
address = socket.getaddrinfo('a.flood.test', 443, socket.AF_INET)[0][4]
for number in range(2000):
    out = ssl.MemoryBIO()
    name = f'{os.urandom(8).hex()}.flood.test'
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    try: tls.do_handshake()
    except ssl.SSLWantReadError: pass
    s = socket.create_connection(address, 20)
    s.sendall(out.read())
    s.close()
"#;
        survives(lab, &policy, program);
    });
}

#[test]
fn x2_floods_of_frames_are_cut_off_or_borne() {
    Lab::test(|lab| {
        lab.unordered();
        lab.audit_may_be_lost();
        let program = r#"
flood('rapid reset', h2(), (
    b''.join(frame(HEADERS, 5, n, head()) + frame(RST, 0, n, struct.pack('>I', 8))
             for n in range(1 + 2 * b, 201 + 2 * b, 2))
    for b in range(0, 20000, 100)))
large = frame(CONTINUATION, 0, 1, b'\x00' + text(b'x-a') + text(b'b' * 100))
flood('continuation', h2(), [frame(HEADERS, 1, 1, head())] + [large] * 50000)
empty = frame(CONTINUATION, 0, 1) * 100
flood('empty continuation', h2(), [frame(HEADERS, 1, 1, head())] + [empty] * 1000)
flood('settings', h2(), [frame(SETTINGS, 0, 0, struct.pack('>HI', 4, 65535)) * 100] * 1000)
flood('ping', h2(), [frame(PING, 0, 0, b'12345678') * 100] * 1000)
upload = frame(HEADERS, 4, 1, b'\x83' + head(b'/upload')[1:])
flood('empty data', h2(), [upload] + [frame(DATA, 0, 1) * 100] * 1000)
flood('priority', h2(), [frame(PRIORITY, 0, 1, struct.pack('>IB', 0, 1)) * 100] * 1000)
flood('header table', h2(struct.pack('>HI', 1, 1 << 30)), [frame(HEADERS, 5, 1, head())])
bomb = b'\x40' + text(b'x-bomb') + text(b'z' * 3000) + b'\xbe' * 60000
rest = [bomb[at:at + 16000] for at in range(16000, len(bomb), 16000)]
flood('hpack bomb', h2(), [frame(HEADERS, 1, 1, head() + bomb[:16000])]
      + [frame(CONTINUATION, 0, 1, part) for part in rest])
"#;
        survives(lab, &policy(lab, json!({ "idle_timeout_seconds": 5 })), program);
    });
}

#[test]
fn x2_heads_that_unfold_cost_bounded_memory() {
    Lab::test(|lab| {
        lab.unordered();
        lab.audit_may_be_lost();
        // 16 KB that stand for 15,800 fields, for which h2 allocates more than a megabyte.
        let program = r#"
bomb = head() + b'\x40' + text(b'x') + text(b'') + b'\xbe' * 15800
held = []
for n in range(250):
    s = h2(); s.sendall(frame(HEADERS, 1, 1, bomb)); held.append(s)
served('meanwhile')
for n in range(3):
    flood('whole', h2(), [b''.join(frame(HEADERS, 5, n, bomb) for n in range(1, 200, 2))])
for s in held: s.close()
"#;
        let policy = policy(lab, json!({ "header_timeout_seconds": 300 }));
        let peak = survives(lab, &policy, program);
        // Without a limit on incomplete heads it has 320 MB.
        assert!(peak < 200 << 20, "the interceptor had {} MB", peak >> 20);
    });
}

#[test]
fn x2_streams_whose_window_is_zero_are_given_up() {
    Lab::test(|lab| {
        lab.unordered();
        let policy =
            policy(lab, json!({ "idle_timeout_seconds": 1, "connections": 1, "requests": 20 }));
        let program = r#"
s = h2(struct.pack('>HI', 4, 0))
s.sendall(b''.join(frame(HEADERS, 5, 1 + 2 * n, head(b'/bytes/1000000')) for n in range(20)))
try:
    while s.recv(65536): pass
except OSError: pass
# A connection that says nothing at all and answers every PING is idle, too.
s = h2()
try:
    while s.recv(65536): pass
except OSError: pass
"#;
        survives(lab, &policy, program);
    });
}

#[test]
fn x3_connections_that_do_not_go_on_give_their_places_back() {
    Lab::test(|lab| {
        lab.unordered();
        lab.audit_may_be_lost();
        let limits =
            json!({ "idle_timeout_seconds": 1, "header_timeout_seconds": 1, "connections": 4 });
        let program = r#"
def held(make):
    made = []
    for n in range(4): made.append(make())
    served(make.__name__)
    for s in made: s.close()
def slow_head():
    s = connect(); s.sendall(b'GET / HTTP/1.1\r\nx-a: '); return s
def slow_body():
    s = connect()
    s.sendall(b'POST /upload HTTP/1.1\r\nhost: api.example.test\r\n'
              b'content-length: 1000\r\n\r\nabc')
    return s
def slow_read():
    s = connect()
    s.sendall(b'GET /bytes/50000000 HTTP/1.1\r\nhost: api.example.test\r\n\r\n')
    return s
def idle():
    s = connect()
    s.sendall(b'GET /x HTTP/1.1\r\nhost: api.example.test\r\n\r\n')
    s.recv(10)
    return s
def no_handshake():
    s = socket.create_connection((HOST, 443), 20); s.sendall(b'\x16\x03\x01\x02\x00\x01'); return s
def silent():
    return socket.create_connection((HOST, 443), 20)
for make in [slow_head, slow_body, slow_read, idle, no_handshake, silent]: held(make)
"#;
        survives(lab, &policy(lab, limits), program);
    });
}

#[test]
fn x4_without_descriptors_the_offender_is_refused_and_recovers() {
    Lab::test(|lab| {
        lab.unordered();
        let sandbox = lab.sandbox(&policy(lab, json!({}))).at_origin(HOST).quiet_log().open_stdin();
        let program = format!(
            r#"{PYTHON}
served('before'); sys.stdin.readline()
held = []
for n in range(200):
    try: held.append(socket.create_connection((HOST, 443), 1))
    except OSError: break
time.sleep(0.5)
for s in held: s.close()
for attempt in range(50):
    try: served('recovered'); break
    except OSError: time.sleep(0.2)
"#
        );
        let mut running = sandbox.start(&["/usr/bin/python3", "-c", &program]);
        running.wait_for("before HTTP/1.1 200");
        let pid = running.pid().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, "--nofile=100:100"]).status();
        assert!(limited.expect("prlimit is part of util-linux").success());
        running.write(b"\n");
        let outcome = running.finish();
        assert!(outcome.success().out().contains("recovered HTTP/1.1 200"), "{}", outcome.out());
    });
}

/// A small file system, unmounted when the test ends.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: PathBuf, size: &str) -> Tmpfs {
        fs::create_dir(&at).expect("the lab's directory is writable");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .status();
        assert!(mounted.expect("mount runs").success());
        Tmpfs(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn x5_mutilated_input_of_every_protocol_ends_nothing_but_its_own_connection() {
    Lab::test(|lab| {
        lab.unordered();
        lab.audit_may_be_lost();
        let mut policy = policy(
            lab,
            json!({ "header_timeout_seconds": 1, "idle_timeout_seconds": 2, "mints_burst": 2000 }),
        );
        // Requests with a body are refused, so that it is certain which ones reached the origin.
        // Their bodies are still read.
        policy["credentials_v2"]["lab"]["endpoints"] =
            json!([{ "methods": ["GET"], "paths": ["/served"] }]);
        let program = r#"
import random
chance = random.Random(5)
def mutilated(seed):
    seed = bytearray(seed)
    for n in range(chance.choice((1, 1, 2, 5))):
        at, kind = chance.randrange(len(seed) + 1), chance.randrange(5)
        if kind == 0: seed[at:at + 1] = bytes([chance.randrange(256)])
        elif kind == 1: del seed[at:at + chance.randrange(1, 9)]
        elif kind == 2:
            seed[at:at] = chance.choice((b'\r\n', b'\0', b' ', b'\n', b':', b'\xff' * 9, b'chunked',
                                         b'%00', b'%2e%2e/', b'\t', b';'))
        elif kind == 3: seed[at:at] = seed[chance.randrange(len(seed) + 1):][:chance.randrange(64)]
        else: del seed[at:]
        if not seed: seed = bytearray(b'\0')
    return bytes(seed)
H1 = (b'GET /served HTTP/1.1\r\nhost: api.example.test\r\nx-a: b, c\r\ncookie: a=b; c=d\r\n'
      b'te: trailers\r\n\r\n',
      b'POST /x?a=b&c=%20 HTTP/1.1\r\nHost: api.example.test\r\nTransfer-Encoding: chunked\r\n'
      b'Trailer: x-t\r\n\r\n4;e="f"\r\nabcd\r\n0\r\nx-t: u\r\n\r\n',
      b'PUT /%2e%2e/a;b//c HTTP/1.1\r\nhost: api.example.test:443\r\n'
      b'authorization: Basic dTpw\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\nabc',
      b'GET /ws HTTP/1.1\r\nhost: api.example.test\r\nconnection: Upgrade\r\n'
      b'upgrade: websocket\r\nsec-websocket-version: 13\r\n'
      b'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
      b'GET http://api.example.test/served HTTP/1.1\r\nhost: api.example.test\r\n\r\n')
H2 = (frame(SETTINGS, 0, 0, struct.pack('>HI', 4, 65535)) + frame(HEADERS, 5, 1, head(b'/served'))
      + frame(WINDOW, 0, 0, struct.pack('>I', 9)),
      frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b'\x83' + head(b'/x')[1:])
      + frame(DATA, 0, 1, b'abc') + frame(DATA, 1, 1, b'def'),
      frame(SETTINGS, 0, 0) + frame(HEADERS, 1, 1, head(b'/x'))
      + frame(CONTINUATION, 4, 1, b'\x40' + text(b'x-a') + text(b'b'))
      + frame(PING, 0, 0, b'12345678') + frame(RST, 0, 1, b'\0\0\0\x08'))
def hello():
    out = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=HOST)
    try: tls.do_handshake()
    except ssl.SSLWantReadError: pass
    return out.read()
NAME = b'\3api\7example\4test\0\0\1\0\1'
QUERY = b'\x12\x34\1\0\0\1\0\0\0\0\0\1' + NAME + b'\0\0\x29\x10\0\0\0\0\0\0\x0c\0\x0a\0\x081234abcd'
plain = socket.getaddrinfo(HOST, 80, socket.AF_INET)[0][4]
def say(s, what, patience=0.01):
    try:
        s.sendall(what); s.settimeout(patience)
        while s.recv(65536): pass
    except OSError: pass
    finally: s.close()
served('before')
for number in range(120):
    for protocol in 'http/1.1', 'h2':
        context = ssl.create_default_context(); context.set_alpn_protocols([protocol])
        s = context.wrap_socket(socket.create_connection((HOST, 443), 20), server_hostname=HOST)
        if protocol == 'h2':
            say(s, b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + mutilated(chance.choice(H2)))
        else: say(s, mutilated(chance.choice(H1)))
    say(socket.create_connection((HOST, 443), 20), mutilated(hello()))
    say(socket.create_connection(plain, 20), mutilated(chance.choice(H1)))
    query = mutilated(QUERY)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.53', 53))
    say(s, query)
    say(socket.create_connection(('192.0.2.53', 53), 20),
        mutilated(struct.pack('>H', len(QUERY)) + QUERY))
"#;
        survives(lab, &policy, program);
    });
}

#[test]
fn x7_denials_that_fill_a_disk_stop_no_traffic_and_the_loss_is_told() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let disk = Tmpfs::mount(lab.directory().join("disk"), "256k");
        let filler = disk.0.join("filler");
        fs::write(&filler, vec![0; 200 << 10]).expect("there is room for this");
        let audit = disk.0.join("audit.jsonl");
        let sandbox = lab.sandbox(&policy(lab, json!({}))).at_origin(HOST).quiet_log();
        let program = format!(
            r#"{PYTHON}
def denials(number):
    s = socket.create_connection(('denied.test', 80), 20)
    file = s.makefile('rb')
    for n in range(number):
        s.sendall(b'GET / HTTP/1.1\r\nhost: denied.test\r\n\r\n')
        assert b' 403 ' in file.readline()
        length = 0
        while (line := file.readline().strip()):
            if line.lower().startswith(b'content-length:'): length = int(line.split(b':')[1])
        file.read(length)
denials(3000); served('full'); sys.stdin.readline()
time.sleep(1.5); denials(3); served('room')
"#
        );
        let sandbox = sandbox.audit_to(audit.to_str().expect("a path of letters")).open_stdin();
        let mut running = sandbox.start(&["/usr/bin/python3", "-c", &program]);
        running.wait_for("full HTTP/1.1 200");
        fs::remove_file(&filler).expect("it is there");
        running.write(b"\n");
        running.finish().success();
        let text = fs::read_to_string(&audit).expect("the audit file");
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("whole lines")).collect();
        let denied = lines
            .iter()
            .filter(|line| line["type"] == "host_denied" && line["kind"] == "request")
            .count();
        let dropped: u64 = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum();
        assert!(
            dropped > 0 && denied > 3,
            "{denied} denials and {dropped} lost records are told of"
        );
        // Beside the 3003 denials: two answers, the names, the start, the end.
        assert!((3003..3030).contains(
            &(lines.iter().filter(|line| line["kind"] != "lifecycle").count() as u64 + dropped)
        ));
    });
}

#[test]
fn x8_large_answers_through_the_search_for_keys_are_not_collected() {
    Lab::test(|lab| {
        lab.unordered();
        let program = r#"
import threading
def one():
    s = connect(patience=60)
    s.sendall(b'GET /bytes/20000000 HTTP/1.1\r\nhost: api.example.test\r\n'
              b'connection: close\r\n\r\n')
    total = 0
    while (piece := s.recv(65536)): total += len(piece)
    assert total > 20000000, total
threads = [threading.Thread(target=one) for n in range(40)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;
        survives(lab, &policy(lab, json!({})), program);
    });
}
