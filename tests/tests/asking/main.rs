//! Requests that wait for a person, the leases that answers give, and the API and commands by which
//! people answer.

mod commands;
mod leases;
mod runs;
mod webhook;

use std::process::{Child, Output};

use interceptor_tests::client::fetch::{Answer, Plan};
use interceptor_tests::daemon::{Daemon, Guest, until};
use interceptor_tests::lab::Lab;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const NEW: &str = "new.example.test";

/// `HOST` is governed and permits `GET /v1/models`; everything else is asked about.
fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/models"] }]));
    policy["network"]["deny"] = json!(["*", "denied.example.test"]);
    policy["ask"] = json!({});
    // The reach oracle: a person permits these.
    lab.permits(&json!({ "network": { "allow": [NEW] } }).to_string());
    policy
}

fn daemon(lab: &Lab) -> Daemon<'_> {
    lab.unordered();
    lab.daemon().at_origin(HOST).at_origin(NEW).quiet_log().start()
}

/// Starts curl, which prints the body and then the status.
fn curl(guest: &Guest<'_>, arguments: &[&str]) -> Child {
    guest
        .command("curl")
        .args(["-sS", "--max-time", "120", "-w", "\n%{http_code}"])
        .args(arguments)
        .spawn()
        .expect("curl")
}

/// The body and the status that curl printed.
#[track_caller]
fn answer(child: Child) -> (String, String) {
    let Output { stdout, stderr, .. } = child.wait_with_output().expect("curl");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let (body, status) =
        text.rsplit_once('\n').unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&stderr)));
    (body.to_owned(), status.to_owned())
}

#[track_caller]
fn get(guest: &Guest<'_>, url: &str) -> (String, String) {
    answer(curl(guest, &[url]))
}

/// The questions, once there are so many.
#[track_caller]
fn questions(daemon: &Daemon<'_>, count: usize) -> Vec<Value> {
    let list = || daemon.call("GET", "/v1/approvals", "").json().as_array().cloned().unwrap();
    let waits = |list: &[Value]| {
        list.iter().filter_map(|one| one["waiting"].as_u64()).sum::<u64>() == count as u64
    };
    assert!(until(|| waits(&list())), "{:?}", list());
    list()
}

#[track_caller]
fn decide(daemon: &Daemon<'_>, question: &Value, body: &Value) -> Value {
    let path = format!("/v1/approvals/{}", question["id"].as_str().unwrap());
    let answered = daemon.call("POST", &path, &body.to_string());
    assert_eq!(answered.status, 200, "{answered:?}");
    answered.json()
}

fn allow() -> Value {
    json!({ "decision": "allow" })
}

/// The types of the records of kind `approval`, each with who decided.
fn approvals(daemon: &Daemon<'_>) -> Vec<(String, Option<String>)> {
    let records = daemon.records().into_iter().filter(|record| record.kind == "approval");
    records.map(|record| (record.reason.unwrap(), record.by)).collect()
}

#[test]
fn a_request_waits_with_nothing_sent_and_goes_on_when_it_is_approved() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let own = format!("https://{HOST}");
        let held = vec![
            curl(&guest, &["--http1.1", &format!("https://{NEW}/one")]),
            curl(&guest, &["--http2", "-d", "a body", &format!("{own}/v1/jobs?q=1")]),
            curl(&guest, &["--http1.1", "-d", "a body", &format!("{own}/v1/other")]),
            curl(&guest, &[&format!("http://{NEW}/plain")]),
            curl(&guest, &["http://169.254.169.254/proxy/lab/v1/based/12345"]),
        ];
        let asked = questions(&daemon, held.len());
        assert_eq!(lab.seen().len(), 0, "something was sent");
        let based = asked.iter().find(|one| one["path"] == "/v1/based/12345").unwrap();
        assert_eq!(
            [&based["host"], &based["port"], &based["type"], &based["sandbox"]],
            [&json!(HOST), &json!(443), &json!("endpoint_denied"), &json!(guest.id)]
        );
        let pointer = "/credentials_v2/lab/endpoints/0/paths/-";
        let add = |path: &str| json!([{ "op": "add", "path": pointer, "value": path }]);
        assert_eq!(
            based["patches"],
            json!([
                { "patch": add("/v1/based/12345"), "wider": false },
                { "patch": add("/v1/based/*"), "wider": true },
            ])
        );
        let leases: Vec<Value> = asked.iter().map(|one| decide(&daemon, one, &allow())).collect();
        assert!(leases.iter().all(|one| one["lease"]["uses"] == 0 && one["decision"] == "allow"));
        for child in held {
            let (body, status) = answer(child);
            assert_eq!(status, "200", "{body}");
        }
        assert_eq!(lab.seen().len(), 5);
        let bodies = lab.seen().into_iter().filter(|seen| seen.body_bytes == Some(6));
        assert_eq!(bodies.count(), 2, "a body was lost");
        let governed = lab.seen().into_iter().filter(|seen| seen.line().contains(HOST));
        for seen in governed {
            assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
        }
        // A record names the lease, and the approvals have theirs.
        assert!(until(|| daemon.records().iter().filter(|one| one.lease.is_some()).count() == 10));
        let by = Some(format!("uid:{}", nix::unistd::geteuid()));
        let recorded = approvals(&daemon);
        assert_eq!(recorded.iter().filter(|one| **one == ("asked".to_owned(), None)).count(), 5);
        assert_eq!(recorded.iter().filter(|(_, who)| *who == by).count(), 5);
        // The policy that is shown has nothing of it.
        let shown = daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json();
        assert_eq!(shown["policy"]["network"]["allow"], json!([HOST]));
        daemon.finish();
    });
}

#[test]
fn a_refusal_by_a_person_is_told_and_nobody_decides_twice() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let url = format!("https://{NEW}/x");
        let held = [curl(&guest, &["--http1.1", &url]), curl(&guest, &["--http2", &url])];
        let asked = questions(&daemon, 2);
        assert_eq!(asked.len(), 1, "identical questions are one: {asked:?}");
        decide(&daemon, &asked[0], &json!({ "decision": "deny" }));
        for child in held {
            let (body, status) = answer(child);
            assert_eq!(status, "403", "{body}");
            let error: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(error["error"]["type"], "approval_refused");
            let message = error["error"]["message"].as_str().unwrap();
            assert!(message.contains("a person was asked, and refused"), "{message}");
        }
        let path = format!("/v1/approvals/{}", asked[0]["id"].as_str().unwrap());
        for body in [allow(), json!({ "decision": "deny" })] {
            let again = daemon.call("POST", &path, &body.to_string());
            assert_eq!(again.problem(409)["title"], "It is decided already");
        }
        daemon.call("POST", "/v1/approvals/none", &allow().to_string()).problem(404);
        for wrong in ["{}", "[]", r#"{"decision":"maybe"}"#, r#"{"decision":"allow","x":1}"#] {
            daemon.call("POST", &path, wrong).problem(400);
        }
        // What is never asked is refused as usual.
        lab.permits(r#"{"network":{"allow":[]}}"#);
        for (url, kind) in [
            ("https://denied.example.test/", "host_denied"),
            ("https://10.1.2.3/", "host_denied"),
            (&format!("http://{HOST}/v1/models"), "plaintext_denied"),
            (&format!("https://{HOST}/v1/%2e%2e/x"), "path_ambiguous"),
        ] {
            let (body, _) = answer(curl(&guest, &["--path-as-is", "-k", url]));
            assert!(body.contains(&format!("\"type\":\"{kind}\"")), "{url}: {body}");
        }
        assert_eq!(lab.seen().len(), 0);
        daemon.finish();
    });
}

#[test]
fn time_runs_out_and_only_so_many_wait() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let mut policy = policy(lab);
        policy["ask"]["timeout_seconds"] = json!(4);
        // Both are shorter than the wait.
        policy["limits"] = json!({ "idle_timeout_seconds": 1, "header_timeout_seconds": 1 });
        let guest = daemon.guest(&policy);
        let mut plan = Plan::https(NEW, "h2");
        for _ in 0..65 {
            plan = plan.ask("GET", "/x");
        }
        let answers = &guest.fetch(&plan)[0].answers;
        let of = |status: u16, kind: &str| {
            answers.iter().filter(|one| one.status == status && one.body.contains(kind)).count()
        };
        assert_eq!((of(403, "approval_timeout"), of(429, "limit_exceeded")), (64, 1));
        let full = answers.iter().find(|one| one.status == 429).unwrap();
        assert!(full.body.contains("(`ask`)"), "{}", full.body);
        let (body, status) = answer(curl(&guest, &["--http1.1", &format!("https://{NEW}/y")]));
        assert_eq!((status.as_str(), body.contains("approval_timeout")), ("403", true), "{body}");
        assert!(until(|| approvals(&daemon).len() == 4));
        let kinds: Vec<String> = approvals(&daemon).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["asked", "expired", "asked", "expired"]);
        questions(&daemon, 0);
        daemon.finish();
    });
}

#[test]
fn a_request_whose_turn_to_ask_does_not_come_is_refused_in_its_time() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let mut policy = policy(lab);
        policy["ask"]["timeout_seconds"] = json!(1);
        // What takes its time is to lay a proposal over a long policy.
        let hosts: Vec<String> =
            (0..4000).map(|number| format!("h{number}.example.test")).collect();
        policy["network"]["allow"]
            .as_array_mut()
            .unwrap()
            .extend(hosts.into_iter().map(Value::from));
        let guest = daemon.guest(&policy);
        let mut plan = Plan::https(NEW, "h2");
        for (first, second) in ('a'..='h').flat_map(|one| ('a'..='h').map(move |two| (one, two))) {
            plan = plan.ask("GET", &format!("/{first}{second}"));
        }
        let answers = &guest.fetch(&plan)[0].answers;
        let late = |one: &&Answer| one.status == 403 && one.body.contains("approval_timeout");
        assert_eq!(answers.iter().filter(late).count(), 64);
        let unheard = answers.iter().filter(|one| one.body.contains("not this request's turn"));
        assert_ne!(unheard.count(), 0);
        questions(&daemon, 0);
        daemon.finish();
    });
}

#[test]
fn a_client_that_gives_up_withdraws_its_question() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let url = format!("https://{NEW}/x");
        let (plain, big) = (format!("http://{NEW}/x"), "a".repeat(30_000));
        let file = lab.work().join("big");
        std::fs::write(&file, big).unwrap();
        let big = format!("@{}", file.display());
        for arguments in [
            vec!["--http1.1", &url],
            vec!["--http1.1", "-d", "a body", &url],
            vec!["--http1.1", "-H", "expect:", "--data-binary", &big, &url],
            vec!["--http2", "-d", "a body", &url],
            vec!["-d", "a body", &plain],
        ] {
            let mut child = curl(&guest, &arguments);
            questions(&daemon, 1);
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(questions(&daemon, 0).is_empty(), "{arguments:?}");
        }
        assert_eq!(lab.seen().len(), 0);
        let denied = || {
            let records = daemon.records().into_iter().filter(|one| one.kind == "request");
            records.filter(|one| one.reason.as_deref() == Some("host_denied")).count()
        };
        assert!(until(|| denied() == 5), "each is recorded as it stood");
        daemon.finish();
    });
}

#[test]
fn a_policy_that_changes_meanwhile_answers_what_it_permits_or_denies() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let policy = policy(lab);
        let guest = daemon.guest(&policy);
        let held = curl(&guest, &[&format!("https://{NEW}/x")]);
        let before = questions(&daemon, 1);
        // It still asks: the question is asked anew, of the policy that now holds.
        let mut other = policy.clone();
        other["network"]["allow"] = json!([HOST, "third.example.test"]);
        assert_eq!(daemon.replace(&guest, &other, false).status, 200);
        let another = || {
            let now = daemon.call("GET", "/v1/approvals", "").json();
            now[0]["id"].is_string() && now[0]["id"] != before[0]["id"]
        };
        assert!(until(another));
        other["network"]["allow"] = json!([HOST, NEW]);
        assert_eq!(daemon.replace(&guest, &other, false).status, 200);
        assert_eq!(answer(held).1, "200");
        questions(&daemon, 0);

        assert_eq!(daemon.replace(&guest, &policy, false).status, 200);
        let held = curl(&guest, &[&format!("https://{NEW}/y")]);
        questions(&daemon, 1);
        other["network"] = json!({ "allow": [HOST], "deny": [NEW, "*"] });
        assert_eq!(daemon.replace(&guest, &other, false).status, 200);
        let (body, status) = answer(held);
        assert_eq!((status.as_str(), body.contains("\"host_denied\"")), ("403", true), "{body}");
        daemon.finish();
    });
}

#[test]
fn events_tell_what_happens_to_each_question() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let first = curl(&guest, &[&format!("https://{NEW}/a")]);
        questions(&daemon, 1);
        let events = daemon.follow("/v1/approvals/events");
        let names = || -> Vec<String> {
            let text = events.text();
            let lines = text.lines().filter_map(|line| line.strip_prefix("event: "));
            lines.map(str::to_owned).collect()
        };
        assert!(until(|| names() == ["asked"]), "what waits comes first: {:?}", names());
        let second = curl(&guest, &[&format!("https://{NEW}/a")]);
        let asked = questions(&daemon, 2);
        assert!(until(|| names() == ["asked", "changed"]));
        decide(&daemon, &asked[0], &allow());
        assert_eq!((answer(first).1, answer(second).1), ("200".to_owned(), "200".to_owned()));
        let mut third = curl(&guest, &[&format!("https://{NEW}/b")]);
        questions(&daemon, 1);
        third.kill().unwrap();
        third.wait().unwrap();
        let all = ["asked", "changed", "approved", "asked", "withdrawn"];
        assert!(until(|| names() == all), "{:?}", names());
        drop(events);
        daemon.finish();
    });
}

#[test]
fn websockets_and_git_wait_too() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let script = r#"
import os, socket, ssl, sys
host = sys.argv[1]
context = ssl.create_default_context()
with context.wrap_socket(socket.create_connection((host, 443)), server_hostname=host) as stream:
    head = [f'GET /ws HTTP/1.1', f'host: {host}', 'connection: upgrade', 'upgrade: websocket',
        'sec-websocket-version: 13', 'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==', '', '']
    stream.sendall('\r\n'.join(head).encode())
    print(stream.recv(1000).split(b'\r\n')[0].decode())
"#;
        let mut command = guest.command("/usr/bin/python3");
        let child = command.args(["-c", script, HOST]).spawn().unwrap();
        let asked = questions(&daemon, 1);
        assert_eq!(lab.seen().len(), 0);
        decide(&daemon, &asked[0], &allow());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "HTTP/1.1 101 Switching Protocols", "{output:?}");

        let mut git = guest.command("git");
        let url = format!("https://{NEW}/o/r.git");
        let child = git.env("GIT_TERMINAL_PROMPT", "0").args(["ls-remote", &url]).spawn().unwrap();
        let asked = questions(&daemon, 1);
        decide(&daemon, &asked[0], &json!({ "decision": "deny" }));
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("a person was asked, and refused"), "{said}");
        daemon.finish();
    });
}
