//! Answers about names that a sandbox may not, cannot or need not look up, and how many of them are
//! recorded.

use std::net::{SocketAddr, UdpSocket};
use std::thread;

use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

/// `ask(name, kind)`: the code, the addresses, and the extended error of an answer.
const ASK: &str = r#"
import json, socket, struct
def ask(name, kind, edns=True):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0'
    query = struct.pack('>HHHHHH', 7, 0x0100, 1, 0, 0, int(edns)) + labels
    query += struct.pack('>HH', kind, 1)
    if edns: query += b'\0' + struct.pack('>HHIH', 41, 1232, 0, 0)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
    s.sendto(query, ('9.9.9.9', 53))
    answer = s.recv(4096)
    _, flags, _, answers, _, additional = struct.unpack('>HHHHHH', answer[:12])
    rest, found = answer[12 + len(labels) + 4:], []
    for _ in range(answers):
        kind, _, _, length = struct.unpack('>HHIH', rest[2:12])
        data, rest = rest[12:12 + length], rest[12 + length:]
        family = socket.AF_INET if kind == 1 else socket.AF_INET6
        if kind in (1, 28): found.append(socket.inet_ntop(family, data))
    error = None
    if additional:
        options = rest[11:]
        while options:
            code, length = struct.unpack('>HH', options[:4])
            if code == 15:
                error = [struct.unpack('>H', options[4:6])[0], options[6:4 + length].decode()]
            options = options[4 + length:]
    return {'code': flags & 15, 'found': found, 'error': error}
"#;

fn answers(outcome: &Outcome) -> Value {
    outcome.success();
    outcome.json()
}

#[test]
fn a_name_with_resolve_has_addresses_and_no_other_records() {
    Lab::test(|lab| {
        let server = lab.names(&[]);
        let policy = json!({ "network": { "allow": ["here.test", "*.below.test", "gone.test"] } });
        let program = format!(
            "{ASK}
said = {{}}
for name in ('here.test', 'a.below.test', 'gone.test'):
    said[name] = [ask(name, kind)['code'] for kind in (1, 28, 15, 16, 33, 257, 2, 6, 65, 65280)]
print(json.dumps(said))"
        );
        let origin = lab.origin();
        let sandbox = lab.sandbox(&policy).resolver(server.address());
        let outcome = sandbox
            .resolve("here.test:443", origin)
            .resolve("*.below.test", origin)
            .python(&program);
        let said = answers(&outcome);
        assert_eq!(said["here.test"], json!([0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(said["a.below.test"], json!([0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(said["gone.test"], json!([3, 3, 3, 3, 3, 3, 3, 3, 0, 0]), "as for any name");
        assert!(server.asked().iter().all(|name| name == "gone.test"), "{:?}", server.asked());
    });
}

#[test]
fn the_sandbox_s_own_name_is_itself_in_both_families() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": ["api.test"] } });
        let program = format!(
            "{ASK}
own, said = socket.gethostname(), []
for name in (own, 'localhost'):
    for family in (socket.AF_INET, socket.AF_INET6):
        said.append(sorted({{a[4][0] for a in socket.getaddrinfo(name, 80, family)}}))
    said.append(ask(name, 1)['found'])
    said.append(ask(name, 28)['found'])
print(json.dumps(said))"
        );
        let said = answers(&lab.sandbox(&policy).python(&program));
        let (four, six) = (json!(["127.0.0.1"]), json!(["::1"]));
        assert_eq!(said, json!([four, six, four, six, four, six, four, six]));
    });
}

/// Asks for the address and text records of an unknown name.
fn asked_at(lab: &Lab, server: SocketAddr) -> (Value, Outcome) {
    let policy = json!({ "network": { "allow": ["good.test"] } });
    let program = format!(
        "{ASK}
print(json.dumps([ask('good.test', 1), ask('good.test', 16), ask('bad.test', 1), ask('bad.test', \
         16),
                  ask('bad.test', 1, edns=False)]))"
    );
    let outcome = lab.sandbox(&policy).resolver(server).python(&program);
    (answers(&outcome), outcome)
}

/// A name server that answers every question with SERVFAIL, for as long as the test's process
/// lives.
fn broken_name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.93.7.2:53").expect("a free port");
    let address = socket.local_addr().expect("bound");
    thread::spawn(move || {
        let mut message = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut message) {
            message[2] |= 0x80;
            message[3] = 0x82;
            let _ = socket.send_to(&message[..length], client);
        }
    });
    address
}

#[test]
fn a_denied_name_a_silent_name_server_and_a_broken_one_are_told_apart() {
    Lab::test(|lab| {
        let silent = UdpSocket::bind("127.93.7.1:53").expect("a free port");
        let servers = [
            (silent.local_addr().expect("bound"), 22, "upstream_timeout"),
            (broken_name_server(), 23, "upstream_unreachable"),
        ];
        for (server, code, kind) in servers {
            let (said, outcome) = asked_at(lab, server);
            // HTTP can explain more, so even an unknown name gets an address.
            assert_eq!(
                (&said[0]["code"], &said[0]["error"][0]),
                (&json!(0), &json!(code)),
                "{said}"
            );
            assert_eq!(
                (&said[1]["code"], &said[1]["error"][0]),
                (&json!(2), &json!(code)),
                "{said}"
            );
            assert_eq!((&said[2]["code"], &said[2]["error"][0]), (&json!(0), &json!(15)), "{said}");
            assert_eq!((&said[3]["code"], &said[3]["error"][0]), (&json!(5), &json!(15)), "{said}");
            assert_eq!(said[4]["error"], Value::Null, "no EDNS was asked for");
            let of = |host: &str| {
                let own =
                    outcome.audit.iter().filter(|record| record.host.as_deref() == Some(host));
                own.map(|record| (record.decision.as_deref(), record.reason.as_deref()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(of("good.test"), [(Some("allow"), Some(kind))]);
            assert_eq!(of("bad.test"), [(Some("deny"), Some("host_denied"))]);
        }
    });
}

#[test]
fn x4_a_flood_of_look_ups_is_paced_and_what_is_not_recorded_is_counted() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": ["api.test"] } });
        let program = r#"
import socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect(('9.9.9.9', 53))
def ask(labels):
    # Many at once, so that a slow machine floods too.
    for label in labels:
        head = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0)
        s.send(head + bytes([len(label)]) + label + b'\6denied\4test\0\0\1\0\1')
    for _ in labels: s.recv(512)
    return len(labels)
start, number = time.monotonic(), 0
while time.monotonic() - start < 3: number += ask([b'n%d' % (number + n) for n in range(50)])
same = time.monotonic() + 1
while time.monotonic() < same: number += ask([b'same'])
print(number, time.monotonic() - start)
"#;
        let outcome = lab.sandbox(&policy).python(program);
        outcome.success();
        let out = outcome.out();
        let (asked, seconds) = out.trim().split_once(' ').expect("two numbers");
        let (asked, seconds): (u64, f64) =
            (asked.parse().expect("one"), seconds.parse().expect("one"));
        // Two seconds' worth may come at once, as over HTTP.
        assert!(asked as f64 <= 1000.0 * (seconds + 3.0), "{asked} answers in {seconds} s");
        let recorded = outcome.audit.iter().filter(|record| record.kind == "dns").count() as u64;
        let told =
            outcome.audit.iter().filter(|r| r.reason.as_deref() == Some("dns_records_dropped"));
        let dropped: u64 = told.filter_map(|record| record.dropped).sum();
        assert!(recorded as f64 <= 1024.0 + 1000.0 * (seconds + 1.0), "{recorded} records");
        assert!(recorded + dropped <= asked && dropped > 0, "{recorded}, {dropped} of {asked}");
        // One record per name and minute is enough; all others are recorded or counted.
        let same = outcome.audit.iter().filter(|r| r.host.as_deref() == Some("same.denied.test"));
        assert!(same.count() <= 1);
    });
}

#[test]
fn x4_names_that_are_denied_leave_room_for_those_that_are_allowed() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": ["api.test", "late.test"] } });
        // Over TCP several questions wait for their turn at once.
        let program = format!(
            "{ASK}
before = ask('api.test', 1)['found']
import threading
def flood(base):
    for start in range(base, base + 2100, 700):
        s = socket.create_connection(('9.9.9.9', 53)); s.settimeout(120); query = b''
        for n in range(start, start + 700):
            label = b'n%d' % n
            one = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + bytes([len(label)]) + label + \
             b'\\6denied\\4test\\0\\0\\1\\0\\1'
            query += struct.pack('>H', len(one)) + one
        threading.Thread(target=s.sendall, args=(query,)).start()
        left = 700
        data = b''
        while left:
            data += s.recv(65536)
            while len(data) >= 2 and len(data) >= 2 + struct.unpack('>H', data[:2])[0]:
                data = data[2 + struct.unpack('>H', data[:2])[0]:]; left -= 1
        s.close()
threads = [threading.Thread(target=flood, args=(2100 * n,)) for n in range(16)]
for t in threads: t.start()
for t in threads: t.join()
late = ask('late.test', 1)
print(json.dumps([before == ask('api.test', 1)['found'], late['code'], len(late['found'])]))"
        );
        let sandbox = lab.sandbox(&policy).quiet_log().at_origin("api.test").at_origin("late.test");
        let outcome = sandbox.limit(std::time::Duration::from_secs(180)).python(&program);
        assert_eq!(answers(&outcome), json!([true, 0, 1]), "{}", outcome.tail());
    });
}
