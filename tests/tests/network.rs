//! The sandbox's network: names, addresses, protocols, and what it lacks.

use std::net::TcpListener;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::origin::listen::Listener;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

#[test]
fn an_allowed_name_has_a_stable_synthetic_address_in_both_families() {
    Lab::test(|lab| {
        let script = format!(
            "getent ahostsv4 {HOST}; getent ahostsv6 {HOST}; getent ahostsv4 {HOST}.; getent \
             ahostsv4 API.Example.TEST"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
        let text = outcome.success().out();
        let v4: Vec<&str> = text
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|a| a.contains('.'))
            .collect();
        assert!(v4.len() >= 3 && v4.iter().all(|address| *address == v4[0]), "{text}");
        assert!(v4[0].starts_with("198.18.") || v4[0].starts_with("198.19."), "{text}");
        assert!(text.contains("2001:2:"), "{text}");
    });
}

#[test]
fn a_denied_name_resolves_too_so_that_the_refusal_can_be_explained() {
    Lab::test(|lab| {
        let program =
            "import socket; print(socket.getaddrinfo('evil.test', 443, proto=socket.IPPROTO_TCP))";
        let outcome = lab.sandbox(&policy(lab)).at_forbidden("evil.test").python(program);
        assert!(outcome.success().out().contains("198.1"), "{}", outcome.out());
    });
}

#[test]
fn d2_dns_by_tcp_and_to_any_address_reaches_the_same_resolver() {
    Lab::test(|lab| {
        let program = format!(
            r#"
import socket, struct
def query(name, kind): 
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0'
    return struct.pack('>HHHHHH', 0x1234, 0x0100, 1, 0, 0, 0) + labels + struct.pack('>HH', kind, 1)
def udp(server, name, kind, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(5)
    s.sendto(query(name, kind), (server, 53))
    answer, source = s.recvfrom(4096)
    assert source[0] == server and source[1] == 53, source
    return answer
def tcp(server, name, kind):
    s = socket.create_connection((server, 53), 5); q = query(name, kind)
    s.sendall(struct.pack('>H', len(q)) + q)
    length = struct.unpack('>H', s.recv(2))[0]
    return s.recv(length)
answers = [udp(server, '{HOST}', 1) for server in ('8.8.8.8', '1.1.1.1', '192.0.2.53')]
answers += [udp('2001:4860:4860::8888', '{HOST}', 1, socket.AF_INET6), tcp('9.9.9.9', '{HOST}', 1)]
assert len({{a[-4:] for a in answers}}) == 1, answers
print('address', socket.inet_ntoa(answers[0][-4:]))
for kind in (64, 65):
    a = udp('8.8.8.8', '{HOST}', kind)
    assert struct.unpack('>H', a[6:8])[0] == 0, a
print('no HTTPS record')
"#
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&program);
        assert!(outcome.success().out().contains("no HTTPS record"), "{}", outcome.out());
        assert!(outcome.out().contains("address 198.1"), "{}", outcome.out());
    });
}

#[test]
fn k3_k4_everything_that_is_not_tcp_fails_at_once() {
    Lab::test(|lab| {
        let program = concat!(
            include_str!("../fixtures/attempts.py"),
            r#"attempt('packet dgram', make(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
attempt('sctp', make(socket.AF_INET, socket.SOCK_STREAM, 132))
attempt('mptcp', make(socket.AF_INET, socket.SOCK_STREAM, 262))
attempt('udplite', make(socket.AF_INET, socket.SOCK_DGRAM, 136))
attempt('vsock', make(socket.AF_VSOCK, socket.SOCK_STREAM, 0))
attempt('alg', make(38, socket.SOCK_SEQPACKET, 0))
"#
        );
        let outcome = lab.sandbox(&policy(lab)).python(program);
        let text = outcome.success().out();
        for line in text.lines() {
            let errno = line.rsplit_once(' ').unwrap().1;
            let refused = ["EPERM", "EACCES", "EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT"];
            assert!(refused.contains(&errno), "{line}\nin:\n{text}");
        }
        assert_eq!(text.lines().count(), 21);
    });
}

#[test]
fn getpeername_shows_the_address_that_was_asked_for() {
    Lab::test(|lab| {
        let program = format!(
            "import socket\nfor family in (socket.AF_INET, socket.AF_INET6):\n\x20   to = \
             socket.getaddrinfo('{HOST}', 443, family, socket.SOCK_STREAM)[0][4]\n\x20   s = \
             socket.socket(family, socket.SOCK_STREAM); s.connect(to)\n\x20   assert \
             s.getpeername()[:2] == to[:2], (s.getpeername(), to)\ns = \
             socket.socket(socket.AF_INET6, socket.SOCK_STREAM)\nv4 = \
             socket.getaddrinfo('{HOST}', 443, socket.AF_INET, \
             socket.SOCK_STREAM)[0][4]\ns.connect(('::ffff:' + v4[0], 443))\nassert \
             s.getpeername()[0] == '::ffff:' + v4[0], s.getpeername()\nprint('as asked')\n"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&program);
        assert_eq!(outcome.success().out(), "as asked\n");
    });
}

#[test]
fn k2_requests_pass_over_ipv4_ipv6_and_mapped_addresses() {
    Lab::test(|lab| {
        let program = format!(
            r#"
import socket, ssl
def get(family, address):
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(10); s.connect((address, 443))
    t = ssl.create_default_context().wrap_socket(s, server_hostname='{HOST}')
    t.sendall(b'GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n')
    print(t.recv(4096).split(b'\r\n')[0])
v4 = socket.getaddrinfo('{HOST}', 443, socket.AF_INET)[0][4][0]
v6 = socket.getaddrinfo('{HOST}', 443, socket.AF_INET6)[0][4][0]
get(socket.AF_INET, v4); get(socket.AF_INET6, v6); get(socket.AF_INET6, '::ffff:' + v4)
"#
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&program);
        assert_eq!(outcome.success().out().matches("200 OK").count(), 3, "{}", outcome.out());
    });
}

#[test]
fn t2_an_address_of_the_clients_choosing_is_not_dialled_for_a_name() {
    Lab::test(|lab| {
        let script = format!(
            "curl -sS --resolve {HOST}:443:198.51.100.66 https://{HOST}/x -w '%{{http_code}}'"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
        // Refused or dialled by name, but never at the client's address.
        match lab.seen().as_slice() {
            [] => assert!(!outcome.out().ends_with("200"), "{}", outcome.out()),
            [seen] => assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]),
            more => panic!("{more:?}"),
        }
    });
}

#[test]
fn p1_r7_the_hosts_own_addresses_are_out_of_reach() {
    Lab::test(|lab| {
        let policy = json!({ "network": {} });
        let port = lab.forbidden().port();
        let program = format!(
            r#"
import socket, errno
for to in ('127.0.0.1', '::1', '0.0.0.0', '::', '::ffff:127.0.0.1', '169.254.169.254',
           '10.0.0.1', '192.168.0.1', '172.16.0.1', '100.64.0.1', 'fd00:ec2::254', 'fe80::1',
           '64:ff9b::7f00:1', '2002:7f00:1::1'):
    family = socket.AF_INET6 if ':' in to else socket.AF_INET
    s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(10)
    try:
        s.connect((to, {port}))
        host = f'[{{to}}]' if ':' in to else to
        s.sendall(b'GET / HTTP/1.1\r\nhost: %s\r\n\r\n' % host.encode())
        print(to, s.recv(100).split(b'\r\n')[0])
    except OSError as e: print(to, e)
"#
        );
        let outcome = lab.sandbox(&policy).python(&program);
        let text = outcome.success().out();
        assert!(!text.contains(" 200 "), "{text}");
        assert_eq!(text.lines().count(), 14, "{text}");
    });
    Lab::test(|lab| {
        let policy = json!({ "network": {} });
        let port = lab.forbidden().port();
        for spelling in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"] {
            let bytes = format!("GET / HTTP/1.1\r\nhost: {spelling}:{port}\r\n\r\n");
            let outcome =
                lab.sandbox(&policy).send(&format!("198.51.100.1:{port}"), None, bytes.as_bytes());
            assert!(!outcome.out().contains(" 200 "), "{spelling}: {}", outcome.out());
        }
    });
}

#[test]
fn the_sandboxs_own_loopback_is_its_own() {
    Lab::test(|lab| {
        let host = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        let program = format!(
            r#"
import socket, threading
for family, address in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):
    s = socket.socket(family, socket.SOCK_STREAM); s.bind((address, {port})); s.listen()
    def serve(s=s):
        c, _ = s.accept(); c.sendall(b'mine'); c.close()
    threading.Thread(target=serve, daemon=True).start()
    print(socket.create_connection((address, {port}), 5).recv(10))
"#
        );
        let outcome = lab.sandbox(&policy(lab)).python(&program);
        assert_eq!(outcome.success().out().matches("b'mine'").count(), 2, "{}", outcome.out());
        host.set_nonblocking(true).unwrap();
        assert!(host.accept().is_err(), "the host's listener was reached");
    });
}

#[test]
fn a_denied_network_fails_at_connect() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "deny": ["203.0.113.0/24", "2001:db8::/32"] } });
        let program = r#"
import socket, errno
for family, to in ((socket.AF_INET, '203.0.113.7'), (socket.AF_INET6, '2001:db8::7'),
                   (socket.AF_INET6, '::ffff:203.0.113.7')):
    try: socket.socket(family, socket.SOCK_STREAM).connect((to, 443)); print('connected')
    except OSError as e: print(errno.errorcode[e.errno])
"#;
        let outcome = lab.sandbox(&policy).python(program);
        assert_eq!(outcome.success().out(), "EPERM\nEPERM\nEPERM\n");
    });
}

#[test]
fn a_raw_protocol_needs_a_tcp_rule_and_is_tunnelled_with_half_close() {
    Lab::test(|lab| {
        let echo = Listener::echo(lab.handle());
        let policy = json!({ "network": { "allow": ["tcp://db.example.test:5432"] } });
        let program = r#"
import socket
s = socket.create_connection(('db.example.test', 5432), 10)
s.sendall(b'\x00\x01 neither HTTP nor TLS')
s.shutdown(socket.SHUT_WR)
data = b''
while part := s.recv(4096): data += part
print(data)
"#;
        let outcome =
            lab.sandbox(&policy).resolve("db.example.test", echo.address()).python(program);
        assert!(outcome.success().out().contains("neither HTTP nor TLS"), "{}", outcome.out());
        let record = outcome
            .audit
            .iter()
            .find(|r| r.kind == "connection" && r.protocol.as_deref() == Some("tcp"));
        let record = record.unwrap_or_else(|| panic!("{:#?}", outcome.audit));
        assert_eq!(
            (record.decision.as_deref(), record.host.as_deref(), record.port),
            (Some("allow"), Some("db.example.test"), Some(5432))
        );
    });
}

#[test]
fn t3_a_protocol_that_speaks_first_is_tunnelled_where_a_tcp_rule_permits() {
    Lab::test(|lab| {
        let server = Listener::greeting(lab.handle(), "220 mail.example.test\r\n");
        let policy = json!({ "network": { "allow": ["tcp://mail.example.test:25"] } });
        let program = "import socket\ns = socket.create_connection(('mail.example.test', 25), \
                       10)\nprint(s.recv(100))\n";
        let outcome =
            lab.sandbox(&policy).resolve("mail.example.test", server.address()).python(program);
        assert!(outcome.success().out().contains("220 mail"), "{}", outcome.out());
    });
}

#[test]
fn t3_an_unknown_protocol_to_an_http_host_is_reset() {
    for bytes in [
        &b"\x00\x01\x02\x03\x04\x05\x06\x07 what is this\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        Lab::test(|lab| {
            let outcome = lab.sandbox(&policy(lab)).at_forbidden(HOST).send(
                &format!("{HOST}:443"),
                None,
                bytes,
            );
            assert!(!outcome.out().contains(" 200 "), "{}", outcome.out());
            // HTTP/2 without TLS is HTTP: refused request by request, not connection by connection.
            assert!(
                outcome.code() != Some(28) || bytes.starts_with(b"PRI"),
                "the connection was left open"
            );
            assert!(outcome.requests("allow").is_empty());
            let allowed = outcome
                .audit
                .iter()
                // A connection without a request let nothing through.
                .filter(|r| r.reason.as_deref() != Some("no_request"))
                .filter(|r| r.kind == "connection" && r.decision.as_deref() == Some("allow"));
            assert_eq!(allowed.count(), 0, "{:#?}", outcome.audit);
        });
    }
}

#[test]
fn passthrough_tunnels_tls_unopened() {
    Lab::test(|lab| {
        lab.tunnelled("pinned.example.test");
        let pinned = ["pinned.example.test"];
        let policy = json!({ "network": { "allow": pinned, "passthrough": pinned } });
        let ca = lab.work().join("origin-ca.pem");
        std::fs::write(&ca, lab.ca().pem()).unwrap();
        let command = ["curl", "-sS", "--cacert", "origin-ca.pem", "https://pinned.example.test/x"];
        let outcome = lab.sandbox(&policy).at_origin("pinned.example.test").run(&command);
        assert!(outcome.success().out().contains("saw it"), "{}", outcome.out());
        let record = outcome.audit.iter().find(|record| record.protocol.as_deref() == Some("tls"));
        assert_eq!(
            record.unwrap_or_else(|| panic!("{:#?}", outcome.audit)).decision.as_deref(),
            Some("allow")
        );
    });
}

#[test]
fn k13_http_is_recognised_on_any_port() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": ["free.example.test"] } });
        let mut sandbox = lab.sandbox(&policy);
        for port in [1, 22, 25, 853, 3128, 8443, 65535] {
            sandbox = sandbox.resolve(&format!("free.example.test:{port}"), lab.origin());
        }
        let script = "for port in 1 22 25 853 3128 8443 65535; do \
                      curl -sS https://free.example.test:$port/$port || exit; done";
        let outcome = sandbox.shell(script);
        assert_eq!(outcome.success().out().matches("saw it").count(), 7, "{}", outcome.out());
        assert_eq!(lab.seen()[6].host, "free.example.test:65535");
    });
}

#[test]
fn t7_two_sandboxes_have_authorities_of_their_own() {
    Lab::test(|lab| {
        let script = format!("cat $SSL_CERT_FILE > bundle-$0; curl -sS https://{HOST}/x");
        for name in ["a", "b"] {
            lab.sandbox(&policy(lab)).at_origin(HOST).run(&["sh", "-c", &script, name]).success();
        }
        let other = lab.sandbox(&policy(lab)).at_origin(HOST).run(&[
            "curl",
            "-sS",
            "--cacert",
            "bundle-a",
            "--capath",
            "/nonexistent",
            &format!("https://{HOST}/x"),
        ]);
        assert_eq!(other.code(), Some(60), "{}", other.out());
        // T6: the sandbox's trust bundle contains no private key.
        let bundle = std::fs::read_to_string(lab.work().join("bundle-a")).unwrap();
        assert!(!bundle.contains("PRIVATE KEY"));
    });
}

#[test]
fn t5_a_leaf_names_the_one_host() {
    Lab::test(|lab| {
        let script = format!(
            "openssl s_client -connect {HOST}:443 -servername {HOST} </dev/null 2>/dev/null | \
             openssl x509 -noout -ext subjectAltName,extendedKeyUsage"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
        let text = outcome.success().out();
        assert_eq!(text.matches("DNS:").count(), 1, "{text}");
        assert!(
            text.contains(&format!("DNS:{HOST}\n"))
                && text.contains("TLS Web Server Authentication"),
            "{text}"
        );
    });
}

#[test]
fn the_host_network_is_enforced_by_the_hooks_alone() {
    Lab::test(|lab| {
        let plan = Plan::https(HOST, "h2").ask("GET", "/x");
        let reports = lab.sandbox(&policy(lab)).at_origin(HOST).host_net().fetch(&plan);
        assert_eq!(
            (reports[0].error.as_deref(), reports[0].answers.len()),
            (None, 1),
            "{reports:?}"
        );
        assert_eq!(reports[0].answers[0].status, 200);
        // The host's loopback is out of reach there.
        let port = lab.forbidden().port();
        let program = format!(
            "import socket\nfor family, to in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, \
             '::ffff:127.0.0.1')):\n\x20   try: socket.socket(family, \
             socket.SOCK_STREAM).connect((to, {port})); print('connected')\n\x20   except OSError \
             as e: print('refused')\ntry: socket.socket(socket.AF_INET, \
             socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port})); print('sent')\nexcept \
             OSError as e: print('refused')\n"
        );
        let outcome = lab.sandbox(&policy(lab)).host_net().python(&program);
        assert_eq!(outcome.success().out(), "refused\nrefused\nrefused\n");
    });
}
