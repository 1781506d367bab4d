//! Every connection and every request has one record, with the decision from before the first byte
//! went out, and its end.

use interceptor_tests::audit::Record;
use interceptor_tests::wire::program;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const DENIED: &str = "denied.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// Decision and type of the records of connections to `host`, in order.
fn connections<'a>(outcome: &'a Outcome, host: &str) -> Vec<(&'a str, &'a str)> {
    let of_host =
        |record: &&Record| record.kind == "connection" && record.host.as_deref() == Some(host);
    let said = |record: &'a Record| {
        (record.decision.as_deref().unwrap_or("-"), record.reason.as_deref().unwrap_or("-"))
    };
    outcome.audit.iter().filter(of_host).map(said).collect()
}

/// Path, decision and type of the records of requests, in the order of their paths.
fn requests(outcome: &Outcome) -> Vec<(String, String, String)> {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let records = outcome.audit.iter().filter(|record| record.kind == "request");
    let mut said: Vec<_> = records
        .map(|record| (text(&record.path), text(&record.decision), text(&record.reason)))
        .collect();
    said.sort();
    said
}

#[test]
fn a_connection_that_ends_before_a_request_has_a_record() {
    let ways = [
        ("nothing is said", "tcp(443).close()"),
        ("a handshake", "tls().close()"),
        ("a handshake for HTTP/2", "tls('h2').close()"),
        ("HTTP/2 without a stream", "s = H2(); s.s.close()"),
        ("half a head", "s = tls(); s.sendall(b'GET / HTTP/1.1\\r\\nhost: a'); s.close()"),
        ("half a ClientHello", "s = tcp(443); s.sendall(b'\\x16\\x03\\x01'); s.close()"),
        ("half a head in the clear", "s = tcp(80); s.sendall(b'GET / HT'); s.close()"),
    ];
    for (what, way) in ways {
        Lab::test(|lab| {
            let twice = format!("{way}\nHOST = {DENIED:?}\n{way}");
            let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST).at_forbidden(DENIED);
            let outcome = sandbox.python(&program(HOST, &twice));
            outcome.success();
            assert_eq!(connections(&outcome, HOST), [("allow", "no_request")], "{what}");
            assert_eq!(connections(&outcome, DENIED), [("deny", "no_request")], "{what}");
            assert_eq!(requests(&outcome), []);
        });
    }
}

#[test]
fn a_connection_with_a_request_has_that_record_alone() {
    for alpn in ["http/1.1", "h2"] {
        Lab::test(|lab| {
            let option = if alpn == "h2" { "--http2" } else { "--http1.1" };
            let script =
                format!("curl -sS {option} -o /dev/null https://{HOST}/x https://{HOST}/y");
            let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
            outcome.success();
            assert_eq!(connections(&outcome, HOST), []);
            assert_eq!(outcome.requests("allow").len(), 2);
        });
    }
}

#[test]
fn a_client_that_refuses_the_certificate_leaves_a_record_and_one_warning() {
    Lab::test(|lab| {
        let way = "for n in range(3):\n  try: tls(trusting=False)\n  except ssl.SSLError: \
                   print('refused')";
        let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST).quiet_log();
        let outcome = sandbox.python(&program(HOST, way));
        assert_eq!(outcome.success().out(), "refused\n".repeat(3));
        assert_eq!(connections(&outcome, HOST), [("allow", "certificate_rejected"); 3]);
        let alerts = outcome.audit.iter().filter(|r| r.alert.as_deref() == Some("unknown_ca"));
        assert_eq!(alerts.count(), 3);
        let log = outcome.err();
        let warnings: Vec<_> = log.lines().filter(|line| line.contains(HOST)).collect();
        assert_eq!(warnings.len(), 1, "{log}");
        for told in ["WARN", "unknown_ca", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"] {
            assert!(warnings[0].contains(told), "{told}: {}", warnings[0]);
        }
    });
}

#[test]
fn connections_without_a_request_count_to_their_hosts_rate() {
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["limits"] = json!({ "requests_per_second_per_host": 1 });
        let way = "for n in range(12): tls().close()\ns = tls(); s.sendall(f'GET /x \
                   HTTP/1.1\\r\\nhost: {HOST}\\r\\n\\r\\n'.encode()); print(answer(s))";
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, way));
        assert!(outcome.success().out().starts_with("HTTP/1.1 429"), "{}", outcome.out());
        assert_eq!(connections(&outcome, HOST), [("allow", "no_request"); 12]);
    });
}

#[test]
fn a_request_over_a_connection_that_was_begun_early_counts_once() {
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["limits"] = json!({ "requests_per_second_per_host": 4 });
        let way = "for n in range(4):\n  s = tls(); s.sendall(f'GET /{n} HTTP/1.1\\r\\nhost: \
                   {HOST}\\r\\nconnection: close\\r\\n\\r\\n'.encode()); print(answer(s)); \
                   s.close()";
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, way));
        assert_eq!(outcome.success().out(), "HTTP/1.1 200 OK\n".repeat(4));
    });
}

#[test]
fn what_the_origin_received_is_allowed_however_it_ended() {
    // The origin waits for the body: it has the head when the body breaks.
    let over_h1 = r"
def begin(path, more):
    s = tls(); s.sendall(f'POST {path} HTTP/1.1\r\nhost: {HOST}\r\n{more}'.encode())
    time.sleep(0.5)
    return s
CHUNKED = 'transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n'
s = begin('/a-chunk/lab/upload', CHUNKED); s.sendall(b'zz\r\n'); rest(s)
s = begin('/b-limit/lab/upload', CHUNKED); s.sendall(b'100\r\n' + b'x' * 256 + b'\r\n')
print(answer(s))
s = begin('/c-abort/lab/upload', 'content-length: 90\r\n\r\nabc'); s.close()
s = begin('/d-never/lab/hang', 'content-length: 0\r\n\r\n'); s.close()
s = begin('/e-halfway/lab/drip', 'content-length: 0\r\n\r\n'); s.recv(99); s.close()
";
    let over_h2 = r"
def begin(path):
    h = H2(); h.head(1, block(b'POST', path)); h.data(1, b'abc'); time.sleep(0.5)
    return h
h = begin(b'/a-chunk/lab/upload'); h.head(1, field(b'host', b'other'), end=True); h.answer(1)
h = begin(b'/b-limit/lab/upload'); h.data(1, b'x' * 256, end=True)
print('HTTP/2 ' + h.answer(1)[1].decode())
h = begin(b'/c-abort/lab/upload'); h.s.sendall(frame(RST, 0, 1, struct.pack('>I', 8)))
time.sleep(.2); h.s.close()
h = begin(b'/d-never/lab/hang'); h.s.close()
h = begin(b'/e-halfway/lab/drip'); h.data(1, b'', end=True); time.sleep(.5); h.s.close()
";
    for (program_text, told) in [(over_h1, "HTTP/1.1 413"), (over_h2, "limit_exceeded")] {
        for protocols in [&["http/1.1"][..], &["h2"]] {
            Lab::test(|lab| {
                let mut policy = policy(lab);
                policy["limits"] = json!({ "body_bytes": 100 });
                let origin = lab.another_origin(protocols, vec![]);
                let sandbox =
                    lab.sandbox(&policy).resolve(&format!("{HOST}:443"), origin.address());
                let outcome =
                    sandbox.python(&program(HOST, &format!("{program_text}\ntime.sleep(1)")));
                assert!(outcome.success().out().contains(told), "{}", outcome.out());
                let said = |kind: &str, what: &str, how: &str| {
                    (format!("/{what}/lab/{kind}"), "allow".to_owned(), how.to_owned())
                };
                let expected = [
                    said("upload", "a-chunk", "request_malformed"),
                    said("upload", "b-limit", "limit_exceeded"),
                    said("upload", "c-abort", "aborted"),
                    said("hang", "d-never", "aborted"),
                    said("drip", "e-halfway", "aborted"),
                ];
                assert_eq!(requests(&outcome), expected, "{told} to {protocols:?}");
            });
        }
    }
}

#[test]
fn what_ends_a_connection_by_its_age_is_named() {
    Lab::test(|lab| {
        lab.unordered();
        let mut policy = policy(lab);
        policy["limits"] = json!({ "total_timeout_seconds": 2 });
        let way = "idle = tls(); s = tls(); s.sendall(f'GET /drip HTTP/1.1\\r\\nhost: \
                   {HOST}\\r\\n\\r\\n'.encode())\nh = H2(); h.head(1, block(b'GET', b'/hang'), \
                   end=True)\nrest(s); rest(idle); h.answer(1); time.sleep(.5)";
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, way));
        outcome.success();
        let total = "total_timeout_seconds";
        assert_eq!(connections(&outcome, HOST), [("allow", total)]);
        let said = |path: &str| (path.to_owned(), "allow".to_owned(), total.to_owned());
        assert_eq!(requests(&outcome), [said("/drip"), said("/hang")]);
    });
}
