//! Base URLs: clients that cannot trust the sandbox's CA use
//! `http://169.254.169.254/proxy/SERVICE/…`, with the same result as requests to the service.

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const SECOND: &str = "files.example.test";
const BASE: &str = "http://169.254.169.254/proxy/lab";

/// Two hosts of one credential. `/v1/` permits any method, `/ws` permits GET.
fn policy(lab: &Lab) -> Value {
    let rules = json!([
        { "methods": [], "paths": ["/v1/", "/v1/lab"] },
        { "methods": ["GET"], "paths": ["/ws"] },
    ]);
    let mut policy = lab.governed(HOST, rules);
    policy["network"]["allow"] = json!([HOST, SECOND]);
    policy["credentials_v2"]["lab"]["hosts"] = json!([HOST, SECOND]);
    policy
}

fn shell(lab: &Lab, policy: &Value, script: &str) -> Outcome {
    lab.sandbox(policy).at_origin(HOST).at_origin(SECOND).shell(script)
}

fn with_bearer(lab: &Lab) -> Vec<String> {
    vec![format!("Bearer {}", lab.key())]
}

#[test]
fn a_request_under_a_base_url_is_one_to_the_service() {
    Lab::test(|lab| {
        let script = format!(
            "curl -sS -X POST -d body '{BASE}/v1/x%2Fy?a=1&b=%20' && curl -sS -H \"authorization: \
             Bearer $LAB_API_KEY\" {BASE}/v1/second && curl -sS -H 'authorization: Bearer sk-own' \
             {BASE}@{SECOND}/v1/third && curl -sS -H 'host: 169.254.169.254:80' {BASE}/v1/fourth"
        );
        let outcome = shell(lab, &policy(lab), &script);
        outcome.success();
        let seen = lab.seen();
        let asked: Vec<_> =
            seen.iter().map(|seen| (seen.line(), seen.query.as_deref(), seen.tls)).collect();
        assert_eq!(
            asked,
            [
                (format!("POST {HOST}/v1/x%2Fy"), Some("a=1&b=%20"), true),
                (format!("GET {HOST}/v1/second"), None, true),
                (format!("GET {SECOND}/v1/third"), None, true),
                (format!("GET {HOST}/v1/fourth"), None, true),
            ]
        );
        assert!(
            seen.iter().all(|seen| seen.values("authorization") == with_bearer(lab)),
            "{seen:?}"
        );
        assert_eq!(seen[0].body_bytes, Some(4));
        // One record each, for the request that it stands for.
        let records = outcome.requests("allow");
        assert_eq!(records.len(), 4);
        for record in records {
            assert_eq!(
                (record.port, record.credential.as_deref()),
                (Some(443), Some("lab")),
                "{record:?}"
            );
        }
        assert!(
            outcome.audit.iter().all(|record| record.kind != "dns"),
            "nothing was looked up inside"
        );
    });
}

#[test]
fn r1_the_rules_see_the_request_that_it_stands_for() {
    let refused = [
        ("GET", "/v2/x", "endpoint_denied", 403),
        ("GET", "/v1x", "endpoint_denied", 403),
        ("POST", "/ws", "endpoint_denied", 403),
        ("GET", "/v1/../v2", "path_ambiguous", 400),
        ("GET", "/v1/%2e%2e/v2", "path_ambiguous", 400),
        ("GET", "/v1/..%2fv2", "path_ambiguous", 400),
        ("TRACE", "/v1/x", "method_refused", 405),
    ];
    Lab::test(|lab| {
        let plan =
            refused.iter().fold(Plan::http("169.254.169.254"), |plan, (method, path, ..)| {
                plan.ask(method, &format!("/proxy/lab{path}"))
            });
        for (index, (method, path, reason, status)) in refused.iter().enumerate() {
            // Some refusals close the connection, so each request has its own.
            let plan = Plan { requests: vec![plan.requests[index].clone()], ..plan.clone() };
            let (reports, outcome) = lab.sandbox(&policy(lab)).at_origin(HOST).fetch_outcome(&plan);
            let refusal = reports[0].answers[0].refusal();
            assert_eq!(
                (refusal.status, refusal.reason.as_str()),
                (*status, *reason),
                "{method} {path}"
            );
            assert_eq!(refusal.error["host"], HOST, "{method} {path}");
            let record = outcome.one_denied(reason);
            assert_eq!((record.host.as_deref(), record.path.as_deref()), (Some(HOST), Some(*path)));
        }
        assert_eq!(lab.seen().len(), 0);
    });
}

#[test]
fn r7_the_metadata_service_is_never_reached_whatever_the_rules_say() {
    let spellings = [
        "http://169.254.169.254/latest/meta-data/",
        "http://169.254.169.254/",
        "http://169.254.169.254/proxy",
        "http://169.254.169.254/proxy/unknown/v1/x",
        "http://169.254.169.254/proxy/lab@evil.example.test/v1/x",
        "http://169.254.169.254:8080/proxy/lab/v1/x",
        "https://169.254.169.254/proxy/lab/v1/x",
        "http://2852039166/latest/meta-data/",
        "http://0xa9fea9fe/latest/meta-data/",
        "http://0251.0376.0251.0376/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/latest/meta-data/",
        "http://[64:ff9b::a9fe:a9fe]/latest/meta-data/",
        "http://metadata.example.test/latest/meta-data/",
    ];
    for host_net in [false, true] {
        Lab::test(|lab| {
            let mut policy = policy(lab);
            policy["network"]["allow"] =
                json!(["*", "0.0.0.0/0", "::/0", "169.254.0.0/16", "tcp://169.254.169.254"]);
            for url in spellings {
                let script = format!("curl -sSk -w ' %{{http_code}}' {url}; true");
                // The last one is a name, whose address is judged after resolution.
                let names = lab
                    .names(&[("metadata.example.test", &[&["169.254.169.254".parse().unwrap()]])]);
                let sandbox = lab.sandbox(&policy).resolver(names.address());
                let sandbox = if host_net { sandbox.host_net() } else { sandbox };
                let outcome = sandbox.shell(&script);
                let text = outcome.success().out();
                assert!(
                    text.contains("\"host_denied\"") && text.ends_with(" 403"),
                    "{url}: {text}\n{}",
                    outcome.tail()
                );
                assert!(
                    text.contains("/proxy/SERVICE/") && text.contains("`lab`"),
                    "{url}: {text}"
                );
                outcome.one_denied("host_denied");
            }
            assert_eq!(lab.seen().len(), 0);
        });
    }
}

#[test]
fn r7_nothing_but_http_is_answered_at_the_address() {
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["network"]["allow"] = json!(["tcp://169.254.169.254", HOST]);
        let outcome = lab.sandbox(&policy).send("169.254.169.254:80", None, b"SSH-2.0-x\r\n");
        // Only a refusal, in the client's own protocol.
        assert!(outcome.out().starts_with("SSH-2.0-"), "{}", outcome.out());
        let record = outcome.audit.iter().find(|record| record.kind == "connection").unwrap();
        assert_eq!(record.decision.as_deref(), Some("deny"), "{record:?}");
    });
}

#[test]
fn c2_what_comes_in_the_clear_never_leaves_in_the_clear() {
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["allow_plaintext"] = json!(true);
        let outcome = shell(lab, &policy, &format!("curl -sS {BASE}/v1/x"));
        outcome.success();
        assert!(lab.seen()[0].tls, "{:?}", lab.seen());
    });
}

#[test]
fn c1_a_placeholder_of_another_service_is_refused() {
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["credentials_v2"]["second"] = json!({
            "key": { "file": lab.secret_file("second", &lab.another_key()) },
            "hosts": [HOST], "env": "SECOND_KEY",
        });
        policy["credentials_v2"]["other"] = json!({
            "key": { "file": lab.secret_file("other", &lab.another_key()) },
            "hosts": ["o.example.test"], "env": "OTHER_KEY",
        });
        let ask = |variable: &str, service: &str| {
            let script = format!(
                "curl -sS -H \"x-a: $none{variable}\" http://169.254.169.254/proxy/{service}/v1/x"
            );
            shell(lab, &policy, &script)
        };
        let outcome = ask("$OTHER_KEY", "lab");
        assert_eq!(outcome.one_denied("credential_misuse").credential.as_deref(), Some("other"));
        // The URL selects one of two credentials for a host, and a placeholder must not contradict
        // it.
        ask("$SECOND_KEY", "lab").one_denied("credential_ambiguous");
        let outcome = ask("", "second");
        assert_eq!(
            outcome.requests("allow")[0].credential.as_deref(),
            Some("second"),
            "{}",
            outcome.out()
        );
        let outcome = ask("", "lab");
        assert_eq!(
            outcome.requests("allow")[0].credential.as_deref(),
            Some("lab"),
            "{}",
            outcome.out()
        );
    });
}

#[test]
fn c3_what_the_origin_echoes_holds_the_placeholder_instead() {
    Lab::test(|lab| {
        let script = format!(
            "echo \"placeholder $LAB_API_KEY\"; curl -sSi -d x {BASE}/v1/lab/echo; curl -sSi -d x \
             '{BASE}/v1/lab/echo?in=header'; curl -sSi -d x --compressed \
             '{BASE}/v1/lab/echo?encoding=gzip'; curl -sSi -d x '{BASE}/v1/lab/echo?in=location'"
        );
        let outcome = shell(lab, &policy(lab), &script);
        let text = outcome.success().out();
        let placeholder = text.lines().next().unwrap().strip_prefix("placeholder ").unwrap();
        assert!(text.matches(placeholder).count() >= 5, "{text}");
    });
}

#[test]
fn http2_in_the_clear_is_served_as_well() {
    Lab::test(|lab| {
        let script = format!(
            "curl -sS --http2-prior-knowledge -w '%{{http_version}}' -o /dev/null {BASE}/v1/x"
        );
        assert_eq!(shell(lab, &policy(lab), &script).success().out(), "2");
        let seen = &lab.seen()[0];
        assert_eq!(
            (seen.line(), seen.protocol, seen.tls),
            (format!("GET {HOST}/v1/x"), "h2", true)
        );
    });
}

#[test]
fn redirects_within_the_service_stay_under_the_base_url() {
    Lab::test(|lab| {
        let set = |name: &str, url: &str| {
            let url: String = url.bytes().map(|byte| format!("%{byte:02X}")).collect();
            format!("{BASE}/v1/lab/set?{name}={url}")
        };
        let evil = "https://evil.example.test/v1/x";
        let script = [
            set("location", &format!("https://{HOST}/v1/next?page=2")),
            set("location", &format!("https://{SECOND}/v1/next")),
            set("location", "/v1/next"),
            set("location", evil),
            set("content-location", &format!("https://{HOST}/v1/here")),
            set(
                "link",
                &format!("<https://{HOST}/v1/list?page=2>; rel=\"next\", <{evil}>; rel=\"help\""),
            ),
        ]
        .map(|url| format!("curl -sSi '{url}'"))
        .join(" && ");
        let outcome = shell(lab, &policy(lab), &script);
        let text = outcome.success().out();
        let fields: Vec<&str> = text
            .lines()
            .map(str::trim_end)
            .filter(|line| {
                ["location:", "content-location:", "link:"]
                    .iter()
                    .any(|name| line.starts_with(name))
            })
            .collect();
        assert_eq!(
            fields,
            [
                format!("location: {BASE}/v1/next?page=2"),
                format!("location: {BASE}@{SECOND}/v1/next"),
                format!("location: {BASE}/v1/next"),
                format!("location: {evil}"),
                format!("content-location: {BASE}/v1/here"),
                format!("link: <{BASE}/v1/list?page=2>; rel=\"next\", <{evil}>; rel=\"help\""),
            ]
        );
    });
}

#[test]
fn h10_a_websocket_begins_under_a_base_url_too() {
    Lab::test(|lab| {
        let program = "import socket\ns = socket.create_connection(('169.254.169.254', 80)); \
                       s.settimeout(10)\ns.sendall(b'GET /proxy/lab/ws HTTP/1.1\\r\\nhost: \
                       169.254.169.254\\r\\nconnection: Upgrade\\r\\nupgrade: \
                       websocket\\r\\n'\nb'sec-websocket-version: 13\\r\\nsec-websocket-key: \
                       dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n')\nhead = b''\nwhile b'\\r\\n\\r\\n' \
                       not in head: head += \
                       s.recv(4096)\nprint(head.split(b'\\r\\n')[0].decode())\ns.\
                       sendall(bytes([0x81, 0x82, 0, 0, 0, 0]) + b'hi'); \
                       print(s.recv(100))\ns.sendall(bytes([0x88, 0x80, 0, 0, 0, 0])); \
                       print(s.recv(100))\n";
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(program);
        assert!(
            outcome.success().out().contains("101") && outcome.out().contains("hi"),
            "{}",
            outcome.out()
        );
        let seen = &lab.seen()[0];
        assert!(seen.tls && seen.values("authorization") == with_bearer(lab), "{seen:?}");
        let record = outcome.requests("allow")[0];
        assert_eq!((record.protocol.as_deref(), record.host.as_deref()), (Some("ws"), Some(HOST)));
    });
}

#[test]
fn an_event_reaches_the_client_while_the_origin_holds_the_stream_open() {
    Lab::test(|lab| {
        let running = lab.sandbox(&policy(lab)).at_origin(HOST).start(&[
            "curl",
            "-sSN",
            &format!("{BASE}/v1/lab/gated"),
        ]);
        running.wait_for("data: first\n");
        lab.open_gate();
        assert!(running.finish().success().out().ends_with("data: last\n\n"));
    });
}

#[test]
fn base_urls_point_the_clients_of_known_services_there() {
    for host_net in [false, true] {
        Lab::test(|lab| {
            let policy = json!({ "network": { "allow": ["api.openai.com", "api.anthropic.com"] },
                "credentials_v2": {
                    "openai": { "key": { "file": lab.key_file() } },
                    "anthropic": {
                        "key": { "file": lab.secret_file("second", &lab.another_key()) },
                    },
            } });
            let script = "echo $OPENAI_BASE_URL $ANTHROPIC_BASE_URL; curl -sSf \
                          $OPENAI_BASE_URL/models -H \"authorization: Bearer $OPENAI_API_KEY\" && \
                          curl -sSf $ANTHROPIC_BASE_URL/v1/messages -d '{}' -H \"x-api-key: \
                          $ANTHROPIC_API_KEY\"";
            let run = |options: &[&str]| {
                let mut sandbox =
                    lab.sandbox(&policy).at_origin("api.openai.com").at_origin("api.anthropic.com");
                for option in options {
                    sandbox = sandbox.option(*option);
                }
                if host_net { sandbox.host_net() } else { sandbox }
            };
            let outcome = run(&["--base-urls"]).shell(script);
            let expected =
                "http://169.254.169.254/proxy/openai/v1 http://169.254.169.254/proxy/anthropic";
            assert_eq!(outcome.success().out().lines().next(), Some(expected));
            let lines: Vec<_> = lab.seen().iter().map(|seen| seen.line()).collect();
            assert_eq!(
                lines,
                ["GET api.openai.com/v1/models", "POST api.anthropic.com/v1/messages"]
            );
            assert_eq!(lab.seen()[0].values("authorization"), with_bearer(lab));
            // Without the option the variables are not set.
            assert_eq!(run(&[]).shell("echo $OPENAI_BASE_URL").success().out(), "\n");
        });
    }
}

#[test]
fn base_urls_that_a_rule_closes_stop_the_start() {
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["network"]["deny"] = json!(["169.254.0.0/16"]);
        let outcome = lab.sandbox(&policy).bare().option("--base-urls").run(&["true"]);
        assert_eq!(outcome.code(), Some(125), "{}", outcome.tail());
        assert!(
            outcome.err().contains("169.254.0.0/16") && outcome.err().contains("--base-urls"),
            "{}",
            outcome.tail()
        );
    });
}

#[test]
fn explain_says_what_is_decided_for_the_request_that_it_stands_for() {
    Lab::test(|lab| {
        let file = lab.secret_file("policy.json", &policy(lab).to_string());
        let explain = |method: &str, url: &str| {
            let output =
                std::process::Command::new(interceptor_tests::sandbox::binary("interceptor"))
                    .args(["explain", "--json", "--policy"])
                    .arg(&file)
                    .args([method, url])
                    .output()
                    .unwrap();
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            (output.status.code(), answer)
        };
        let (status, answer) = explain("GET", &format!("{BASE}/v1/%7Ex?a=1"));
        assert_eq!((status, &answer["decision"]), (Some(0), &json!("allow")), "{answer}");
        assert_eq!((&answer["host"], &answer["path"]), (&json!(HOST), &json!("/v1/~x")));
        assert_eq!(answer["forwarded"]["url"], format!("https://{HOST}/v1/~x?a=1"));
        let (status, answer) = explain("GET", &format!("{BASE}/v2"));
        assert_eq!((status, &answer["type"]), (Some(1), &json!("endpoint_denied")), "{answer}");
        let (status, answer) = explain("GET", "http://169.254.169.254/latest/meta-data");
        assert_eq!((status, &answer["type"]), (Some(1), &json!("host_denied")), "{answer}");
    });
}

#[test]
fn attach_prints_the_base_urls_and_serves_them() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    Lab::test(|lab| {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
        let cgroup = std::path::Path::new(mount.split(' ').nth(1).unwrap())
            .join(format!("base-url-test-{}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        let policy = json!({ "network": { "allow": ["api.openai.com"] },
            "credentials_v2": { "openai": { "key": { "file": lab.key_file() } } } });
        let mut child = Command::new(interceptor_tests::sandbox::binary("interceptor"))
            .args(["attach", "--base-urls", "--json", "--audit"])
            .arg(lab.directory().join("attach-audit.jsonl"))
            .arg("--policy")
            .arg(lab.secret_file("attach.json", &policy.to_string()))
            .arg("--upstream-ca")
            .arg(lab.directory().join("upstream-ca.pem"))
            .arg("--resolve")
            .arg(format!("api.openai.com:443:{}", lab.origin()))
            .arg("--cgroup")
            .arg(&cgroup)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let read = BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line);
        let env = serde_json::from_str::<Value>(&line).unwrap_or_default()["env"].clone();
        let url = env["OPENAI_BASE_URL"].as_str().unwrap_or_default().to_owned();
        let script = format!(
            "echo $$ > {}/cgroup.procs; exec curl -sS -m 20 {url}/models",
            cgroup.display()
        );
        let asked = Command::new("sh").args(["-c", &script]).output();
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        let told = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let ended = child.wait().unwrap();
        std::fs::remove_dir(&cgroup).unwrap();
        assert!(read.is_ok() && told.is_ok() && ended.success(), "{ended}");
        assert_eq!(url, "http://169.254.169.254/proxy/openai/v1");
        let asked = asked.unwrap();
        let text = String::from_utf8_lossy(&asked.stdout).into_owned();
        assert!(text.contains("/v1/models"), "{text} {}", String::from_utf8_lossy(&asked.stderr));
        assert_eq!(lab.seen()[0].values("authorization"), with_bearer(lab));
        let audit =
            interceptor_tests::audit::read(&lab.directory().join("attach-audit.jsonl")).unwrap();
        let allowed: Vec<_> = audit.iter().filter(|record| record.is_request("allow")).collect();
        assert_eq!((allowed.len(), allowed[0].host.as_deref()), (1, Some("api.openai.com")));
        // The oracle compares the records of `run`. This one's record was checked above.
        lab.tunnelled("api.openai.com");
    });
}
