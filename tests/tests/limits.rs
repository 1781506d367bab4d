//! The ceilings of a sandbox, and the answers to requests beyond them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use interceptor::audit::Audit;
use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::inprocess::{self, Served, connect};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HOST: &str = "api.example.test";
const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

fn policy(lab: &Lab, limits: Value) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["limits"] = limits;
    policy
}

#[test]
fn a_body_beyond_its_ceiling_is_413() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let policy = policy(lab, json!({ "body_bytes": 1000 }));
            let plan =
                Plan::https(HOST, protocol).ask_with("POST", "/upload", &[], &"x".repeat(1000));
            let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
            assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
            let plan =
                Plan::https(HOST, protocol).ask_with("POST", "/upload", &[], &"x".repeat(1001));
            let (reports, outcome) = lab.sandbox(&policy).at_origin(HOST).fetch_outcome(&plan);
            let refusal = reports[0].answers[0].refusal();
            assert_eq!((refusal.status, refusal.reason.as_str()), (413, "limit_exceeded"));
            outcome.one_denied("limit_exceeded");
        });
    }
}

#[test]
fn a_head_beyond_its_ceiling_is_431() {
    for protocol in PROTOCOLS {
        for limits in [json!({ "header_bytes": 2000 }), json!({ "headers": 20 })] {
            Lab::test(|lab| {
                let policy = policy(lab, limits.clone());
                let fields: Vec<(String, String)> =
                    (0..40).map(|n| (format!("x-{n}"), "y".repeat(100))).collect();
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let plan = Plan::https(HOST, protocol).ask_with("GET", "/x", &fields, "");
                let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
                let refusal = reports[0].answers[0].refusal();
                assert_eq!(
                    (refusal.status, refusal.reason.as_str()),
                    (431, "limit_exceeded"),
                    "{limits}"
                );
                assert_eq!(lab.seen().len(), 0);
            });
        }
    }
}

#[test]
fn an_origin_that_never_answers_is_given_up() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let policy = policy(lab, json!({ "response_timeout_seconds": 1 }));
            let plan = Plan::https(HOST, protocol).ask("GET", "/hang");
            let (reports, outcome) = lab.sandbox(&policy).at_origin(HOST).fetch_outcome(&plan);
            let refusal = reports[0].answers[0].refusal();
            assert_eq!((refusal.status, refusal.reason.as_str()), (504, "upstream_timeout"));
            let message = refusal.error["message"].as_str().unwrap();
            assert!(message.contains("limits.response_timeout_seconds"), "{message}");
            let record = outcome.one_with("response_timeout_seconds");
            assert_eq!((record.decision.as_deref(), record.status), (Some("allow"), Some(504)));
        });
    }
}

#[test]
fn x3_a_head_that_never_ends_is_given_up() {
    Lab::test(|lab| {
        let policy = policy(lab, json!({ "header_timeout_seconds": 1 }));
        let program = format!(
            "import socket, ssl\ns = \
             ssl.create_default_context().wrap_socket(socket.create_connection(('{HOST}', 443)), \
             server_hostname='{HOST}')\ns.settimeout(10); s.sendall(b'GET / HTTP/1.1\\r\\nhost: \
             {HOST}\\r\\n')\nwhile s.recv(4096): pass\nt = socket.create_connection(('{HOST}', \
             443)); t.settimeout(10); t.sendall(b'\\x16\\x03\\x01')\ntry:\n\x20   while \
             t.recv(4096): pass\nexcept ConnectionResetError: pass\nprint('both closed')\n"
        );
        let began = Instant::now();
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program);
        assert_eq!(outcome.success().out(), "both closed\n");
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(lab.seen().len(), 0);
    });
}

#[test]
fn x1_names_beyond_the_mint_rate_do_not_hurt_a_name_already_served() {
    Lab::test(|lab| {
        let mut policy = policy(lab, json!({ "mints_per_second": 1, "mints_burst": 5 }));
        policy["network"]["allow"] = json!(["*.example.test"]);
        let script = format!(
            "curl -sS -o /dev/null https://{HOST}/first || exit 1\n\
             for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do \
             curl -sk -o /dev/null --max-time 2 https://n$n.example.test/; done\n\
             curl -sS -o /dev/null -w '%{{http_code}}\\n' https://{HOST}/last"
        );
        let sandbox =
            lab.sandbox(&policy).at_origin(HOST).resolve("*.example.test:443", lab.origin());
        assert_eq!(sandbox.shell(&script).success().out(), "200\n");
        let others = lab.seen().iter().filter(|seen| seen.host != HOST).count();
        assert!(others < 15, "every one of 15 names got a certificate at once");
    });
}

#[test]
fn a_connection_beyond_the_ceiling_waits_until_another_ends() {
    Lab::test(|lab| {
        let policy = policy(lab, json!({ "connections": 5 }));
        let program = format!(
            r#"
import socket, ssl
context = ssl.create_default_context()
def connect(patience):
    s = socket.create_connection(('{HOST}', 443), 10); s.settimeout(patience)
    return context.wrap_socket(s, server_hostname='{HOST}')
held = [connect(10) for n in range(5)]
try: connect(1); print('served')
except (OSError, ssl.SSLError): print('held back')
for one in held: one.close()
last = connect(10)
last.sendall(b'GET /x HTTP/1.1\r\nhost: {HOST}\r\n\r\n')
print(last.recv(1000).split(b'\r\n')[0])
"#
        );
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program);
        assert_eq!(outcome.success().out(), "held back\nb'HTTP/1.1 200 OK'\n");
    });
}

#[test]
fn requests_beyond_the_number_in_progress_are_429() {
    Lab::test(|lab| {
        lab.unordered();
        let policy = policy(lab, json!({ "requests": 3, "response_timeout_seconds": 2 }));
        let plan = (0..5)
            .fold(Plan::https(HOST, "h2"), |plan, n| plan.ask("GET", &format!("/{n}/lab/hang")));
        let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
        let mut refused = 0;
        for answer in &reports[0].answers {
            let refusal = answer.refusal();
            if refusal.status == 429 {
                refused += 1;
                assert_eq!(refusal.reason, "limit_exceeded");
                assert_eq!(answer.header("retry-after"), Some("1"));
                assert!(
                    refusal.error["message"].as_str().unwrap().contains("limits.requests"),
                    "{refusal:?}"
                );
            }
        }
        assert_eq!(refused, 2, "{reports:?}");
    });
}

#[test]
fn c15_a_key_used_faster_than_its_budget_is_held_back() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            lab.unordered();
            let policy = policy(lab, json!({ "requests_per_second_per_host": 2 }));
            let plan = (0..60)
                .fold(Plan::https(HOST, protocol), |plan, n| plan.ask("GET", &format!("/{n}")));
            let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
            let (refused, served): (Vec<_>, Vec<_>) =
                reports[0].answers.iter().partition(|answer| answer.status == 429);
            assert!(
                !served.is_empty() && refused.len() > 5,
                "{} of 60 were refused",
                refused.len()
            );
            for answer in refused {
                let refusal = answer.refusal();
                assert_eq!(refusal.reason, "limit_exceeded");
                assert_eq!(answer.header("retry-after"), Some("1"));
                let message = refusal.error["message"].as_str().unwrap();
                assert!(message.contains("limits.requests_per_second_per_host"), "{message}");
            }
        });
    }
}

#[test]
fn bytes_to_a_host_are_limited_for_the_life_of_the_sandbox() {
    Lab::test(|lab| {
        let policy = policy(lab, json!({ "bytes_up_per_host": 6000 }));
        let body = "x".repeat(2500);
        let plan = Plan::https(HOST, "http/1.1");
        let plan = (0..4).fold(plan, |plan, _| plan.ask_with("POST", "/upload", &[], &body));
        let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
        let statuses: Vec<_> = reports[0].answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 200, 429, 429]);
        for answer in &reports[0].answers[2..] {
            let message = answer.refusal().error["message"].to_string();
            assert!(message.contains("limits.bytes_up_per_host"), "{message}");
            assert_eq!(answer.header("retry-after"), None, "waiting does not help");
        }
    });
}

#[test]
fn a_head_counts_as_bytes_to_its_host() {
    Lab::test(|lab| {
        let policy = policy(lab, json!({ "bytes_up_per_host": 6000 }));
        let secret = "y".repeat(2500);
        let plan = Plan::https(HOST, "http/1.1");
        let plan = (0..4).fold(plan, |plan, _| plan.ask("GET", &format!("/x?data={secret}")));
        let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
        let statuses: Vec<_> = reports[0].answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 200, 429, 429]);
    });
}

#[test]
fn a_tunnel_is_cut_when_its_bytes_are_used_up() {
    Lab::test(|lab| {
        lab.tunnelled(HOST);
        let policy = json!({
            "network": { "allow": [HOST], "passthrough": [HOST] },
            "limits": { "bytes_up_per_host": 50_000 },
        });
        let script = format!(
            "curl -sSk -o /dev/null https://{HOST}/small || exit 1\n\
             head -c 1000000 /dev/zero | curl -sSk -o /dev/null --data-binary @- \
             https://{HOST}/upload && exit 2\n\
             curl -sSk -o /dev/null --max-time 5 https://{HOST}/after && exit 3\n\
             echo cut"
        );
        let outcome = lab.sandbox(&policy).at_origin(HOST).shell(&script);
        assert_eq!(outcome.success().out(), "cut\n");
        let reasons: Vec<_> =
            outcome.audit.iter().filter(|record| record.kind == "connection").collect();
        let limited = reasons
            .iter()
            .filter(|record| record.reason.as_deref() == Some("limit_exceeded"))
            .count();
        assert_eq!((reasons.len(), limited), (3, 2), "{reasons:#?}");
    });
}

#[test]
fn a_connection_ends_when_its_time_is_over() {
    Lab::test(|lab| {
        lab.unordered();
        let policy = policy(lab, json!({ "total_timeout_seconds": 2 }));
        let program = format!(
            r#"
import base64, socket, ssl
def connect():
    s = socket.create_connection(('{HOST}', 443), 10); s.settimeout(20)
    return ssl.create_default_context().wrap_socket(s, server_hostname='{HOST}')
def ended(s):
    try:
        while s.recv(65536): pass
    except (ConnectionResetError, ssl.SSLError): pass
answer = connect()
answer.sendall(b'GET /drip HTTP/1.1\r\nhost: {HOST}\r\n\r\n')
print(answer.recv(12)); ended(answer)
socket_ = connect()
socket_.sendall(b'GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n'
    b'sec-websocket-version: 13\r\nsec-websocket-key: ' + base64.b64encode(b'0' * 16) + b'\r\n\r\n')
print(socket_.recv(12)); ended(socket_)
print('ended')
"#
        );
        let outcome = lab.sandbox(&policy).at_origin(HOST).python(&program);
        assert_eq!(outcome.success().out(), "b'HTTP/1.1 200'\nb'HTTP/1.1 101'\nended\n");
        let reasons: Vec<_> =
            outcome.requests("allow").iter().map(|record| record.reason.clone()).collect();
        assert_eq!(reasons, vec![Some("total_timeout_seconds".to_owned()); 2]);
    });
}

#[test]
fn the_limits_of_a_new_policy_hold_at_once() {
    let lab = Lab::new(&["http/1.1"]);
    lab.handle().block_on(async {
        let runtime = inprocess::runtime(&lab, Audit::discard().unwrap(), &[HOST]);
        let served = Served::start(&runtime, "one", &policy(&lab, json!({ "connections": 1 })));
        let connect = || connect(served.tls, HOST, served.trust());
        let first = connect().await.unwrap();
        let mut second = std::pin::pin!(connect());
        let waits = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
        assert!(waits.is_err(), "the second of one connection was served");
        let (more, keys) = inprocess::rules(&policy(&lab, json!({ "connections": 2 })));
        served.serving.sandbox().replace(more, keys).unwrap();
        let second = tokio::time::timeout(Duration::from_secs(10), second).await;
        let second = second.expect("there are two places now").unwrap();
        let (fewer, keys) = inprocess::rules(&policy(&lab, json!({ "connections": 1 })));
        served.serving.sandbox().replace(fewer, keys).unwrap();
        drop(second);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let third = tokio::time::timeout(Duration::from_millis(300), connect()).await;
        assert!(third.is_err(), "the one place is taken by the first");
        drop(first);
        let fourth = tokio::time::timeout(Duration::from_secs(10), connect()).await;
        fourth.expect("the place is free").unwrap();
    });
}

/// The head of the answer to these bytes.
async fn head(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &str) -> String {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(read).unwrap()
}

fn request(path: &str, fields: usize) -> String {
    let fields: String = (0..fields).map(|n| format!("x-{n}: 1\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{fields}\r\n")
}

#[test]
fn open_connections_are_held_to_new_limits_and_keep_nothing_of_old_keys() {
    let lab = Lab::new(&["http/1.1"]);
    lab.handle().block_on(async {
        let runtime = inprocess::runtime(&lab, Audit::discard().unwrap(), &[HOST]);
        let served = Served::start(&runtime, "one", &policy(&lab, json!({})));
        let sandbox = served.serving.sandbox();
        let replace = |limits: Value| {
            let before = Arc::downgrade(&sandbox.keyring());
            let (policy, keys) = inprocess::rules(&policy(&lab, limits));
            sandbox.replace(policy, keys).unwrap();
            before
        };
        // No body, so that each answer ends with its head.
        let (few, many) = (request("/status/204", 1), request("/status/204", 40));
        let mut kept = connect(served.tls, HOST, served.trust()).await.unwrap();
        assert!(head(&mut kept, &many).await.starts_with("HTTP/1.1 204"));
        let mut idle = connect(served.tls, HOST, served.trust()).await.unwrap();
        let mut socket = connect(served.tls, HOST, served.trust()).await.unwrap();
        let upgrade = format!(
            "GET /ws HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: \
             websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: \
             MDAwMDAwMDAwMDAwMDAwMA==\r\n\r\n"
        );
        assert!(head(&mut socket, &upgrade).await.starts_with("HTTP/1.1 101"));

        let before = replace(json!({ "headers": 20 }));
        let gone = async {
            while before.upgrade().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone)
            .await
            .expect("the old keys are held by somebody");
        for stream in [&mut kept, &mut idle] {
            let answer = head(stream, &few).await;
            assert!(
                answer.starts_with("HTTP/1.1 204") && !answer.contains("connection: close"),
                "{answer}"
            );
        }
        assert!(head(&mut kept, &many).await.starts_with("HTTP/1.1 431"));
        // The originally allowed request is allowed again at once.
        replace(json!({}));
        assert!(head(&mut idle, &many).await.starts_with("HTTP/1.1 204"));
        replace(json!({ "header_bytes": 300 }));
        assert!(head(&mut idle, &many).await.starts_with("HTTP/1.1 431"));
        // The socket is still the same.
        tokio::time::timeout(Duration::from_millis(50), socket.read_u8())
            .await
            .expect_err("it is silent");
    });
}

#[test]
fn a_connection_whose_timers_or_room_are_of_before_ends_with_the_request_under_way() {
    let lab = Lab::new(&["http/1.1", "h2"]);
    lab.handle().block_on(async {
        let runtime = inprocess::runtime(&lab, Audit::discard().unwrap(), &[HOST]);
        for limits in [json!({ "idle_timeout_seconds": 7 }), json!({ "headers": 2000 })] {
            let served = Served::start(&runtime, "one", &policy(&lab, json!({})));
            let replace = |limits: &Value| {
                let (policy, keys) = inprocess::rules(&policy(&lab, limits.clone()));
                served.serving.sandbox().replace(policy, keys).unwrap();
            };
            let few = request("/status/204", 1);
            let mut stream = connect(served.tls, HOST, served.trust()).await.unwrap();
            assert!(!head(&mut stream, &few).await.contains("connection: close"));
            replace(&limits);
            assert!(head(&mut stream, &few).await.contains("connection: close"));
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            replace(&json!({}));

            let mut trust = (*served.trust()).clone();
            trust.alpn_protocols = vec![b"h2".to_vec()];
            let stream = connect(served.tls, HOST, Arc::new(trust)).await.unwrap();
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            let ask = || {
                let request = http::Request::get(format!("https://{HOST}/status/204"));
                request.body(Empty::<Bytes>::new()).unwrap()
            };
            for _ in 0..2 {
                assert_eq!(sender.send_request(ask()).await.unwrap().status(), 204);
            }
            replace(&limits);
            assert_eq!(sender.send_request(ask()).await.unwrap().status(), 204);
            let ended = tokio::time::timeout(Duration::from_secs(60), connection).await;
            ended.expect("GOAWAY").unwrap().unwrap();
        }
    });
}
