//! Input that never becomes a request has a record too: heads that stay unfinished, HTTP/2 streams
//! that the library answers by itself, bodies of another length than they say.

#![allow(clippy::unwrap_used, reason = "a helper of tests may panic like a test")]

use interceptor_tests::audit::Record;
use interceptor_tests::wire::program;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab, limits: Value) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["limits"] = limits;
    policy
}

/// Every record but those of names and of the sandbox's life: kind, path, decision, type and
/// status.
fn told(outcome: &Outcome) -> Vec<String> {
    let of_traffic = |record: &&Record| record.kind == "connection" || record.kind == "request";
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    let line = |record: &Record| {
        let status = record.status.map_or("-".into(), |status| status.to_string());
        assert_eq!(record.host.as_deref(), Some(HOST), "{record:?}");
        let said = [&record.path, &record.decision, &record.reason].map(text).join(" ");
        format!("{} {said} {status}", record.kind)
    };
    outcome.audit.iter().filter(of_traffic).map(line).collect()
}

#[test]
fn a_second_head_that_is_never_whole_has_a_record_of_its_own() {
    let first = "s = tls(); s.sendall(f'GET /first HTTP/1.1\\r\\nhost: \
                 {HOST}\\r\\n\\r\\n'.encode())\nf = s.makefile('rb'); whole(f)\n";
    let half = "s.sendall(b'GET /second HTTP/1.1\\r\\nhost: a'); time.sleep(.3)\n";
    for (end, expected) in [
        ("f.close(); s.close()", "request - deny aborted -"),
        ("print(whole(f))", "request - deny header_timeout_seconds 408"),
        ("", "request - deny aborted -"),
    ] {
        Lab::test(|lab| {
            let sandbox =
                lab.sandbox(&policy(lab, json!({ "header_timeout_seconds": 2 }))).at_origin(HOST);
            let outcome = sandbox.python(&program(HOST, &format!("{first}{half}{end}")));
            let answered = outcome.success().out();
            assert!(answered.is_empty() || answered.starts_with("HTTP/1.1 408"), "{answered}");
            assert_eq!(told(&outcome), ["request /first allow - 200", expected], "{end:?}");
        });
    }
}

#[test]
fn a_first_head_that_stalls_is_answered_in_words() {
    for way in ["tls()", "tcp(80)"] {
        Lab::test(|lab| {
            let sandbox =
                lab.sandbox(&policy(lab, json!({ "header_timeout_seconds": 1 }))).at_origin(HOST);
            let stall = format!(
                "s = {way}; s.sendall(b'GET / HTTP/1.1\\r\\nhost: a'); print(rest(s).decode())"
            );
            let outcome = sandbox.python(&program(HOST, &stall));
            let answer = outcome.success().out();
            assert!(answer.starts_with("HTTP/1.1 408 Refused: "), "{answer}");
            for word in ["limit_exceeded", "limits.header_timeout_seconds", "connection: close"] {
                assert!(answer.contains(word), "{word}: {answer}");
            }
            assert_eq!(told(&outcome), ["request - deny header_timeout_seconds 408"], "{way}");
        });
    }
}

#[test]
fn streams_that_the_library_resets_have_records() {
    // Valid requests before, between and after: nothing is recorded twice, and they are recorded
    // normally.
    let way = r"
def good(h, stream):
    h.head(stream, block(b'GET', b'/good'), end=True); print(stream, h.answer(stream)[0])
def pairs(*fields): return b''.join(field(*pair) for pair in fields)
M, S = (b':method', b'GET'), (b':scheme', b'https')
A, P = (b':authority', HOST.encode()), (b':path', b'/bad')
BAD = [pairs(M, A, P), pairs(S, A, P), pairs(M, S, A), pairs(M, S, A, P, (b':path', b'/other')),
       pairs(M, S, A, (b':path', b'')), pairs(M, S, A, (b':path', b'/a b')),
       pairs(M, S, (b':authority', b'a b'), P), pairs(M, S, A, P, (b'X-Upper', b'x')),
       pairs(M, S, A, P, (b'x a', b'x')), pairs(M, S, A, P, (b'x', b'a\nb')),
       pairs(M, S, A, P, (b'connection', b'close')),
       pairs(M, S, A, P, (b'transfer-encoding', b'chunked')),
       pairs(M, S, A, P, (b':status', b'200')), pairs(M, S, A, P, (b':protocol', b'websocket')),
       pairs(M, S, A, (b'x', b'y'), P), pairs(M, S, A, P, (b'content-length', b'5')),
       pairs(M, S, A, P, (b'content-length', b'x'))]
for head in BAD:
    h = H2(); good(h, 1)
    # Which of them end the connection is the library's to say.
    h.head(3, head, end=True); assert h.answer(3)[0] in ('reset', 'closed')
h = H2(); good(h, 1)
h.s.sendall(frame(HEADERS, 5, 3, BAD[0]) + frame(HEADERS, 5, 5, block(b'GET', b'/good'))
            + frame(HEADERS, 5, 7, BAD[1]))
print(h.answer(5)[0]); good(h, 9)
time.sleep(.3)
";
    Lab::test(|lab| {
        lab.unordered();
        let sandbox = lab.sandbox(&policy(lab, json!({}))).at_origin(HOST);
        let outcome = sandbox.python(&program(HOST, way));
        let ended = outcome.success().out();
        assert_eq!(ended.matches("ended\n").count(), 20, "{ended}");
        let told = told(&outcome);
        let count = |expected: &str| told.iter().filter(|line| *line == expected).count();
        assert_eq!(count("request /good allow - 200"), 20, "{told:?}");
        assert_eq!(count("request - deny request_malformed -"), 19, "{told:?}");
        assert_eq!(told.len(), 39, "{told:?}");
    });
}

#[test]
fn heads_that_the_library_finds_too_large_are_recorded() {
    // As they stand, and as a table makes them of little; those far beyond end the connection.
    let way = r"
def large(number):
    return block(b'GET', b'/large', [(b'x-%d' % n, b'x' * 10000) for n in range(number)])
def bomb(times):
    return block(b'GET', b'/bomb') + b'\x40' + text(b'x') + text(b'x' * 3000) + b'\xbe' * times
for head in (large(62), bomb(220)):
    h = H2(); h.head(1, head, end=True); print(h.answer(1)[0])
    h.head(3, block(b'GET', b'/good'), end=True); print(h.answer(3)[0])
for head in (large(200), bomb(2000)):
    h = H2()
    try: h.head(1, head, end=True); print(h.answer(1)[0])
    except OSError: print('closed')
time.sleep(.3)
";
    Lab::test(|lab| {
        let sandbox = lab.sandbox(&policy(lab, json!({}))).at_origin(HOST);
        let outcome = sandbox.python(&program(HOST, way));
        assert_eq!(outcome.success().out(), "ended\n".repeat(6));
        let expected = [
            "request - deny limit_exceeded 431",
            "request /good allow - 200",
            "request - deny limit_exceeded 431",
            "request /good allow - 200",
            "request - deny limit_exceeded 431",
            "request - deny limit_exceeded 431",
        ];
        assert_eq!(told(&outcome), expected);
    });
}

#[test]
fn heads_that_end_with_their_connection_have_records() {
    let way = r"
h = H2(); h.head(1, block(b'GET', b'/first'), end=True); h.answer(1)
h.s.sendall(frame(HEADERS, 1, 3, block(b'GET', b'/half'))); time.sleep(.3); h.s.close()
h = H2(); h.head(1, block(b'GET', b'/second'), end=True); h.answer(1)
h.s.sendall(frame(HEADERS, 5, 3, b'\xff\xff\xff\xff\xff\xff\xff\xff')); h.answer(3)
time.sleep(.3)
";
    Lab::test(|lab| {
        lab.unordered();
        let sandbox = lab.sandbox(&policy(lab, json!({}))).at_origin(HOST);
        let outcome = sandbox.python(&program(HOST, way));
        outcome.success();
        let mut told = told(&outcome);
        told.sort();
        let expected = [
            "request - deny aborted -",
            "request - deny request_malformed -",
            "request /first allow - 200",
            "request /second allow - 200",
        ];
        assert_eq!(told, expected);
    });
}

#[test]
fn a_body_of_another_length_than_it_says_is_malformed() {
    let way = r"
def post(path, length):
    h = H2(); h.head(1, block(b'POST', path, [(b'content-length', length)])); time.sleep(.5)
    return h
h = post(b'/a-long/lab/upload', b'3'); h.data(1, b'hello', end=True); print(h.answer(1)[0])
h = post(b'/b-short/lab/upload', b'9'); h.data(1, b'hello', end=True); print(h.answer(1)[0])
h = post(b'/d-trailers/lab/upload', b'3'); h.data(1, b'ab')
h.head(1, field(b'x', b'y'), end=True); print(h.answer(1)[0])
h = post(b'/e-given-up/lab/upload', b'9'); h.data(1, b'ab')
h.s.sendall(frame(RST, 0, 1, struct.pack('>I', 8))); time.sleep(.2)
time.sleep(.5)
";
    for protocols in [&["http/1.1"][..], &["h2"]] {
        Lab::test(|lab| {
            let origin = lab.another_origin(protocols, vec![]);
            let sandbox = lab
                .sandbox(&policy(lab, json!({})))
                .resolve(&format!("{HOST}:443"), origin.address());
            let outcome = sandbox.python(&program(HOST, way));
            outcome.success();
            let mut told = told(&outcome);
            told.iter_mut().for_each(|line| line.truncate(line.rfind(' ').unwrap()));
            told.sort();
            let said = |what: &str, how: &str| format!("request /{what}/lab/upload allow {how}");
            let expected = [
                said("a-long", "request_malformed"),
                said("b-short", "request_malformed"),
                said("d-trailers", "request_malformed"),
                said("e-given-up", "aborted"),
            ];
            assert_eq!(told, expected, "{protocols:?}");
        });
    }
}

#[test]
fn a_scheme_that_is_not_the_connections_is_refused() {
    let way = r"
def head(scheme):
    pairs = [(b':method', b'GET'), (b':scheme', scheme), (b':authority', HOST.encode()),
             (b':path', b'/x')]
    return b''.join(field(*pair) for pair in pairs)
h = H2()
h.head(1, head(b'http'), end=True); print(h.answer(1)[1].decode())
h.head(3, head(b'https'), end=True); print(h.answer(3)[0])
";
    Lab::test(|lab| {
        let outcome =
            lab.sandbox(&policy(lab, json!({}))).at_origin(HOST).python(&program(HOST, way));
        let said = outcome.success().out();
        assert!(said.contains("request_malformed") && said.contains("`https`"), "{said}");
        assert_eq!(
            told(&outcome),
            ["request /x deny request_malformed 400", "request /x allow - 200"]
        );
    });
}

#[test]
fn a_request_whose_connection_is_too_old_is_told_so() {
    let over_h1 = "s = tls(); s.sendall(f'GET /hang HTTP/1.1\\r\\nhost: \
                   {HOST}\\r\\n\\r\\n'.encode()); print(rest(s).decode())";
    let over_h2 = "h = H2(); h.head(1, block(b'GET', b'/hang'), end=True); print('504', \
                   h.answer(1)[1].decode(), 'connection: close')";
    for way in [over_h1, over_h2] {
        Lab::test(|lab| {
            let sandbox =
                lab.sandbox(&policy(lab, json!({ "total_timeout_seconds": 2 }))).at_origin(HOST);
            let outcome = sandbox.python(&program(HOST, way));
            let answer = outcome.success().out();
            for word in
                ["504", "upstream_timeout", "limits.total_timeout_seconds", "connection: close"]
            {
                assert!(answer.contains(word), "{word}: {answer}");
            }
            let told = told(&outcome);
            assert!(
                told.len() == 1 && told[0].starts_with("request /hang allow total_timeout_seconds"),
                "{told:?}"
            );
        });
    }
}

#[test]
fn a_handshake_that_the_origin_declines_stays_http() {
    for protocol in ["websocket", "tcp"] {
        Lab::test(|lab| {
            let mut policy = policy(lab, json!({}));
            policy.as_object_mut().unwrap().remove("credentials_v2");
            policy["network"]["allow"] = json!([HOST]);
            let way = format!(
                "s = tls(); s.sendall(f'GET /x HTTP/1.1\\r\\nhost: {{HOST}}\\r\\nconnection: \
                 upgrade\\r\\nupgrade: {protocol}\\r\\nsec-websocket-version: \
                 13\\r\\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n'.encode()); \
                 print(answer(s))"
            );
            let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, &way));
            assert_eq!(outcome.success().out(), "HTTP/1.1 200 OK\n");
            assert_eq!(outcome.requests("allow")[0].protocol.as_deref(), Some("h1"), "{protocol}");
        });
    }
}
