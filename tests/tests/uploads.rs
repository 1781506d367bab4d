//! Request bodies, and which heads are accepted, alike over HTTP/1.1 and HTTP/2.

use std::time::{Duration, Instant};

use interceptor_tests::wire::program;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const OPEN: &str = "open.example.test";
/// How long an upload may go on after its client has gone.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/v1", "/early"] }]));
    policy["network"]["allow"] = json!([HOST, OPEN]);
    policy
}

/// Runs a program against origins that speak these protocols.
fn run(lab: &Lab, protocols: &[&str], host: &str, way: &str) -> Outcome {
    let origin = lab.another_origin(protocols, vec![]);
    let sandbox = lab.sandbox(&policy(lab));
    let sandbox = [HOST, OPEN]
        .iter()
        .fold(sandbox, |sandbox, name| sandbox.resolve(&format!("{name}:443"), origin.address()));
    sandbox.python(&program(host, way))
}

#[test]
fn an_early_answer_to_a_large_upload_reaches_the_client() {
    // An origin that reads nothing closes its HTTP/1.1 connection, which may lose the answer
    // directly, too; and curl never ends an upload over HTTP/2 that was answered with success
    // before its end.
    for (path, status, options) in [
        ("/early/403", "403", &["--http2"][..]),
        ("/early/lab/eager", "200", &["--http1.1"]),
        ("/refused", "403", &["--http1.1", "--http2"]),
    ] {
        for option in options {
            Lab::test(|lab| {
                let script = format!(
                    "head -c 20000000 /dev/zero > /tmp/body\n\
                     for n in 1 2 3 4 5 6 7 8; do \
                     curl -sS {option} -m 30 -o /dev/null -w '%{{http_code}} ' -X POST -H expect: \
                       -T /tmp/body https://{HOST}{path} || exit 1; done; rm /tmp/body"
                );
                let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
                assert_eq!(
                    outcome.success().out(),
                    format!("{status} ").repeat(8),
                    "{option} {path}"
                );
                let decision = if path == "/refused" { "deny" } else { "allow" };
                assert_eq!(outcome.requests(decision).len(), 8);
                if path.ends_with("eager") {
                    assert_arrived(lab, &[Some(20_000_000); 8]);
                }
            });
        }
    }
}

/// Waits until the origin has read the bodies of its requests to the end: an upload may last longer
/// than everything else.
#[track_caller]
fn assert_arrived(lab: &Lab, expected: &[Option<u64>]) {
    let arrived = || lab.seen().iter().map(|seen| seen.body_bytes).collect::<Vec<_>>();
    let deadline = Instant::now() + ARRIVES_WITHIN;
    while arrived() != expected && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(arrived(), expected);
}

#[test]
fn an_upload_goes_on_after_its_answer() {
    let over_h1 = r"
s = tls(); s.sendall(f'POST /v1/x/lab/eager HTTP/1.1\r\nhost: {HOST}\r\n'
                     'content-length: 300003\r\n\r\nabc'.encode())
f = s.makefile('rb'); print(whole(f)); time.sleep(.3)
s.sendall(b'x' * 300000 + f'GET /v1/next HTTP/1.1\r\nhost: {HOST}\r\n\r\n'.encode())
print(whole(f))";
    let over_h2 = r"
h = H2(); h.head(1, block(b'POST', b'/v1/x/lab/eager')); h.data(1, b'abc'); print(h.answer(1))
time.sleep(.3)
for n in range(30): h.data(1, b'x' * 10000, end=n == 29)
h.head(3, block(b'GET', b'/v1/next'), end=True); print(h.answer(3)[0])";
    for way in [over_h1, over_h2] {
        for protocols in [&["http/1.1"][..], &["h2"]] {
            Lab::test(|lab| {
                let outcome = run(lab, protocols, HOST, way);
                let told = outcome.success().out();
                assert!(
                    told == "HTTP/1.1 200 OK\nHTTP/1.1 200 OK\n"
                        || told == "('ended', b'eager\\n')\nended\n",
                    "{told}"
                );
                assert_arrived(lab, &[Some(300_003), Some(0)]);
            });
        }
    }
}

#[test]
fn a_body_of_get_without_a_length_arrives() {
    let over_h2 = "h = H2(); h.head(1, block(b'GET', b'/v1/upload/lab/upload'))\nh.data(1, \
                   b'abc'); h.data(1, b'def', end=True); print(h.answer(1)[1].decode())";
    let over_h1 = "s = tls(); s.sendall(f'GET /v1/upload/lab/upload HTTP/1.1\\r\\nhost: \
                   {HOST}\\r\\nconnection: close\\r\\ntransfer-encoding: \
                   chunked\\r\\n\\r\\n6\\r\\nabcdef\\r\\n0\\r\\n\\r\\n'.encode()); \
                   print(rest(s).decode())";
    for way in [over_h1, over_h2] {
        for protocols in [&["http/1.1"][..], &["h2"]] {
            Lab::test(|lab| {
                let outcome = run(lab, protocols, HOST, way);
                assert!(
                    outcome.success().out().contains("6 bef57ec7f53a6d40"),
                    "{}",
                    outcome.out()
                );
                assert_eq!(lab.seen()[0].body_bytes, Some(6));
                assert_eq!(outcome.requests("allow")[0].bytes_up, Some(6));
            });
        }
    }
}

#[test]
fn what_http11_refuses_in_a_head_http2_refuses_too() {
    let ways = [
        ("an empty length", "block(b'GET', b'/v1/x', [(b'content-length', b'')])"),
        ("two lengths", "block(b'GET', b'/v1/x', [(b'content-length', b'0')] * 2)"),
        ("a raw byte in the query", "block(b'GET', b'/v1/x?q=\\xc3\\xa9')"),
        ("a raw byte in the path", "block(b'GET', b'/v1/\\xc3\\xa9')"),
        ("a method without end", "block(b'M' * 33, b'/v1/x')"),
    ];
    for (what, head) in ways {
        for host in [HOST, OPEN] {
            Lab::test(|lab| {
                let way = format!(
                    "h = H2(); h.head(1, {head}, end=True); print(h.answer(1)[1].decode())"
                );
                let outcome = run(lab, &["http/1.1"], host, &way);
                let denied = outcome.requests("deny");
                let statuses: Vec<_> = denied.iter().map(|record| record.status).collect();
                assert_eq!(statuses, [Some(400)], "{what}: {}", outcome.out());
                let reason = denied[0].reason.as_deref().unwrap();
                assert!(outcome.success().out().contains(reason), "{what}: {}", outcome.out());
                assert_eq!(lab.seen().len(), 0, "{what}");
            });
        }
    }
}

#[test]
fn a_head_far_beyond_its_limit_is_explained_and_recorded() {
    for kibibytes in [70, 127, 129, 200, 400] {
        Lab::test(|lab| {
            let way = format!(
                "h = H2(); h.head(1, block(b'GET', b'/v1/x', [(b'x-large', b'y' * 8000)] * \
                 ({kibibytes} * 1024 // 8039 + 1)), end=True)\nprint(h.answer(1)[1].decode())"
            );
            let outcome = run(lab, &["http/1.1"], HOST, &way);
            assert!(outcome.success().out().contains("limits.header_bytes"), "{}", outcome.out());
            let record = outcome.one_denied("limit_exceeded");
            assert_eq!((record.status, record.path.as_deref()), (Some(431), Some("/v1/x")));
        });
    }
}

/// A request with the trailers `x-sum` and `authorization`-like names, over either protocol.
fn with_trailers(h2: bool, announced: bool, trailers: &[(&str, &str)]) -> String {
    let names: Vec<_> = trailers.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    if h2 {
        let announce = if announced { format!("(b'trailer', b'{names}')") } else { String::new() };
        let fields: String = trailers
            .iter()
            .map(|(name, value)| format!("field(b'{name}', b'{value}') + "))
            .collect();
        format!(
            "import os; KEY = os.environ.get('LAB_API_KEY', '').encode()\nh = H2(); h.head(1, \
             block(b'PUT', b'/v1/upload/lab/upload', [{announce}]))\nh.data(1, b'abc'); h.head(1, \
             ({fields}b'').replace(b'PLACEHOLDER-OF-THE-SAME-LENGTH', KEY), \
             end=True)\nprint(h.answer(1))"
        )
    } else {
        let announce = if announced { format!("trailer: {names}\\r\\n") } else { String::new() };
        let fields: String =
            trailers.iter().map(|(name, value)| format!("{name}: {value}\\r\\n")).collect();
        format!(
            "s = tls(); s.sendall(f'PUT /v1/upload/lab/upload HTTP/1.1\\r\\nhost: \
             {{HOST}}\\r\\nconnection: close\\r\\n{announce}transfer-encoding: \
             chunked\\r\\n\\r\\n3\\r\\nabc\\r\\n0\\r\\n{fields}\\r\\n'.encode())\nprint(rest(s))"
        )
    }
}

fn trailers_of(lab: &Lab) -> Vec<(String, String)> {
    lab.seen().iter().flat_map(|seen| seen.trailers.clone()).collect()
}

#[test]
fn trailers_arrive_without_what_authenticates() {
    let sum = ("x-sum".to_owned(), "42".to_owned());
    for h2 in [false, true] {
        for protocols in [&["http/1.1"][..], &["h2"]] {
            for host in [HOST, OPEN] {
                Lab::test(|lab| {
                    let own = [("x-sum", "42"), ("x-api-key", "own"), ("authorization", "own")];
                    // What authenticates is taken away only where the real key goes.
                    let sent = if host == HOST { &own[..] } else { &own[..1] };
                    let way = with_trailers(h2, true, sent);
                    let outcome = run(lab, protocols, host, &way);
                    assert!(outcome.success().out().contains("3 ba7816bf"), "{}", outcome.out());
                    assert_eq!(
                        trailers_of(lab),
                        std::slice::from_ref(&sum),
                        "{h2} {protocols:?} {host}"
                    );
                });
            }
        }
    }
}

#[test]
fn a_trailer_that_cannot_be_carried_or_must_not_is_refused() {
    for h2 in [false, true] {
        for (protocols, announced, name) in [
            (&["http/1.1"][..], false, "x-sum"),
            (&["h2"], true, "content-length"),
            (&["http/1.1"], true, "host"),
            (&["h2"], true, "authorization"),
        ] {
            Lab::test(|lab| {
                let way = with_trailers(h2, announced, &[(name, "1")]);
                let outcome = run(lab, protocols, OPEN, &way);
                let told = outcome.success().out();
                let record = outcome.one_with("request_malformed");
                assert_eq!(record.decision.as_deref(), Some("allow"), "the head was sent");
                assert!(told.contains("request_malformed") && told.contains(name), "{told}");
                assert_eq!(trailers_of(lab), []);
            });
        }
    }
}

#[test]
fn a_placeholder_in_a_trailer_to_another_host_is_a_leak() {
    Lab::test(|lab| {
        let way = with_trailers(true, true, &[("x-sum", "PLACEHOLDER-OF-THE-SAME-LENGTH")]);
        // The length of the value stands before it: it is written for the placeholder's.
        let way = way
            .replace("field(b'x-sum', b'PLACEHOLDER-OF-THE-SAME-LENGTH')", "field(b'x-sum', KEY)");
        let outcome = run(lab, &["h2"], OPEN, &way);
        assert!(outcome.success().out().contains("credential_misuse"), "{}", outcome.out());
        outcome.one_with("credential_misuse");
        assert_eq!(trailers_of(lab), []);
    });
}
