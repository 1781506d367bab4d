//! The ceilings of a sandbox (SPEC 10.6) and what a request beyond them is told.

use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use serde_json::{Value, json};

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
            let plan = Plan::https(HOST, protocol).ask_with("POST", "/upload", &[], &"x".repeat(1000));
            let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
            assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
            let plan = Plan::https(HOST, protocol).ask_with("POST", "/upload", &[], &"x".repeat(1001));
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
                assert_eq!((refusal.status, refusal.reason.as_str()), (431, "limit_exceeded"), "{limits}");
                assert_eq!(lab.seen().len(), 0);
            });
        }
    }
}

#[test]
fn an_origin_that_never_answers_is_given_up() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let policy = policy(lab, json!({ "idle_timeout_seconds": 1 }));
            let plan = Plan::https(HOST, protocol).ask("GET", "/hang");
            let (reports, outcome) = lab.sandbox(&policy).at_origin(HOST).fetch_outcome(&plan);
            let refusal = reports[0].answers[0].refusal();
            assert_eq!((refusal.status, refusal.reason.as_str()), (504, "upstream_timeout"));
            outcome.one_with("upstream_timeout");
        });
    }
}

#[test]
fn x3_a_head_that_never_ends_is_given_up() {
    Lab::test(|lab| {
        let policy = policy(lab, json!({ "header_timeout_seconds": 1 }));
        let program = format!(
            "import socket, ssl\n\
             s = ssl.create_default_context().wrap_socket(socket.create_connection(('{HOST}', 443)), server_hostname='{HOST}')\n\
             s.settimeout(10); s.sendall(b'GET / HTTP/1.1\\r\\nhost: {HOST}\\r\\n')\n\
             while s.recv(4096): pass\n\
             t = socket.create_connection(('{HOST}', 443)); t.settimeout(10); t.sendall(b'\\x16\\x03\\x01')\n\
             try:\n\
             \x20   while t.recv(4096): pass\n\
             except ConnectionResetError: pass\n\
             print('both closed')\n"
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
             for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do curl -sk -o /dev/null --max-time 2 https://n$n.example.test/; done\n\
             curl -sS -o /dev/null -w '%{{http_code}}\\n' https://{HOST}/last"
        );
        let sandbox = lab.sandbox(&policy).at_origin(HOST).resolve("*.example.test:443", lab.origin());
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
