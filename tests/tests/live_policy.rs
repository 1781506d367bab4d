//! Policies replaced while a sandbox works (attack R9), and the stream of its records.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Guest, until};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const OTHER: &str = "other.example.test";

fn with_key(key: &str, endpoints: &Value) -> Value {
    json!({ "network": { "allow": [HOST] }, "credentials_v2": { "lab": {
        "key": key, "hosts": [HOST], "env": "LAB_API_KEY", "endpoints": endpoints } } })
}

#[test]
fn r9_each_request_is_judged_by_one_policy_and_none_fails_while_it_is_replaced() {
    Lab::test(|lab| {
        lab.unordered();
        let second = lab.another_key();
        // One key may go to /a, the other to /b, so a request with the rules of one and the key of
        // the other would show.
        let a = with_key(lab.key(), &json!([{ "methods": ["GET"], "paths": ["/a"] }]));
        let b = with_key(&second, &json!([{ "methods": ["GET"], "paths": ["/b"] }]));
        let daemon = lab.daemon().quiet_log().at_origin(HOST).start();
        let guest = daemon.guest(&a);
        let done = AtomicBool::new(false);
        let (reports, replaced) = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut reports = Vec::new();
                for protocol in ["http/1.1", "h2", "http/1.1"] {
                    let mut plan = Plan { connections: 4, ..Plan::https(HOST, protocol) };
                    for _ in 0..60 {
                        plan = plan.ask("GET", "/a").ask("GET", "/b");
                    }
                    reports.extend(guest.fetch(&plan));
                }
                done.store(true, Ordering::SeqCst);
                reports
            });
            let mut replaced = 0;
            while !done.load(Ordering::SeqCst) && replaced < 5000 {
                let policy = if replaced % 2 == 0 { &b } else { &a };
                assert_eq!(daemon.replace(&guest, policy, false).status, 200);
                replaced += 1;
            }
            (asking.join().unwrap(), replaced)
        });
        let answers: Vec<_> = reports.iter().flat_map(|report| &report.answers).collect();
        assert_eq!((reports.len(), answers.len()), (12, 12 * 120));
        assert!(replaced >= 10, "{replaced}");
        let mut refused = 0;
        for answer in answers {
            assert_eq!(answer.error, None, "{answer:?}");
            if answer.status != 200 {
                assert_eq!(answer.refusal().reason, "endpoint_denied");
                refused += 1;
            }
        }
        assert!(refused > 0 && refused < 12 * 120, "{refused} after {replaced} replacements");
        for seen in lab.seen() {
            let key = if seen.path == "/a" { lab.key() } else { second.as_str() };
            assert_eq!(seen.values("authorization"), [format!("Bearer {key}")], "{}", seen.path);
        }
        daemon.finish();
    });
}

#[test]
fn r9_a_connection_in_use_when_the_policy_is_replaced_carries_no_later_request() {
    Lab::test(|lab| {
        lab.unordered();
        let second = lab.another_key();
        // Each is the first of its policy's list, for a different account.
        let of = |name: &str, key: &str| {
            let credential = json!({ "key": key, "hosts": [HOST], "env": "LAB_API_KEY" });
            json!({ "network": { "allow": [HOST] }, "credentials_v2": { name: credential } })
        };
        let (a, b) = (of("one", lab.key()), of("other", &second));
        let mut denied = a.clone();
        denied["network"]["deny"] = json!(["127.0.0.0/8"]);
        for protocol in ["http/1.1", "h2"] {
            let daemon = lab.daemon().quiet_log().at_origin(HOST).start();
            let guest = daemon.guest(&a);
            let version = if protocol == "h2" { "--http2" } else { "--http1.1" };
            let seen = |path: &str| lab.seen().into_iter().rfind(|seen| seen.path == path);
            let mut later = 0;
            for next in [&b, &a, &denied] {
                let gated = format!("/{version}/{later}/lab/gated");
                let asking = format!("curl -sS {version} --max-time 60 https://{HOST}{gated}");
                let mut asking = guest.command("sh").args(["-c", &asking]).spawn().unwrap();
                assert!(until(|| seen(&gated).is_some()));
                assert_eq!(daemon.replace(&guest, next, false).status, 200);
                lab.open_gate();
                assert!(asking.wait().unwrap().success());
                later += 1;
                let path = format!("/{version}/{later}");
                let answer =
                    &guest.fetch(&Plan::https(HOST, protocol).ask("GET", &path))[0].answers[0];
                if next == &denied {
                    assert_eq!(answer.refusal().reason, "host_denied");
                    assert!(seen(&path).is_none());
                    continue;
                }
                assert_eq!(answer.status, 200, "{answer:?}");
                let (before, after) = (seen(&gated).unwrap(), seen(&path).unwrap());
                assert_ne!(before.connection, after.connection, "{before:?} {after:?}");
                let key = if next == &b { &second } else { lab.key() };
                assert_eq!(after.values("authorization"), [format!("Bearer {key}")]);
            }
            daemon.finish();
        }
    });
}

/// Opens a WebSocket, and reports its start and end.
fn websocket(host: &str) -> String {
    format!(
        "import base64, os, socket, ssl
s = ssl.create_default_context().wrap_socket(socket.create_connection(('{host}', 443)), \
         server_hostname='{host}')
key = base64.b64encode(os.urandom(16)).decode()
s.sendall(f'GET /ws HTTP/1.1\\r\\nhost: {host}\\r\\nconnection: Upgrade\\r\\nupgrade: \
         websocket\\r\\nsec-websocket-version: 13\\r\\nsec-websocket-key: \
         {{key}}\\r\\n\\r\\n'.encode())
print(s.recv(4096).split(b' ')[1].decode())
s.settimeout(60)
try: print('ended', len(s.recv(65536)))
except TimeoutError: print('open')
except OSError: print('ended')"
    )
}

/// Requests a stream and reports its outcome.
fn stream(host: &str) -> String {
    format!(
        "import socket, ssl
s = ssl.create_default_context().wrap_socket(socket.create_connection(('{host}', 443)), \
         server_hostname='{host}')
s.sendall(b'GET /events/100000?interval_ms=50 HTTP/1.1\\r\\nhost: {host}\\r\\n\\r\\n')
print(s.recv(100).split(b' ')[1].decode())
try:
    while s.recv(65536): pass
except OSError: pass
print('ended')"
    )
}

/// Speaks a protocol of its own.
fn raw(host: &str, port: u16) -> String {
    format!(
        "import socket
s = socket.create_connection(('{host}', {port}))
s.sendall(b'\\x00hello')
print('sent')
s.settimeout(60)
try: print('ended', len(s.recv(10)))
except TimeoutError: print('open')
except OSError: print('ended')"
    )
}

struct Talk {
    child: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Talk {
    /// Starts it and waits for its first line.
    fn begin(guest: &Guest<'_>, program: &str, first: &str) -> Talk {
        let mut child = guest.python_start(program);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        if line.trim() != first {
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            panic!("{line:?} {error}");
        }
        Talk { child, output }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn rest(mut self) -> String {
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        text
    }
}

#[test]
fn r9_what_is_open_is_closed_when_a_new_policy_forbids_it_and_that_was_asked_for() {
    Lab::test(|lab| {
        lab.unordered();
        let talker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = talker.local_addr().unwrap();
        let raw_rule = "tcp://raw.example.test:7000";
        let both = json!({ "network": { "allow": [HOST, OTHER, raw_rule] } });
        let daemon = lab
            .daemon()
            .at_origin(HOST)
            .at_origin(OTHER)
            .resolve("raw.example.test:7000", silent)
            .start();
        let guest = daemon.guest(&both);
        let mut forbidden = [
            Talk::begin(&guest, &websocket(HOST), "101"),
            Talk::begin(&guest, &stream(HOST), "200"),
            Talk::begin(&guest, &raw("raw.example.test", 7000), "sent"),
        ];
        let (_kept, _) = talker.accept().unwrap();
        let mut permitted = [
            Talk::begin(&guest, &websocket(OTHER), "101"),
            Talk::begin(&guest, &stream(OTHER), "200"),
        ];

        // Unless requested, open connections continue under their original policy.
        let only_other = json!({ "network": { "allow": [OTHER] } });
        assert_eq!(daemon.replace(&guest, &only_other, false).status, 200);
        let reports = guest.fetch(&Plan::https(HOST, "h2").ask("GET", "/x"));
        assert_eq!(reports[0].answers[0].refusal().reason, "host_denied");
        for talk in forbidden.iter_mut().chain(&mut permitted) {
            assert!(!talk.has_ended());
        }
        assert_eq!(daemon.replace(&guest, &only_other, true).status, 200);
        for talk in forbidden {
            let rest = talk.rest();
            assert!(rest.starts_with("ended"), "{rest}");
        }
        for talk in &mut permitted {
            assert!(!talk.has_ended());
        }
        assert_eq!(
            daemon.replace(&guest, &json!({ "network": { "deny": ["*"] } }), true).status,
            200
        );
        for talk in permitted {
            assert!(talk.rest().starts_with("ended"));
        }
        daemon.finish();
    });
}

#[test]
fn r9_a_request_under_way_is_cut_off_when_its_endpoint_is_forbidden_and_its_neighbour_goes_on() {
    for protocol in ["h2", "http/1.1"] {
        Lab::test(|lab| {
            lab.unordered();
            let wide = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
            let narrow = lab.governed(HOST, json!([{ "methods": [], "paths": ["/gated"] }]));
            let daemon = lab.daemon().at_origin(HOST).start();
            let guest = daemon.guest(&wide);
            let mut plans = vec![Plan::https(HOST, protocol), Plan::https(HOST, protocol)];
            if protocol == "h2" {
                // Two streams of one connection.
                plans = vec![
                    plans
                        .remove(0)
                        .ask("GET", "/events/100000?interval_ms=20")
                        .ask("GET", "/gated"),
                ];
            } else {
                plans[0] = plans[0].clone().ask("GET", "/events/100000?interval_ms=20");
                plans[1] = plans[1].clone().ask("GET", "/gated");
            }
            let reports = thread::scope(|scope| {
                let asking: Vec<_> =
                    plans.iter().map(|plan| scope.spawn(|| guest.fetch(plan))).collect();
                assert!(until(|| lab.seen().len() == 2));
                assert_eq!(daemon.replace(&guest, &narrow, true).status, 200);
                lab.open_gate();
                asking.into_iter().flat_map(|asking| asking.join().unwrap()).collect::<Vec<_>>()
            });
            let answers: Vec<_> = reports.iter().flat_map(|report| &report.answers).collect();
            assert!(answers[0].error.is_some() || answers[0].status == 403, "{:?}", answers[0]);
            assert_eq!(
                (answers[1].error.as_deref(), answers[1].status),
                (None, 200),
                "{:?}",
                answers[1]
            );
            assert!(answers[1].body.ends_with("data: last\n\n"), "{:?}", answers[1]);
            daemon.finish();
        });
    }
}

#[test]
fn a_network_that_a_new_policy_denies_is_denied_at_connect() {
    Lab::test(|lab| {
        let daemon = lab.daemon().start();
        let guest = daemon.guest(&json!({ "network": { "deny": ["203.0.113.0/24"] } }));
        let connect = |address: &str| {
            guest.python(&format!(
                "import socket\ntry: socket.create_connection(('{address}', 443), 5); \
                 print('connected')\nexcept OSError as e: print(e.errno)"
            ))
        };
        assert_eq!(
            (connect("203.0.113.1").as_str(), connect("198.51.100.1").as_str()),
            ("1\n", "connected\n")
        );
        let other = json!({ "network": { "deny": ["198.51.100.0/24"] } });
        assert_eq!(daemon.replace(&guest, &other, false).status, 200);
        assert_eq!(
            (connect("203.0.113.1").as_str(), connect("198.51.100.1").as_str()),
            ("connected\n", "1\n")
        );
        // An invalid policy changes nothing, not even in the kernel.
        daemon
            .replace(&guest, &json!({ "network": { "deny": ["203.0.113.0/24", "x y"] } }), false)
            .problem(422);
        assert_eq!(
            (connect("203.0.113.1").as_str(), connect("198.51.100.1").as_str()),
            ("connected\n", "1\n")
        );
        daemon.finish();
    });
}

#[test]
fn the_records_of_a_sandbox_are_followed_as_they_are_written() {
    Lab::test(|lab| {
        lab.unordered();
        let daemon = lab.daemon().at_origin(HOST).at_origin(OTHER).start();
        let policy = json!({ "network": { "allow": [HOST] } });
        let (guest, neighbour) = (daemon.guest(&policy), daemon.guest(&policy));
        let path = |query: &str| format!("/v1/sandboxes/{}/audit{query}", guest.id);
        let ask = |guest: &Guest<'_>, host: &str, at: &str| {
            drop(guest.fetch(&Plan::https(host, "http/1.1").ask("GET", at)));
        };
        ask(&guest, HOST, "/before");
        assert!(until(|| daemon
            .records()
            .iter()
            .any(|record| record.path.as_deref() == Some("/before"))));
        let (all, denied) = (daemon.follow(&path("")), daemon.follow(&path("?decision=deny")));
        let (host, since) = (
            daemon.follow(&path("?host=*.example.test&decision=allow")),
            daemon.follow(&path("?since=2020-01-01T00:00:00Z")),
        );
        for events in [&all, &denied, &host, &since] {
            events.wait_for(":\n\n");
        }
        ask(&guest, HOST, "/one");
        ask(&neighbour, HOST, "/neighbour");
        ask(&guest, OTHER, "/two");
        let paths = |records: &[Value]| -> Vec<String> {
            let requests = records.iter().filter(|record| record["kind"] == "request");
            requests.map(|record| record["path"].as_str().unwrap().to_owned()).collect()
        };
        for (events, last) in [(&all, "/two"), (&denied, "/two"), (&host, "/one"), (&since, "/two")]
        {
            events.wait_for(last);
        }
        daemon.remove(&guest);
        for events in [&all, &denied, &host, &since] {
            events.wait_for_end();
            assert_eq!(events.data("end").len(), 1);
        }
        assert_eq!(paths(&all.data("record")), ["/one", "/two"]);
        assert_eq!(paths(&denied.data("record")), ["/two"]);
        assert_eq!(paths(&host.data("record")), ["/one"]);
        assert_eq!(paths(&since.data("record")), ["/before", "/one", "/two"]);
        for record in [all.data("record"), since.data("record")].concat() {
            assert_eq!(record["sandbox"], guest.id.as_str());
        }
        daemon.finish();
    });
}

#[test]
fn a_slow_reader_is_told_how_many_records_were_left_out() {
    Lab::test(|lab| {
        lab.unordered();
        let daemon = lab.daemon().quiet_log().at_origin(HOST).start();
        let guest = daemon.guest(&json!({ "network": { "allow": [HOST] } }));
        // A reader that does not read: its socket fills up, then the queue for it.
        let stuck = std::os::unix::net::UnixStream::connect(daemon.control()).unwrap();
        let request = format!("GET /v1/sandboxes/{}/audit HTTP/1.1\r\nhost: x\r\n\r\n", guest.id);
        std::io::Write::write_all(&mut &stuck, request.as_bytes()).unwrap();
        let long = format!("/{}", "x".repeat(6000));
        let mut plan = Plan { connections: 8, ..Plan::https(HOST, "h2") };
        for _ in 0..60 {
            plan = plan.ask("GET", &long);
        }
        for _ in 0..5 {
            assert_eq!(guest.fetch(&plan).len(), 8);
        }
        assert!(until(|| daemon.records().len() > 2400));
        daemon.remove(&guest);
        let mut text = String::new();
        let mut reader = BufReader::new(&stuck);
        let mut line = String::new();
        while !text.contains("event: end") && reader.read_line(&mut line).unwrap() > 0 {
            if !line.contains("xxxx") {
                text.push_str(&line);
            }
            line.clear();
        }
        assert!(text.contains("event: dropped"), "{text}");
        daemon.finish();
    });
}
