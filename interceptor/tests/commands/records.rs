//! Commands that read audit files.

use serde_json::{Value, json};

use super::{Desk, POLICY};

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
