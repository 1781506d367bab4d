//! The commands that answer questions about policies, run as users run them: the real binary, its
//! output and exit status.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod desk;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use desk::Desk;

const POLICY: &str = r#"{
  "network": { "deny": ["0.0.0.0/0"], "allow": ["api.openai.com", "*.example.com:443", "9.9.9.9", "xn--bcher-kva.test"] },
  "credentials_v2": {
    "openai": { "key": "sk-CANARY", "endpoints": [ { "methods": ["POST"], "paths": ["/v1/chat/completions"] },
                                                   { "methods": ["GET"],  "paths": ["/v1/models"] } ] },
    "asked":  { "key": { "env": "INTERCEPTOR_TEST_KEY" }, "hosts": ["asked.example.com"], "inject": { "query": "key" } },
    "other":  { "key": { "file": "/nonexistent/key" }, "hosts": ["asked.example.com"] }
  }
}"#;

#[test]
fn explain_prints_the_decision_and_its_exit_status_tells_it() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY);
    // arguments, exit, decision, type, status, filter, rule, credential, host, path
    let table: Vec<(&[&str], i32, Value)> = vec![
        (
            &["GET", "https://api.openai.com/v1/models/gpt-4?x=%2e%2e"],
            0,
            json!({"decision":"allow","type":null,"status":null,"filter":"endpoint","rule":"GET /v1/models","credential":"openai","host":"api.openai.com","method":"GET","path":"/v1/models/gpt-4"}),
        ),
        (
            &["DELETE", "https://API.OpenAI.com.:443/v1/%6dodels"],
            1,
            json!({"decision":"deny","type":"endpoint_denied","status":403,"filter":"endpoint","rule":null,"credential":"openai","host":"api.openai.com","method":"DELETE","path":"/v1/models"}),
        ),
        (
            &["GET", "https://api.openai.com/v1/../models"],
            1,
            json!({"decision":"deny","type":"path_ambiguous","status":400,"filter":"request","rule":null,"credential":null,"host":"api.openai.com","method":"GET","path":"/v1/../models"}),
        ),
        (
            &["GET", "https://api.openai.com/v1/models#x"],
            1,
            json!({"decision":"deny","type":"path_ambiguous","status":400,"filter":"request","host":"api.openai.com"}),
        ),
        (
            &["GET", "https://api.openai.com\\@evil.test/"],
            1,
            json!({"decision":"deny","type":"path_ambiguous","host":"api.openai.com"}),
        ),
        (
            &["GET", "http://api.openai.com/v1/models"],
            1,
            json!({"decision":"deny","type":"plaintext_denied","status":403,"filter":"credential","credential":"openai"}),
        ),
        (
            &["GET", "https://evil.test"],
            1,
            json!({"decision":"deny","type":"host_denied","status":403,"filter":"network","rule":"0.0.0.0/0","credential":null,"host":"evil.test","path":"/"}),
        ),
        (
            &["GET", "https://docs.example.com/a/../b"],
            0,
            json!({"decision":"allow","filter":"network","rule":"*.example.com:443","credential":null,"path":"/a/../b"}),
        ),
        (
            &["CONNECT", "https://docs.example.com/"],
            1,
            json!({"type":"method_refused","status":405,"filter":"request"}),
        ),
        (
            &["GET", "https://user:word@docs.example.com/"],
            1,
            json!({"type":"request_malformed","status":400,"host":null}),
        ),
        (&["GET", "https://docs.example.com:0/"], 1, json!({"type":"request_malformed"})),
        (&["GET", "https:///x"], 1, json!({"type":"request_malformed"})),
        (&["GET", "https://0x09090909/"], 0, json!({"host":"9.9.9.9","rule":"9.9.9.9"})),
        (&["GET", "https://[::ffff:9.9.9.9]/"], 0, json!({"host":"9.9.9.9"})),
        (&["GET", "wss://b\u{fc}cher.test/socket"], 0, json!({"host":"xn--bcher-kva.test"})),
        (
            &["GET", "https://asked.example.com/x"],
            1,
            json!({"type":"credential_ambiguous","status":403,"filter":"credential"}),
        ),
        (
            &["--present", "asked", "GET", "https://asked.example.com/x"],
            0,
            json!({"credential":"asked"}),
        ),
        (
            &["--present", "openai", "GET", "https://docs.example.com/"],
            1,
            json!({"type":"credential_misuse","credential":"openai"}),
        ),
        (
            &["--present", "openai", "GET", "https://evil.test/"],
            1,
            json!({"type":"credential_misuse","credential":"openai","filter":"credential"}),
        ),
        (
            &["-H", "X-HTTP-Method-Override: DELETE", "GET", "https://api.openai.com/v1/models"],
            1,
            json!({"type":"endpoint_denied"}),
        ),
        (
            &["-H", "User-Agent: x", "GET", "https://api.openai.com/v1/models"],
            0,
            json!({"type":null}),
        ),
    ];
    for (arguments, status, expected) in table {
        let (seen, code) = desk.explain(&policy, arguments);
        assert_eq!(code, status, "{arguments:?}: {seen:#}");
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&seen[field], value, "{arguments:?} {field}: {seen:#}");
        }
        for field in
            ["decision", "type", "status", "filter", "rule", "credential", "host", "method", "path"]
        {
            assert!(seen.get(field).is_some(), "{arguments:?}: no {field}");
        }
    }
}

#[test]
fn explain_shows_the_request_as_it_would_be_forwarded_with_the_key_masked() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY);
    let (seen, _) = desk.explain(&policy, &["GET", "https://api.openai.com/v1/%6dodels?a=1"]);
    assert_eq!(seen["forwarded"]["url"], "https://api.openai.com/v1/models?a=1");
    assert_eq!(
        seen["forwarded"]["headers"],
        json!({"host":"api.openai.com","authorization":"Bearer ********"})
    );
    let (seen, _) = desk.explain(
        &policy,
        &["--present", "asked", "GET", "https://asked.example.com/x?key=mine&a=1"],
    );
    assert_eq!(seen["forwarded"]["url"], "https://asked.example.com/x?a=1&key=********");
    let human = desk.run(
        &[
            "explain",
            "--policy",
            &policy.display().to_string(),
            "PUT",
            "https://api.openai.com/v1/models",
        ],
        None,
    );
    let text = String::from_utf8(human.stdout).unwrap();
    for part in [
        "deny  PUT https://api.openai.com/v1/models",
        "endpoint_denied (403)",
        "credential  openai",
        "to permit   add \"PUT\"",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn o2_text_output_contains_no_control_characters() {
    let desk = Desk::new();
    let policy = desk.file("p.json", "{}");
    let policy = policy.display().to_string();
    let output = desk
        .run(&["explain", "--policy", &policy, "GET", "https://a.test/\u{1b}[2J\u{202e}x"], None);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{202e}') && text.contains("\\u{1b}"),
        "{text:?}"
    );
}

#[test]
fn explain_exits_2_if_it_cannot_answer() {
    let desk = Desk::new();
    let good = desk.file("good.json", "{}").display().to_string();
    let bad = desk.file("bad.json", "{\"a\":1}").display().to_string();
    for arguments in [
        vec!["explain", "--policy", &good],
        vec!["explain", "--policy", &good, "GET"],
        vec!["explain", "--policy", &good, "GET", "good.test/x"],
        vec!["explain", "--policy", &good, "GET", "ftp://good.test/x"],
        vec!["explain", "--policy", &bad, "GET", "https://good.test/x"],
        vec!["explain", "--policy", "/nonexistent.json", "GET", "https://good.test/x"],
        vec!["explain", "--policy", &good, "--present", "nobody", "GET", "https://good.test/x"],
        vec!["explain", "--policy", &good, "--audit", "/nonexistent", "--id", "x"],
        vec!["check"],
        vec!["profiles", "nobody"],
        vec!["services", "nobody"],
    ] {
        let output = desk.run(&arguments, None);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn check_reports_every_error_with_its_pointer_and_exits_1() {
    let desk = Desk::new();
    let bad = desk.file(
        "bad.json",
        r#"{"netwrok":{},"credentials_v2":{"openai":{"key":"sk-CANARY","endpoints":[{"methods":["GET"],"paths":["/a/b","c"]}]}}}"#,
    );
    let (seen, code) = desk.json(&["check", "--json", &bad.display().to_string()]);
    assert_eq!(code, 1);
    let paths: Vec<&str> = seen["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/netwrok", "/credentials_v2/openai/endpoints/0/paths/1"]);
    assert_eq!(seen["warnings"], json!([]));
    let good =
        desk.file("good.json", r#"{"credentials_v2":{"openai":{"key":"k","endpoints":[]}}}"#);
    let (seen, code) =
        desk.json(&["check", "--json", &good.display().to_string(), &bad.display().to_string()]);
    assert_eq!(code, 1);
    assert_eq!(seen["warnings"][0]["path"], "/credentials_v2/openai/endpoints");
    assert_eq!(seen["warnings"][0]["file"], good.display().to_string());
    assert_eq!(seen["errors"][0]["file"], bad.display().to_string());
    let (seen, code) = desk.json(&["check", "--json", &good.display().to_string()]);
    assert_eq!((code, &seen["errors"]), (0, &json!([])));
}

#[test]
fn check_reads_standard_input_and_shows_the_line_without_the_key() {
    let desk = Desk::new();
    let text = "{\n  \"network\": { \"allow\": [\"exa mple\"] },\n  \"credentials\": { \
                \"openai\": \"sk-CANARY\",\n    \"opnai\": \"sk-CANARY\" }\n}";
    let output = desk.run(&["check", "-"], Some(text));
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("-:2: error:") && shown.contains("at /network/allow/0"), "{shown}");
    assert!(shown.contains("-:4: error:") && shown.contains("did you mean `openai`"), "{shown}");
    assert!(shown.contains("-: 2 errors"), "{shown}");
}

#[test]
fn check_tries_the_sources_of_keys_unless_told_not_to() {
    let desk = Desk::new();
    let empty = desk.file("empty", "\n").display().to_string();
    let full = desk.file("full", "sk-CANARY\n").display().to_string();
    let long = desk.file("long", &"k".repeat(8193)).display().to_string();
    let split = desk.file("split", "sk-CANARY and more\n").display().to_string();
    let pipe = desk.path("pipe");
    nix::unistd::mkfifo(Path::new(&pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = |key: &str| format!(r#"{{"credentials_v2":{{"openai":{{"key":{key}}}}}}}"#);
    for (key, wrong) in [
        (r#"{"env":"INTERCEPTOR_TEST_KEY"}"#.to_owned(), Some("is not set")),
        (r#"{"env":"HOME"}"#.to_owned(), None),
        (r#"{"file":"/nonexistent/key"}"#.to_owned(), Some("does not exist")),
        (r#"{"file":"/"}"#.to_owned(), Some("cannot be read")),
        (format!(r#"{{"file":"{empty}"}}"#), Some("is empty")),
        (format!(r#"{{"file":"{long}"}}"#), Some("is longer than 8192 bytes")),
        (format!(r#"{{"file":"{split}"}}"#), Some("has a space")),
        (format!(r#"{{"file":"{pipe}"}}"#), Some("it is a named pipe")),
        (r#"{"file":"/dev/zero"}"#.to_owned(), Some("it is a device")),
        (format!(r#"{{"file":"{full}"}}"#), None),
    ] {
        let policy = desk.file("p.json", &text(&key)).display().to_string();
        let (seen, code) = desk.json(&["check", "--json", &policy]);
        match wrong {
            Some(says) => {
                assert_eq!(
                    (code, &seen["errors"][0]["path"]),
                    (1, &json!("/credentials_v2/openai/key")),
                    "{key}"
                );
                assert!(
                    seen["errors"][0]["message"].as_str().unwrap().contains(says),
                    "{key}: {seen}"
                );
            }
            None => assert_eq!((code, &seen["errors"]), (0, &json!([])), "{key}"),
        }
        let (_, code) = desk.json(&["check", "--json", "--skip-keys", &policy]);
        assert_eq!(code, 0, "{key}");
    }
}

fn record(id: &str, rest: Value) -> String {
    let mut record = json!({"ts":"2026-01-01T00:00:00.000000Z","sandbox":"s","id":id,"kind":"request","decision":"allow","port":443,"protocol":"h1"});
    record.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    format!("{record}\n")
}

#[test]
fn explain_takes_a_request_from_an_audit_record() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY);
    let audit = [
        record("a1", json!({"host":"api.openai.com","method":"GET","path":"/v1/models"})),
        "this line was cut {\"id\":\"a2\n".to_owned(),
        record("a2", json!({"host":"api.openai.com","method":"PUT","path":"/v1/models","decision":"deny","type":"endpoint_denied"})),
        record("a3", json!({"host":"asked.example.com","method":"GET","path":"/x","credential":"other"})),
        record("a4", json!({"host":"api.openai.com","method":"GET","path":"/x","port":80,"decision":"deny","type":"plaintext_denied"})),
        record("a5", json!({"kind":"connection","host":"docs.example.com","protocol":"tcp"})),
        record("a6", json!({"kind":"lifecycle"})),
    ]
    .concat();
    let audit = desk.file("audit.jsonl", &audit).display().to_string();
    for (id, code, kind) in [
        ("a1", 0, Value::Null),
        ("a2", 1, json!("endpoint_denied")),
        ("a3", 0, Value::Null),
        ("a4", 1, json!("plaintext_denied")),
        ("a5", 1, json!("protocol_denied")),
    ] {
        let (seen, status) = desk.explain(&policy, &["--audit", &audit, "--id", id]);
        assert_eq!((status, &seen["type"]), (code, &kind), "{id}: {seen:#}");
    }
    let policy = policy.display().to_string();
    for id in ["a6", "unknown"] {
        let output =
            desk.run(&["explain", "--policy", &policy, "--audit", &audit, "--id", id], None);
        assert_eq!(output.status.code(), Some(2), "{id}");
    }
}

#[test]
fn replay_reports_what_a_new_policy_would_change() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY).display().to_string();
    let same = [
        record("b1", json!({"host":"api.openai.com","method":"GET","path":"/v1/models"})),
        record("b2", json!({"host":"evil.test","method":"GET","path":"/","decision":"deny","type":"host_denied"})),
        record("b3", json!({"host":"docs.example.com","method":"GET","path":"/","decision":"deny","type":"upstream_timeout"})),
        record("b4", json!({"host":"docs.example.com","method":"GET","path":"/","decision":"deny","type":"limit_exceeded"})),
        record("b5", json!({"kind":"dns","host":"evil.test","decision":"deny","type":"host_denied"})),
        record("b6", json!({"kind":"connection","host":"docs.example.com","protocol":"tls"})),
    ]
    .concat();
    let audit = desk.file("same.jsonl", &same).display().to_string();
    let (seen, code) = desk.json(&["replay", "--json", "--policy", &policy, "--audit", &audit]);
    assert_eq!(
        (code, &seen["newly_denied"], &seen["newly_allowed"]),
        (0, &json!([]), &json!([])),
        "{seen:#}"
    );
    assert_eq!((&seen["judged"], &seen["skipped"]), (&json!(4), &json!(1)));
    let changed = [
        same.as_str(),
        &record("b7", json!({"host":"gone.test","method":"GET","path":"/a"})),
        &record("b8", json!({"host":"gone.test","method":"GET","path":"/a"})),
        &record("b9", json!({"host":"docs.example.com","method":"GET","path":"/b","decision":"deny","type":"host_denied"})),
        "not json\n",
    ]
    .concat();
    let audit = desk.file("changed.jsonl", &changed).display().to_string();
    let (seen, code) = desk.json(&["replay", "--json", "--policy", &policy, "--audit", &audit]);
    assert_eq!(code, 1);
    let denied = &seen["newly_denied"][0];
    assert_eq!(
        (&denied["host"], &denied["records"], &denied["type"]),
        (&json!("gone.test"), &json!(2), &json!("host_denied"))
    );
    assert_eq!(seen["newly_allowed"][0]["host"], "docs.example.com");
    assert_eq!(seen["skipped"], 2);
    assert_eq!(seen["skipped_for"], json!({"limit_exceeded": 1, "unreadable": 1}));
    let human = desk.run(&["replay", "--policy", &policy, "--audit", &audit], None);
    let text = String::from_utf8(human.stdout).unwrap();
    assert!(
        text.contains("newly denied  GET gone.test:443/a  (2 recorded)")
            && text.contains("1 newly denied, 1 newly allowed"),
        "{text}"
    );
}

#[test]
fn replay_skips_records_without_a_request_and_its_totals_add_up() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY).display().to_string();
    let governed = |more: Value| {
        let mut fields =
            json!({"host":"api.openai.com","method":"GET","path":"/v1/models","decision":"deny"});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    let audit = [
        record("c1", json!({"host":"api.openai.com","method":"GET","path":"/v1/models"})),
        record("c2", json!({"host":"evil.test","method":"GET","path":"/","decision":"deny","type":"host_denied"})),
        // An upgrade, a method override, a key that could not be set, an ambiguous query.
        record("c3", governed(json!({"type":"protocol_denied","filter":"credential","protocol":"h1"}))),
        record("c4", governed(json!({"type":"endpoint_denied","filter":"endpoint","rule":"GET /v1/models"}))),
        record("c5", governed(json!({"type":"endpoint_denied","filter":"credential"}))),
        record("c6", governed(json!({"type":"path_ambiguous","filter":"request"}))),
        record("c7", governed(json!({"type":"request_malformed","filter":"request"}))),
        // Two names on one connection, and a placeholder in the SNI.
        record("c8", json!({"kind":"connection","host":"docs.example.com","protocol":"tls","decision":"deny","type":"no_request"})),
        record("c9", json!({"kind":"connection","host":"docs.example.com","protocol":"tls","decision":"deny","type":"credential_misuse"})),
        record("d1", json!({"kind":"connection","host":"docs.example.com","protocol":"tcp","decision":"deny","type":"protocol_denied"})),
        record("d2", json!({"kind":"dns","host":"evil.test","decision":"deny","type":"host_denied"})),
        "{\"kind\":\"lifecycle\",\"type\":\"started\"}\n".to_owned(),
    ]
    .concat();
    let audit = desk.file("same.jsonl", &audit).display().to_string();
    let (seen, code) = desk.json(&["replay", "--json", "--policy", &policy, "--audit", &audit]);
    assert_eq!((code, &seen["newly_allowed"]), (0, &json!([])), "{seen:#}");
    assert_eq!(
        (&seen["records"], &seen["judged"], &seen["other_kinds"]),
        (&json!(12), &json!(3), &json!(2))
    );
    let human = desk.run(&["replay", "--policy", &policy, "--audit", &audit], None);
    assert_eq!(
        String::from_utf8(human.stdout).unwrap(),
        "12 records: 3 judged, 7 skipped (1 credential_misuse, 2 endpoint_denied, 1 no_request, 1 \
         path_ambiguous, 1 protocol_denied, 1 request_malformed), 2 of other kinds: 0 newly \
         denied, 0 newly allowed\n"
    );
}

#[test]
fn profiles_and_services_list_the_catalogues() {
    let desk = Desk::new();
    let directory = desk.path("profiles.d");
    desk.file(
        "profiles.d/ours.json",
        r#"{"ours":{"description":"Ours.","allow":["a.example.com"],"groups":["registries"]}}"#,
    );
    std::fs::write(desk.path("home/.npmrc"), "registry=https://packages.example.com/\n").unwrap();
    let (seen, code) = desk.json(&["profiles", "--json", "--profiles-dir", &directory]);
    assert_eq!(code, 0);
    let names: Vec<&str> =
        seen.as_array().unwrap().iter().map(|profile| profile["name"].as_str().unwrap()).collect();
    for name in
        ["unrestricted", "locked-down", "claude-code", "openai", "data-science", "web-dev", "ours"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let (seen, _) = desk.json(&["profiles", "ours", "--json", "--profiles-dir", &directory]);
    let allow: Vec<&str> =
        seen[0]["allow"].as_array().unwrap().iter().map(|rule| rule.as_str().unwrap()).collect();
    assert!(
        allow.contains(&"a.example.com") && allow.contains(&"packages.example.com"),
        "{allow:?}"
    );
    let human = desk.run(&["profiles", "ours", "--profiles-dir", &directory], None);
    assert!(
        String::from_utf8(human.stdout)
            .unwrap()
            .contains("allow  packages.example.com  (group registries)")
    );
    let (seen, _) = desk.json(&["services", "--json"]);
    assert_eq!(seen.as_array().unwrap().len(), 20);
    let (seen, _) = desk.json(&["services", "github", "--json"]);
    assert_eq!(seen[0]["env"], json!(["GITHUB_TOKEN", "GH_TOKEN"]));
    // A policy may name a profile of profiles.d.
    let policy = desk.file("p.json", r#"{"network_profile":"ours"}"#);
    let (seen, code) = desk
        .explain(&policy, &["--profiles-dir", &directory, "GET", "https://packages.example.com/x"]);
    assert_eq!(code, 0, "{seen:#}");
}

#[test]
fn r1_explain_refuses_the_targets_that_the_proxy_refuses() {
    let desk = Desk::new();
    let policy = desk.file("p.json", r#"{"network":{"allow":["good.test"]}}"#);
    for target in ["/a<b", "/a>b", "/a`b", "/a?b=\"", "/a?<", "/a?x>", "/a?x y", "/a?x#y", "?x y"] {
        let (seen, code) = desk.explain(&policy, &["GET", &format!("https://good.test{target}")]);
        assert_eq!(
            (code, &seen["type"], &seen["status"], &seen["filter"]),
            (1, &json!("path_ambiguous"), &json!(400), &json!("request")),
            "{target}"
        );
    }
    for target in ["", "/", "?x=1", "/a\"b", "/a?x=%22", "/a'b?x='|{}"] {
        let (seen, code) = desk.explain(&policy, &["GET", &format!("https://good.test{target}")]);
        assert_eq!((code, &seen["decision"]), (0, &json!("allow")), "{target}");
    }
}

#[test]
fn check_never_waits_and_rejects_documents_that_are_too_deep_or_too_large() {
    let desk = Desk::new();
    let pipe = desk.path("pipe");
    nix::unistd::mkfifo(Path::new(&pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let deep =
        desk.file("deep.json", &format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)));
    let huge = desk.path("huge.json");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let deep = deep.display().to_string();
    let files = [&pipe, "/dev/zero", "/dev", &deep, &huge];
    let says =
        ["named pipe", "a device", "Is a directory", "nests deeper", "more than 1048576 bytes"];
    let output = desk.run(&[&["check"][..], &files].concat(), None);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    for (file, says) in files.iter().zip(says) {
        let mut lines = shown.lines().filter(|line| line.starts_with(&format!("{file}: error")));
        assert!(lines.next().is_some_and(|line| line.contains(says)), "{file}: {shown}");
    }
    // A shell's process substitution is read, and so is a pipe on standard input.
    for policy in ["-", "/dev/stdin", "/dev/fd/0"] {
        assert_eq!(desk.run(&["check", policy], Some("{}")).status.code(), Some(0), "{policy}");
    }
}

#[test]
fn check_continues_after_an_unreadable_file() {
    let desk = Desk::new();
    let latin = desk.path("latin.json");
    std::fs::write(&latin, b"{\"image\": \"caf\xe9\"}").unwrap();
    let bad = desk.file("bad.json", "{\"a\":1}").display().to_string();
    let bom = desk.file("bom.json", "\u{feff}{}").display().to_string();
    let (seen, code) = desk.json(&["check", "--json", "/nonexistent.json", &latin, &bad, &bom]);
    let errors = seen["errors"].as_array().unwrap();
    let says = ["cannot read the file", "not UTF-8", "", "byte order mark"];
    assert_eq!((code, errors.len()), (1, says.len()), "{seen}");
    for ((error, file), says) in
        errors.iter().zip(["/nonexistent.json", &latin, &bad, &bom]).zip(says)
    {
        assert_eq!(error["file"], file);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    assert_eq!((&errors[0]["path"], &errors[2]["path"]), (&json!(""), &json!("/a")));
    assert_eq!(desk.run(&["check", "/nonexistent.json"], None).status.code(), Some(1));
}

#[test]
fn output_that_cannot_be_written_causes_no_panic() {
    let desk = Desk::new();
    let bad = desk.file("bad.json", "{\"a\":1}").display().to_string();
    let run = |arguments: &[&str], stdout: Stdio, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.spawn().unwrap().wait_with_output().unwrap()
    };
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let unread = || Stdio::from(std::io::pipe().unwrap().1);
    for arguments in
        [&["doctor"][..], &["doctor", "--json"], &["services", "--json"], &["check", &bad]]
    {
        let output = run(arguments, full(), Stdio::piped());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("interceptor: ") && !said.contains("panicked"), "{said}");
        assert_eq!(run(arguments, full(), full()).status.code(), Some(2), "{arguments:?}");
    }
    // The exit status still tells the verdict if nobody reads the output.
    for (arguments, status) in
        [(&["services", "--json"][..], 0), (&["profiles"], 0), (&["check", &bad], 1)]
    {
        let output = run(arguments, unread(), Stdio::piped());
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
    let output = run(&["doctor", "--json"], unread(), Stdio::piped());
    assert!(matches!(output.status.code(), Some(0 | 1)) && output.stderr.is_empty());
}

#[test]
fn every_command_has_completions_and_a_manual_page() {
    let desk = Desk::new();
    let made = desk.path("made");
    assert!(desk.run(&["generate", "--to", &made], None).status.success());
    let page = |name: &str| std::fs::read_to_string(format!("{made}/man/{name}.1"));
    for name in [
        "interceptor",
        "interceptor-run",
        "interceptor-audit-verify",
        "interceptor-ctl-sandboxes-create",
    ] {
        assert!(
            page(name).unwrap_or_else(|error| panic!("{name}: {error}")).contains(".SH SYNOPSIS"),
            "{name}"
        );
    }
    // Internal commands have no manual page.
    assert!(page("interceptor-init").is_err() && page("interceptor-generate").is_err());
    assert!(page("interceptor-audit-verify").unwrap().contains("\\-\\-expect\\-end"));
    for (shell, file) in
        [("bash", "interceptor.bash"), ("zsh", "_interceptor"), ("fish", "interceptor.fish")]
    {
        let output = desk.run(&["completions", shell], None);
        let written = std::fs::read(format!("{made}/completions/{file}")).unwrap();
        assert!(output.status.success() && output.stdout == written, "{shell}");
        assert!(String::from_utf8_lossy(&written).contains("expect-end"), "{shell}");
    }
    let parsed =
        Command::new("bash").arg("-n").arg(format!("{made}/completions/interceptor.bash")).status();
    assert!(parsed.unwrap().success());
}

#[test]
fn a_missing_daemon_is_reported_with_the_remedy() {
    let desk = Desk::new();
    let missing = desk.path("control.sock");
    for arguments in [
        &["ctl", "--control", &missing, "sandboxes"][..],
        &["ctl", "health", "--control", &missing],
        &["audit", "tail", "--sandbox", "web", "--control", &missing],
        &["audit", "stats", "--sandbox", "web", "--control", &missing],
    ] {
        let output = desk.run(arguments, None);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(&missing) && error.contains("interceptor serve"), "{error}");
    }
    // A socket without a listener.
    drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
    let output = desk.run(&["ctl", "--control", &missing, "health"], None);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exited"), "{output:?}");
    // A missing or invalid policy fails before the daemon is asked.
    let output = desk.run(&["ctl", "policy", "put", "web", "/nonexistent/p.json"], None);
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/p.json"), "{output:?}");
}

#[test]
fn audit_files_of_every_kind_are_read_safely() {
    let desk = Desk::new();
    let line = |path: &str, decision: &str| {
        format!(
            r#"{{"ts":"2026-01-31T12:00:00.000000Z","sandbox":"s1","id":"x","kind":"request","decision":"{decision}","host":"h.test","method":"GET","path":"{path}"}}"#
        ) + "\n"
    };
    let text = line("/a", "deny")
        + &line("/b", "allow")
        + "garbage \u{1b}[2J\n\n[1]\n"
        + &line("/c\\u001b[2J", "deny");
    let file = desk.file("audit.jsonl", &text);
    let file = file.to_str().unwrap();
    let out = |arguments: &[&str]| {
        let output = desk.run(arguments, None);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let tail = out(&["audit", "tail", file, "--no-follow"]);
    assert_eq!(tail.lines().count(), 5, "{tail}");
    assert!(
        tail.contains("? a line of 12 bytes that is not an audit record")
            && !tail.contains('\u{1b}'),
        "{tail}"
    );
    assert!(tail.contains("deny  request    s1 GET h.test/c\\u{1b}[2J"), "{tail}");
    assert_eq!(out(&["audit", "tail", file, "--no-follow", "-n", "1"]).lines().count(), 1);
    let denied = out(&["audit", "tail", file, "--no-follow", "--json", "--decision", "deny"]);
    assert_eq!(denied, line("/a", "deny") + &line("/c\\u001b[2J", "deny"));
    assert_eq!(out(&["audit", "tail", file, "--no-follow", "--json", "--since", "1h"]), "");
    let stats: Value =
        serde_json::from_str(&out(&["audit", "stats", file, file, "--json"])).unwrap();
    assert_eq!((&stats["records"], &stats["unreadable_lines"]), (&json!(6), &json!(4)));
    assert_eq!(stats["rows"].as_array().unwrap().len(), 3);
    let table = out(&["audit", "stats", file, "--host", "*.test", "--top", "1"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    // A reader that leaves early, and a missing file.
    let output = desk.run(&["audit", "tail", &desk.path("none")], None);
    assert_eq!(output.status.code(), Some(2));
    let key = desk.file("key", &"k".repeat(32));
    let output = desk.run(&["audit", "verify", "--key", key.to_str().unwrap(), file], None);
    assert_eq!(output.status.code(), Some(2), "a key that everybody can read: {output:?}");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let output = desk.run(&["audit", "verify", "--key", key.to_str().unwrap(), file], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(":1: broken: line 1 carries no MAC"),
        "{output:?}"
    );
}
