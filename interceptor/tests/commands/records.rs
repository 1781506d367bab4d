//! Commands that read audit files.

use serde_json::{Value, json};

use super::{Desk, POLICY};

/// A record of a request, but for these fields.
fn record(id: &str, rest: Value) -> String {
    let record = json!({
        "ts": "2026-01-01T00:00:00.000000Z", "sandbox": "s", "id": id,
        "kind": "request", "decision": "allow", "port": 443, "protocol": "h1",
    });
    format!("{}\n", with(record, rest))
}

/// An object with the fields of another.
fn with(mut object: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("an object") };
    object.as_object_mut().unwrap().extend(more);
    object
}

/// A record of a request such as `GET host/path`.
fn request(id: &str, line: &str, rest: Value) -> String {
    let (method, url) = line.split_once(' ').unwrap();
    let (host, path) = url.split_at(url.find('/').unwrap());
    record(id, with(json!({"host":host,"method":method,"path":path}), rest))
}

/// What a record says of a refusal.
fn denied(kind: &str) -> Value {
    json!({"decision":"deny","type":kind})
}

/// A record of a connection that was refused.
fn connection(id: &str, protocol: &str, kind: &str) -> String {
    let made = json!({"kind":"connection","host":"docs.example.com","protocol":protocol});
    record(id, with(made, denied(kind)))
}

#[test]
fn explain_takes_a_request_from_an_audit_record() {
    let desk = Desk::new();
    let policy = desk.file("p.json", POLICY);
    let audit = [
        request("a1", "GET api.openai.com/v1/models", json!({})),
        "this line was cut {\"id\":\"a2\n".to_owned(),
        request("a2", "PUT api.openai.com/v1/models", denied("endpoint_denied")),
        request("a3", "GET asked.example.com/x", json!({"credential":"other"})),
        request("a4", "GET api.openai.com/x", with(json!({"port":80}), denied("plaintext_denied"))),
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
        request("b1", "GET api.openai.com/v1/models", json!({})),
        request("b2", "GET evil.test/", denied("host_denied")),
        request("b3", "GET docs.example.com/", denied("upstream_timeout")),
        request("b4", "GET docs.example.com/", denied("limit_exceeded")),
        record("b5", with(json!({"kind":"dns","host":"evil.test"}), denied("host_denied"))),
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
        &request("b7", "GET gone.test/a", json!({})),
        &request("b8", "GET gone.test/a", json!({})),
        &request("b9", "GET docs.example.com/b", denied("host_denied")),
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
    let governed = |id: &str, kind: &str, more: Value| {
        request(id, "GET api.openai.com/v1/models", with(denied(kind), more))
    };
    let audit = [
        request("c1", "GET api.openai.com/v1/models", json!({})),
        request("c2", "GET evil.test/", denied("host_denied")),
        // An upgrade, a method override, a key that could not be set, an ambiguous query.
        governed("c3", "protocol_denied", json!({"filter":"credential","protocol":"h1"})),
        governed("c4", "endpoint_denied", json!({"filter":"endpoint","rule":"GET /v1/models"})),
        governed("c5", "endpoint_denied", json!({"filter":"credential"})),
        governed("c6", "path_ambiguous", json!({"filter":"request"})),
        governed("c7", "request_malformed", json!({"filter":"request"})),
        // Two names on one connection, and a placeholder in the SNI.
        connection("c8", "tls", "no_request"),
        connection("c9", "tls", "credential_misuse"),
        connection("d1", "tcp", "protocol_denied"),
        record("d2", with(json!({"kind":"dns","host":"evil.test"}), denied("host_denied"))),
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
fn audit_files_of_every_kind_are_read_safely() {
    let desk = Desk::new();
    let line = |path: &str, decision: &str| {
        let head = r#""ts":"2026-01-31T12:00:00.000000Z","sandbox":"s1","id":"x""#;
        let asked = format!(r#""host":"h.test","method":"GET","path":"{path}""#);
        format!(r#"{{{head},"kind":"request","decision":"{decision}",{asked}}}"#) + "\n"
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
