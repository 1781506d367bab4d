//! Timeouts: for an origin that has not answered yet, for an idle tunnel, and for a silent sandbox.

use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::audit::Record;
use interceptor_tests::origin::listen::Listener;
use interceptor_tests::wire::program;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
/// Longer than `idle_timeout_seconds` in these tests, by enough that a slow machine does not
/// matter.
const LONGER: Duration = Duration::from_secs(3);

fn policy(lab: &Lab, limits: Value) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["limits"] = limits;
    policy
}

fn ends(record: &Record) -> (&str, &str) {
    (record.decision.as_deref().unwrap_or("-"), record.reason.as_deref().unwrap_or("-"))
}

#[test]
fn what_an_origin_has_not_said_yet_is_not_idleness() {
    for option in ["--http1.1", "--http2"] {
        Lab::test(|lab| {
            let policy = policy(lab, json!({ "idle_timeout_seconds": 1 }));
            let script = format!(
                "curl -sSN {option} -d '{{}}' https://{HOST}/late/{} && \
                 curl -sSN {option} https://{HOST}/gated",
                LONGER.as_millis()
            );
            let running = lab.sandbox(&policy).at_origin(HOST).start(&["sh", "-c", &script]);
            running.wait_for("late\ndata: first\n");
            std::thread::sleep(LONGER);
            lab.open_gate();
            let outcome = running.finish();
            assert!(outcome.success().out().ends_with("data: last\n\n"), "{}", outcome.out());
            let records = outcome.requests("allow");
            assert_eq!(records.iter().map(|r| ends(r)).collect::<Vec<_>>(), [("allow", "-"); 2]);
        });
    }
}

#[test]
fn an_answer_that_stops_ends_when_its_time_is_over() {
    for option in ["--http1.1", "--http2"] {
        Lab::test(|lab| {
            let policy = policy(lab, json!({ "response_timeout_seconds": 2 }));
            let script = format!("curl -sSN {option} https://{HOST}/gated && exit 1; echo cut");
            let began = Instant::now();
            let outcome = lab.sandbox(&policy).at_origin(HOST).shell(&script);
            assert_eq!(outcome.success().out(), "data: first\n\ncut\n");
            assert!(began.elapsed() >= Duration::from_secs(2));
            assert_eq!(ends(outcome.requests("allow")[0]), ("allow", "response_timeout_seconds"));
            let ms = outcome.requests("allow")[0].duration_ms.unwrap();
            assert!(ms >= 2000.0, "{ms}");
        });
    }
}

#[test]
fn an_upload_that_stands_still_is_given_up_and_the_client_is_told() {
    let over_h1 = r"
s = tls()
s.sendall(f'POST /upload HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 90\r\n\r\nabc'.encode())
print(rest(s).decode())";
    let over_h2 = r"
h = H2(); h.head(1, block(b'POST', b'/upload')); h.data(1, b'abc'); print('HTTP/2', h.answer(1))";
    for way in [over_h1, over_h2] {
        Lab::test(|lab| {
            let policy = policy(lab, json!({ "idle_timeout_seconds": 1 }));
            let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, way));
            let told = outcome.success().out();
            assert!(told.contains("limits.idle_timeout_seconds"), "{told}");
            assert!(
                told.starts_with("HTTP/1.1 408") || told.starts_with("HTTP/2 ('ended'"),
                "{told}"
            );
            assert_eq!(ends(outcome.requests("allow")[0]), ("allow", "idle_timeout_seconds"));
        });
    }
}

#[test]
fn an_upload_that_moves_slowly_is_not_idle() {
    Lab::test(|lab| {
        let policy = policy(lab, json!({ "idle_timeout_seconds": 2 }));
        let way = r"
s = tls(); s.sendall(f'POST /upload HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 8\r\n\r\n'.encode())
for n in range(8): time.sleep(.5); s.sendall(b'x')
print(answer(s))";
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, way));
        assert_eq!(outcome.success().out(), "HTTP/1.1 200 OK\n");
    });
}

#[test]
fn a_connection_without_a_request_ends_and_says_why() {
    for way in ["tcp(443)", "tls()", "tls('h2')", "H2().s", "tcp(80)"] {
        Lab::test(|lab| {
            let policy = policy(lab, json!({ "idle_timeout_seconds": 1 }));
            let way = format!("s = {way}; rest(s); print('closed')");
            let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, &way));
            assert_eq!(outcome.success().out(), "closed\n");
            let records: Vec<_> = outcome.audit.iter().filter(|r| r.kind == "connection").collect();
            assert_eq!(records.len(), 1, "{records:#?}");
            assert_eq!(ends(records[0]), ("allow", "idle_timeout_seconds"), "{way}");
        });
    }
}

#[test]
fn a_tunnel_has_a_time_of_its_own() {
    let silent = r"
s = tcp(5432); s.sendall(b'\x00one'); print(s.recv(9))
time.sleep(3); s.sendall(b'two'); print(s.recv(9))";
    for (limits, told, how) in [
        (json!({ "idle_timeout_seconds": 1 }), "b'\\x00one'\nb'two'\n", "-"),
        (
            json!({ "tunnel_idle_timeout_seconds": 1 }),
            "b'\\x00one'\nb''\n",
            "tunnel_idle_timeout_seconds",
        ),
    ] {
        Lab::test(|lab| {
            let echo = Listener::with(lab.handle(), |mut stream| async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
            let policy =
                json!({ "network": { "allow": [format!("tcp://{HOST}:5432")] }, "limits": limits });
            let sandbox = lab.sandbox(&policy).resolve(HOST, echo.address());
            let outcome = sandbox.python(&program(HOST, silent));
            assert_eq!(outcome.success().out(), told);
            let records: Vec<_> = outcome.audit.iter().filter(|r| r.kind == "connection").collect();
            assert_eq!(records.len(), 1, "{records:#?}");
            assert_eq!(ends(records[0]), ("allow", how));
        });
    }
}

#[test]
fn a_websocket_has_the_time_of_a_tunnel() {
    let way = r"
s = tls()
s.sendall(f'GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\n'
          'upgrade: websocket\r\n'.encode()
    + b'sec-websocket-version: 13\r\nsec-websocket-key: MDAwMDAwMDAwMDAwMDAwMA==\r\n\r\n')
print(answer(s)); s.settimeout(3)
try: print('closed' if not s.recv(1) else 'data')
except TimeoutError: print('open')";
    for (limits, told, how) in [
        (json!({ "idle_timeout_seconds": 1, "response_timeout_seconds": 1 }), "open", "-"),
        (json!({ "tunnel_idle_timeout_seconds": 1 }), "closed", "tunnel_idle_timeout_seconds"),
    ] {
        Lab::test(|lab| {
            let policy = policy(lab, limits.clone());
            let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program(HOST, way));
            let text = outcome.success().out();
            assert_eq!(text, format!("HTTP/1.1 101 Switching Protocols\n{told}\n"));
            assert_eq!(ends(outcome.requests("allow")[0]), ("allow", how));
        });
    }
}
