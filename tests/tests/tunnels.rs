//! `tcp://` rules and `passthrough` carry TLS, TLS that starts later, and servers that speak first,
//! all unopened. They do not carry HTTP, which is still judged.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::origin::listen::Listener;
use serde_json::json;

const HOST: &str = "cache.example.test";

/// A Python server on the host that ends with the test.
struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Serves each connection by `serve(stream, context)`, where `context` has a certificate of the
    /// lab for [`HOST`].
    fn start(lab: &Lab, serve: &str) -> Server {
        let (certificate, key) = lab.ca().certificate_pem(HOST);
        let (certificate, key) =
            (lab.secret_file("server.pem", &certificate), lab.secret_file("server.key", &key));
        let program = format!(
            r#"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({certificate:?}, {key:?})
{serve}
def one(stream):
    try: serve(stream, context)
    except OSError: pass
    finally: stream.close()
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True: threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()
"#
        );
        let mut process = Command::new("/usr/bin/python3")
            .args(["-c", &program])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap();
        Server { process, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Answers PING with PONG, inside TLS.
const PONG: &str = r#"
def serve(stream, context):
    stream = context.wrap_socket(stream, server_side=True)
    while stream.recv(100): stream.sendall(b'+PONG\r\n')
"#;

/// Requests a PONG from [`HOST`], verified against the sandbox's trust.
const PING: &str = r#"
import socket, ssl
stream = socket.create_connection(('cache.example.test', 6380), 20)
stream = ssl.create_default_context().wrap_socket(stream, server_hostname='cache.example.test')
for _ in range(3):
    stream.sendall(b'PING\r\n')
    print(stream.recv(100))
"#;

#[test]
fn tls_on_a_tcp_rule_is_tunnelled_unopened() {
    for (allow, expected) in [
        (json!(["tcp://cache.example.test:6380"]), "tcp://cache.example.test:6380"),
        (json!(["cache.example.test", "tcp://*.example.test:6380"]), "tcp://*.example.test:6380"),
    ] {
        Lab::test(|lab| {
            let server = Server::start(lab, PONG);
            let policy = json!({ "network": { "allow": allow } });
            let outcome = lab.sandbox(&policy).resolve(HOST, server.address).python(PING);
            assert_eq!(outcome.success().out(), "b'+PONG\\r\\n'\n".repeat(3), "{}", outcome.tail());
            let tunnels: Vec<_> =
                outcome.audit.iter().filter(|record| record.kind == "connection").collect();
            assert_eq!(tunnels.len(), 1, "{:#?}", outcome.audit);
            assert_eq!(
                (
                    tunnels[0].decision.as_deref(),
                    tunnels[0].protocol.as_deref(),
                    tunnels[0].host.as_deref()
                ),
                (Some("allow"), Some("tls"), Some(HOST))
            );
            assert_eq!(tunnels[0].rule.as_deref(), Some(expected));
            assert!(outcome.requests("allow").is_empty() && outcome.requests("deny").is_empty());
        });
    }
}

#[test]
fn openssl_shakes_hands_through_a_tcp_rule_with_and_without_a_server_name() {
    Lab::test(|lab| {
        // One answer a connection, whose end openssl waits for.
        let server = Server::start(lab, &PONG.replace("while", "if"));
        let policy = json!({ "network": { "allow": ["tcp://cache.example.test:6380"] } });
        let script = "for name in '-servername cache.example.test' -noservername; do echo PING | \
                      openssl s_client -quiet -verify_return_error -verify_hostname \
                      cache.example.test $name -CAfile \"$SSL_CERT_FILE\" -connect \
                      cache.example.test:6380 2>/dev/null || true; done";
        let outcome = lab.sandbox(&policy).resolve(HOST, server.address).shell(script);
        assert_eq!(outcome.success().out(), "+PONG\r\n".repeat(2), "{}", outcome.tail());
    });
}

#[test]
fn a_server_that_greets_and_then_starts_tls_is_carried() {
    const STARTTLS: &str = r#"
def serve(stream, context):
    stream.sendall(b'220 ready\r\n')
    assert stream.recv(100) == b'STARTTLS\r\n'
    stream.sendall(b'220 go ahead\r\n')
    stream = context.wrap_socket(stream, server_side=True)
    stream.sendall(b'inside: ' + stream.recv(100))
"#;
    let program = r#"
import socket, ssl
stream = socket.create_connection(('cache.example.test', 25), 20)
print(stream.recv(100))
stream.sendall(b'STARTTLS\r\n')
print(stream.recv(100))
stream = ssl.create_default_context().wrap_socket(stream, server_hostname='cache.example.test')
stream.sendall(b'EHLO')
print(stream.recv(100))
"#;
    for allow in [json!(["tcp://cache.example.test:25"]), json!(["*", "tcp://cache.example.test"])]
    {
        Lab::test(|lab| {
            let server = Server::start(lab, STARTTLS);
            let policy = json!({ "network": { "allow": allow } });
            let outcome = lab.sandbox(&policy).resolve(HOST, server.address).python(program);
            let expected = "b'220 ready\\r\\n'\nb'220 go ahead\\r\\n'\nb'inside: EHLO'\n";
            assert_eq!(outcome.success().out(), expected, "{}", outcome.tail());
        });
    }
}

/// A client that hesitates, and one that never says anything until it was spoken to.
#[test]
fn t3_who_speaks_first_decides_however_long_it_takes() {
    Lab::test(|lab| {
        let greeting = Listener::greeting(lab.handle(), "5.7.0-server\0");
        let echo = Listener::echo(lab.handle());
        let policy = json!({ "network": { "allow": [
            "tcp://db.example.test", "tcp://echo.example.test", "tcp://web.example.test",
        ] } });
        let program = r#"
import socket, time
def late(host, port, words):
    stream = socket.create_connection((host, port), 20)
    time.sleep(1)
    stream.sendall(words)
    if b'HTTP' not in words: stream.shutdown(socket.SHUT_WR)
    data = b''
    while part := stream.recv(4096): data += part
    return data
print(socket.create_connection(('db.example.test', 3306), 20).recv(100))
print(late('echo.example.test', 7, b'\x00\x01 neither'))
request = b'GET /late HTTP/1.1\r\nhost: web.example.test\r\nconnection: close\r\n\r\n'
print(late('web.example.test', 80, request).split(b'\r\n')[0])
"#;
        let outcome = lab
            .sandbox(&policy)
            .resolve("db.example.test", greeting.address())
            .resolve("echo.example.test", echo.address())
            .resolve("web.example.test", lab.plain())
            .python(program);
        let expected = "b'5.7.0-server\\x00'\nb'\\x00\\x01 neither'\nb'HTTP/1.1 200 OK'\n";
        assert_eq!(outcome.success().out(), expected, "{}", outcome.tail());
        // HTTP under such a rule is still judged and recorded as a request.
        let requests = outcome.requests("allow");
        assert_eq!(requests.len(), 1, "{:#?}", outcome.audit);
        assert_eq!(requests[0].path.as_deref(), Some("/late"));
    });
}

#[test]
fn an_origin_that_cannot_be_reached_is_explained_to_http_and_resets_all_else() {
    Lab::test(|lab| {
        let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let policy = json!({ "network": { "allow": ["tcp://cache.example.test"] } });
        let program = r#"
import socket
def ask(words):
    stream = socket.create_connection(('cache.example.test', 80), 20)
    if words: stream.sendall(words)
    try: return stream.recv(100).split(b'\r\n')[0][:12]
    except ConnectionResetError: return b'reset'
print(ask(b'GET / HTTP/1.1\r\nhost: cache.example.test\r\n\r\n'), ask(b'\x00\x01\x02'), ask(None))
"#;
        let outcome = lab.sandbox(&policy).resolve(HOST, nowhere).python(program);
        assert_eq!(
            outcome.success().out(),
            "b'HTTP/1.1 502' b'reset' b'reset'\n",
            "{}",
            outcome.tail()
        );
        let refused = outcome
            .audit
            .iter()
            .filter(|record| record.reason.as_deref() == Some("upstream_unreachable"));
        assert_eq!(refused.count(), 3, "{:#?}", outcome.audit);
    });
}

#[test]
fn passthrough_needs_no_server_name_where_the_name_was_looked_up() {
    Lab::test(|lab| {
        let server = Server::start(lab, PONG);
        let policy = json!({ "network": { "allow": [HOST], "passthrough": [HOST] } });
        let program = r#"
import socket, ssl
context = ssl.create_default_context(); context.check_hostname = False
def ask(name):
    stream = socket.create_connection(('cache.example.test', 443), 20)
    stream = context.wrap_socket(stream, server_hostname=name)
    issuer = dict(pair for group in stream.getpeercert()['issuer'] for pair in group)['commonName']
    stream.sendall(b'PING')
    return issuer, stream.recv(100)
print(ask(None), ask('cache.example.test'))
try: print(ask('other.example.test'))
except OSError: print('closed')
"#;
        let outcome = lab.sandbox(&policy).resolve(HOST, server.address).python(program);
        let seen = outcome.success().out();
        let unopened = "('interceptor lab root', b'+PONG\\r\\n')";
        assert!(seen.starts_with(&format!("{unopened} {unopened}\n")), "{seen}{}", outcome.tail());
        // Another name inside than the one looked up: opened, and answered by the interceptor.
        assert_eq!(seen.matches("+PONG").count(), 2, "{seen}");
    });
}

#[test]
fn r5_a_host_of_a_credential_is_never_tunnelled() {
    Lab::test(|lab| {
        let mut policy =
            lab.governed("api.example.test", json!([{ "methods": ["GET"], "paths": ["/v1"] }]));
        policy["network"] = json!({ "allow": ["tcp://*.example.test", "api.example.test"] });
        let program = r#"
import socket, ssl
def ask(tls, words):
    stream = socket.create_connection(('api.example.test', 443), 20)
    context = ssl.create_default_context()
    if tls: stream = context.wrap_socket(stream, server_hostname='api.example.test')
    stream.sendall(words)
    try: return stream.recv(100)[:12]
    except ConnectionResetError: return b'reset'
for path in (b'/v1', b'/v2'):
    print(ask(True, b'GET ' + path + b' HTTP/1.1\r\nhost: api.example.test\r\n\r\n'))
print(ask(False, b'\x00\x01\x02\x03 what is this\r\n'))
"#;
        let outcome = lab.sandbox(&policy).at_origin("api.example.test").python(program);
        let expected = "b'HTTP/1.1 200'\nb'HTTP/1.1 403'\nb'reset'\n";
        assert_eq!(outcome.success().out(), expected, "{}", outcome.tail());
        assert!(
            outcome.audit.iter().all(|record| record.protocol.as_deref() != Some("tls")),
            "{:#?}",
            outcome.audit
        );
        let denied = outcome
            .audit
            .iter()
            .filter(|record| record.reason.as_deref() == Some("protocol_denied"));
        assert_eq!(denied.count(), 1, "{:#?}", outcome.audit);
    });
}
