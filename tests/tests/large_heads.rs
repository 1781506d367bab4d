//! Request heads beyond every limit, up to those that the HTTP library itself rejects. Each is
//! explained and recorded, over either protocol.

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::wire::program;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// The request records: decision, type, status and path.
fn told(outcome: &Outcome) -> Vec<String> {
    let requests = outcome.audit.iter().filter(|record| record.kind == "request");
    let line = |record: &interceptor_tests::audit::Record| {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let status = record.status.map_or("-".into(), |status| status.to_string());
        format!(
            "{} {} {status} {}",
            text(&record.decision),
            text(&record.reason),
            text(&record.path)
        )
    };
    requests.map(line).collect()
}

#[test]
fn a_large_head_is_explained_whatever_its_size_and_protocol() {
    for protocol in ["http/1.1", "h2"] {
        for kilobytes in [100, 128, 200, 300, 600, 1049] {
            Lab::test(|lab| {
                let fields: Vec<(String, String)> =
                    (0..kilobytes / 8).map(|n| (format!("x-{n}"), "y".repeat(8000))).collect();
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let plan = Plan::https(HOST, protocol).ask_with("GET", "/x", &fields, "");
                let (reports, outcome) =
                    lab.sandbox(&policy(lab)).at_origin(HOST).fetch_outcome(&plan);
                let refusal = reports[0].answers[0].refusal();
                assert_eq!(
                    (refusal.status, refusal.reason.as_str()),
                    (431, "limit_exceeded"),
                    "{protocol} {kilobytes}"
                );
                let message = refusal.error["message"].as_str().unwrap();
                assert!(message.contains("limits.header_bytes"), "{message}");
                let record = outcome.one_denied("limit_exceeded");
                assert_eq!(record.status, Some(431), "{protocol} {kilobytes}");
                assert_eq!(record.id.as_deref(), refusal.error["request_id"].as_str());
            });
        }
    }
}

#[test]
fn curl_shows_why_a_head_is_too_large() {
    // Over HTTP/2, curl sends at most 64 KiB, so use many small fields there.
    for (option, fields, length) in
        [("--http1.1", 13, 8000), ("--http1.1", 125, 8000), ("--http2", 1600, 3)]
    {
        Lab::test(|lab| {
            let script = format!(
                "python3 -c \"for n in range({fields}): print('x-%d: %s' % (n, 'y' * {length}))\" \
                 > /tmp/fields\ncurl -sS {option} -H @/tmp/fields -w '%{{http_code}}' \
                 https://{HOST}/x; rm /tmp/fields"
            );
            let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
            let answer = outcome.success().out();
            assert!(answer.ends_with("431"), "{option} {fields}: {answer}");
            assert!(answer.contains("limits.header"), "{option} {fields}: {answer}");
            assert_eq!(outcome.one_denied("limit_exceeded").status, Some(431));
        });
    }
}

/// A program over HTTP/2 that can enlarge the connection's window, as most clients do.
fn with_room(way: &str) -> String {
    let room = "
def room():
    h = H2(); h.s.sendall(frame(WINDOW, 0, 0, struct.pack('>I', 1 << 20))); return h
def good(h, stream):
    h.head(stream, block(b'GET', b'/good'), end=True); print(h.answer(stream)[0])
def large(number):
    return block(b'GET', b'/large', [(b'x-%d' % n, b'x' * 10000) for n in range(number)])
def bomb(times):
    return block(b'GET', b'/bomb') + b'\\x40' + text(b'x') + text(b'x' * 3000) + b'\\xbe' * times
def said(answer): print(answer[0], b'limits.header_bytes' in answer[1])
";
    program(HOST, &format!("{room}{way}"))
}

#[test]
fn what_the_library_answers_by_itself_is_explained_and_the_connection_goes_on() {
    let way = r"
many = block(b'GET', b'/many', [(b'x-%d' % n, b'') for n in range(24600)])
for head in (large(62), bomb(220), many):
    h = room(); h.head(1, head, end=True); said(h.answer(1))
    # A request whose body is still to come is reset, without an error.
    h.head(3, head); said(h.answer(3)); kind, flags, stream, code = h.next()
    while kind not in (RST, GOAWAY): kind, flags, stream, code = h.next()
    print(kind, stream, code == bytes(4)); good(h, 5)
";
    Lab::test(|lab| {
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&with_room(way));
        let expected = "ended True\nended True\n3 3 True\nended\n".repeat(3);
        assert_eq!(outcome.success().out(), expected);
        let refused = "deny limit_exceeded 431 -";
        let expected = [refused, refused, "allow - 200 /good"];
        assert_eq!(told(&outcome), [expected; 3].concat());
    });
}

#[test]
fn an_explanation_fits_the_windows_of_its_client() {
    // Without a window for a body, only the header fields tell.
    let way = r"
h = H2(); h.head(1, large(62), end=True); print(h.answer(1)); good(h, 3)
h = room(); h.s.sendall(frame(SETTINGS, 0, 0, struct.pack('>HI', 4, 10)))
h.head(1, large(62), end=True)
print(h.answer(1))
h = H2(); h.head(1, large(400), end=True); said(h.answer(1))
";
    Lab::test(|lab| {
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&with_room(way));
        let expected = "('ended', b'')\nended\n('ended', b'')\nended True\n";
        assert_eq!(outcome.success().out(), expected);
        let (refused, good) = ("deny limit_exceeded 431 -", "allow - 200 /good");
        assert_eq!(told(&outcome), [refused, good, refused, refused]);
    });
}

#[test]
fn what_ends_the_connection_is_explained_before_it_ends() {
    let way = r"
one = block(b'GET', b'/one', [(b'x', b'y' * 1500000)])
for head in (large(105), large(400), bomb(2000), one):
    h = H2(); good(h, 1); h.head(3, head, end=True); said(h.answer(3)); print(h.next()[0] == GOAWAY)
";
    Lab::test(|lab| {
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&with_room(way));
        assert_eq!(outcome.success().out(), "ended\nended True\nTrue\n".repeat(4));
        let expected = ["allow - 200 /good", "deny limit_exceeded 431 -"];
        assert_eq!(told(&outcome), [expected; 4].concat());
    });
}
