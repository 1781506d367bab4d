//! Bodies stream as they arrive: without waiting, buffering or false ends.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::origin::body::pattern_sha256;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const GIBIBYTE: u64 = 1 << 30;

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// Waits until `condition` holds.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_first_event_arrives_before_the_last_is_sent() {
    for (path, encoding) in [("/gated", ""), ("/gated", "-H accept-encoding:gzip")] {
        for option in ["--http1.1", "--http2"] {
            Lab::test(|lab| {
                let script = format!("curl -sSN {option} {encoding} https://{HOST}{path}");
                let running =
                    lab.sandbox(&policy(lab)).at_origin(HOST).start(&["sh", "-c", &script]);
                // The origin sends the rest only once this was seen at the far end.
                running.wait_for("data: first\n");
                lab.open_gate();
                let outcome = running.finish();
                assert!(outcome.success().out().ends_with("data: last\n\n"), "{}", outcome.out());
            });
        }
    }
}

#[test]
fn events_arrive_whole_and_in_order() {
    Lab::test(|lab| {
        let command = ["curl", "-sSN", &format!("https://{HOST}/events/200?interval_ms=1")];
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).run(&command);
        let expected: String =
            (0..200).map(|event| format!("id: {event}\ndata: event {event}\n\n")).collect();
        assert_eq!(outcome.success().out(), expected);
    });
}

#[test]
fn a_gibibyte_comes_down_in_bounded_memory() {
    for option in ["--http1.1", "--http2"] {
        Lab::test(|lab| {
            let script = format!(
                "curl -sS {option} https://{HOST}/bytes/{GIBIBYTE} | sha256sum && read end"
            );
            let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST).quiet_log().open_stdin();
            let mut running = sandbox.limit(Duration::from_secs(120)).start(&["sh", "-c", &script]);
            running.wait_for("\n");
            let peak = running.peak_memory_bytes();
            running.write(b"\n");
            let outcome = running.finish();
            assert_eq!(
                outcome.success().out().split(' ').next(),
                Some(pattern_sha256(GIBIBYTE).as_str())
            );
            assert!(peak < 200 << 20, "the interceptor had {} MiB resident", peak >> 20);
            assert!(outcome.requests("allow")[0].bytes_down.is_some_and(|bytes| bytes >= GIBIBYTE));
        });
    }
}

#[test]
fn a_gibibyte_goes_up_in_bounded_memory() {
    Lab::test(|lab| {
        let script = format!(
            "head -c {GIBIBYTE} /dev/zero | curl -sS --http1.1 -T - https://{HOST}/upload && read \
             end"
        );
        let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST).quiet_log().open_stdin();
        let mut running = sandbox.limit(Duration::from_secs(120)).start(&["sh", "-c", &script]);
        running.wait_for("\n");
        let peak = running.peak_memory_bytes();
        running.write(b"\n");
        running.finish().success();
        assert_eq!(lab.seen()[0].body_bytes, Some(GIBIBYTE));
        assert!(peak < 200 << 20, "the interceptor had {} MiB resident", peak >> 20);
    });
}

#[test]
fn a_reader_that_stops_stops_the_origin_too() {
    Lab::test(|lab| {
        let program = format!(
            "import ssl, socket, sys, time\ns = \
             ssl.create_default_context().wrap_socket(socket.create_connection(('{HOST}', 443)), \
             server_hostname='{HOST}')\ns.sendall(b'GET /bytes/{GIBIBYTE} HTTP/1.1\\r\\nhost: \
             {HOST}\\r\\n\\r\\n')\ns.recv(1000); print('reading stopped', flush=True); \
             sys.stdin.readline()\n"
        );
        let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST).quiet_log().open_stdin();
        let mut running = sandbox.start(&["/usr/bin/python3", "-c", &program]);
        running.wait_for("reading stopped");
        // Long enough that an unbounded buffer would have swallowed hundreds of megabytes.
        thread::sleep(Duration::from_secs(2));
        let peak = running.peak_memory_bytes();
        running.write(b"\n");
        running.finish().success();
        assert!(peak < 200 << 20, "the interceptor had {} MiB resident", peak >> 20);
    });
}

#[test]
fn five_hundred_connections_at_once() {
    for protocol in ["http/1.1", "h2"] {
        Lab::test(|lab| {
            lab.unordered();
            // Requests in progress at once have a ceiling of 512 unless the policy says otherwise.
            let mut plan = Plan::https(HOST, protocol).ask("GET", "/one");
            plan.connections = 500;
            let sandbox = lab
                .sandbox(&policy(lab))
                .at_origin(HOST)
                .quiet_log()
                .limit(Duration::from_secs(90));
            let reports = sandbox.fetch(&plan);
            assert_eq!(reports.len(), 500);
            for report in &reports {
                assert_eq!(report.error, None);
                assert!(report.answers.iter().all(|answer| answer.status == 200), "{report:?}");
            }
            assert_eq!(lab.seen().len(), 500);
        });
    }
}

#[test]
fn a_client_that_vanishes_midway_lets_go_of_the_origin() {
    for (option, path) in
        [("--http1.1", "/drip"), ("--http2", "/drip"), ("--http1.1", "/hang"), ("--http2", "/hang")]
    {
        Lab::test(|lab| {
            let script =
                format!("curl -sS --max-time 1 {option} https://{HOST}{path}; echo gone; read end");
            let mut running = lab
                .sandbox(&policy(lab))
                .at_origin(HOST)
                .open_stdin()
                .start(&["sh", "-c", &script]);
            running.wait_for("gone");
            eventually(&format!("{option} {path}: the origin sees its client go"), || {
                lab.shared().vanished.load(Ordering::SeqCst) == 1
            });
            running.write(b"\n");
            let outcome = running.finish();
            assert_eq!(
                outcome.audit.iter().filter(|record| record.kind == "request").count(),
                1,
                "{:#?}",
                outcome.audit
            );
        });
    }
}

#[test]
fn an_origin_that_vanishes_midway_is_not_mistaken_for_the_end() {
    for protocol in ["http/1.1", "h2"] {
        Lab::test(|lab| {
            if protocol == "h2" {
                lab.unordered();
            }
            let plan = Plan::https(HOST, protocol).ask("GET", "/cut/100000").ask("GET", "/after");
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
            let cut = &reports[0].answers[0];
            assert!(cut.error.is_some() && cut.body_bytes <= 100_000, "{cut:?}");
        });
    }
}

#[test]
fn trailers_pass_and_so_does_grpc_status() {
    Lab::test(|lab| {
        let headers = [("te", "trailers"), ("content-type", "application/grpc")];
        let plan = Plan::https(HOST, "h2").ask_with("POST", "/trailers", &headers, "x");
        let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
        let answer = &reports[0].answers[0];
        assert_eq!(answer.body, "body before trailers\n");
        assert!(answer.trailers.contains(&("grpc-status".into(), "0".into())), "{answer:?}");
    });
}

#[test]
fn the_origin_may_speak_another_version_of_http_than_the_client() {
    for (offered, protocol) in [(["http/1.1"], "h2"), (["h2"], "http/1.1")] {
        Lab::test(|lab| {
            let origin = lab.another_origin(&offered, vec![]);
            let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
            let plan = Plan::https(HOST, protocol)
                .ask_with("POST", "/upload", &[], "hello")
                .ask("GET", "/bytes/300000");
            let (reports, outcome) = sandbox.fetch_outcome(&plan);
            assert_eq!(reports[0].error, None, "{}", outcome.tail());
            assert!(reports[0].answers.iter().all(|answer| answer.status == 200), "{reports:?}");
            assert_eq!(reports[0].answers[1].sha256, pattern_sha256(300_000));
            if protocol == "h2" {
                lab.unordered();
            }
        });
    }
}

#[test]
fn an_answer_before_the_whole_request_reaches_the_client() {
    Lab::test(|lab| {
        // Over HTTP/1.1 the connection must be closed then, and whether the client reads before it
        // writes again is chance.
        let plan = Plan::https(HOST, "h2").ask_with("POST", "/early", &[], &"x".repeat(5_000_000));
        let reports = lab.sandbox(&policy(lab)).at_origin(HOST).quiet_log().fetch(&plan);
        assert_eq!(reports[0].answers[0].body, "early\n", "{reports:?}");
    });
}

#[test]
fn the_end_of_the_interceptor_ends_what_streams() {
    Lab::test(|lab| {
        let running = lab.sandbox(&policy(lab)).at_origin(HOST).bare().start(&[
            "curl",
            "-sSN",
            &format!("https://{HOST}/drip"),
        ]);
        running.wait_for("drop");
        running.signal(Signal::SIGTERM);
        running.finish();
        eventually("the origin sees its client go", || {
            lab.shared().vanished.load(Ordering::SeqCst) == 1
        });
    });
}
