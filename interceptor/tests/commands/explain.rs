//! `interceptor explain` and `interceptor replay`.

use serde_json::{Value, json};

use super::{Desk, POLICY};

#[test]
fn explain_prints_the_decision_and_its_exit_status_tells_it() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY);
    // arguments, exit, decision, type, status, filter, rule, credential, host, path
    let table: Vec<(&[&str], i32, Value)> = vec![
        (
            &["GET", "https://api.openai.com/v1/models/gpt-4?x=%2e%2e"],
            0,
            json!({
                "decision": "allow", "type": null, "status": null, "filter": "endpoint",
                "rule": "GET /v1/models", "credential": "openai",
                "host": "api.openai.com", "method": "GET", "path": "/v1/models/gpt-4",
            }),
        ),
        (
            &["DELETE", "https://API.OpenAI.com.:443/v1/%6dodels"],
            1,
            json!({
                "decision": "deny", "type": "endpoint_denied", "status": 403, "filter": "endpoint",
                "rule": null, "credential": "openai",
                "host": "api.openai.com", "method": "DELETE", "path": "/v1/models",
            }),
        ),
        (
            &["GET", "https://api.openai.com/v1/../models"],
            1,
            json!({
                "decision": "deny", "type": "path_ambiguous", "status": 400, "filter": "request",
                "rule": null, "credential": null,
                "host": "api.openai.com", "method": "GET", "path": "/v1/../models",
            }),
        ),
        (
            &["GET", "https://api.openai.com/v1/models#x"],
            1,
            json!({
                "decision": "deny", "type": "path_ambiguous", "status": 400, "filter": "request",
                "host": "api.openai.com",
            }),
        ),
        (
            &["GET", "https://api.openai.com\\@evil.test/"],
            1,
            json!({"decision":"deny","type":"path_ambiguous","host":"api.openai.com"}),
        ),
        (
            &["GET", "http://api.openai.com/v1/models"],
            1,
            json!({
                "decision": "deny", "type": "plaintext_denied", "status": 403,
                "filter": "credential", "credential": "openai",
            }),
        ),
        (
            &["GET", "https://evil.test"],
            1,
            json!({
                "decision": "deny", "type": "host_denied", "status": 403, "filter": "network",
                "rule": "0.0.0.0/0", "credential": null, "host": "evil.test", "path": "/",
            }),
        ),
        (
            &["GET", "https://docs.example.com/a/../b"],
            0,
            json!({
                "decision": "allow", "filter": "network", "rule": "*.example.com:443",
                "credential": null, "path": "/a/../b",
            }),
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
