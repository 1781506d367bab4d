//! The commands that read the records of past runs, run as users run them.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A home whose state directory holds the records of runs.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Home {
        Home { directory: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Keeps a run; the number says in which order they were.
    fn keep(&self, number: u32, records: &[Value], policy: &Value) {
        let stem = format!("20260131T1200{number:02}.000000Z-s{number}");
        let records: String = records.iter().map(|record| format!("{record}\n")).collect();
        let state = ".local/state/interceptor";
        self.file(&format!("{state}/runs/{stem}.jsonl"), &records);
        let kept = json!({ "name": "policy.json", "document": policy });
        self.file(&format!("{state}/run-policies/{stem}.json"), &kept.to_string());
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
        command.args(arguments).env_clear().env("HOME", self.directory.path());
        command.current_dir(self.directory.path()).output().unwrap()
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn request(id: &str, decision: &str, method: &str, path: &str) -> Value {
    let mut record = json!({
        "ts": "2026-01-31T12:00:00.000000Z", "sandbox": "s1", "id": id, "kind": "request",
        "decision": decision, "host": "api.test", "port": 443, "protocol": "h2",
        "method": method, "path": path,
    });
    if decision == "deny" {
        record["type"] = "endpoint_denied".into();
        record["filter"] = "endpoint".into();
    }
    record["credential"] = "own".into();
    record
}

fn policy(methods: &[&str]) -> Value {
    json!({
        "network": { "allow": ["api.test"], "deny": ["*"] },
        "credentials_v2": { "own": {
            "key": { "env": "OWN_KEY" }, "hosts": ["api.test"],
            "endpoints": [{ "methods": methods, "paths": ["/v1/models"] }],
        } },
    })
}

#[test]
fn the_last_run_is_shown_without_a_path() {
    let home = Home::new();
    home.keep(1, &[request("older", "allow", "GET", "/v1/models")], &policy(&["GET"]));
    let records = [
        request("one", "allow", "GET", "/v1/models"),
        request("two", "deny", "POST", "/v1/models"),
    ];
    home.keep(2, &records, &policy(&["GET"]));
    let shown = home.run(&["audit", "last"]);
    assert_eq!((shown.status.code(), out(&shown).lines().count()), (Some(0), 2), "{}", err(&shown));
    assert!(out(&shown).contains("id=one") && out(&shown).contains("id=two"), "{}", out(&shown));
    let json = out(&home.run(&["audit", "last", "--json", "--decision", "deny"]));
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), records[1]);
    assert!(out(&home.run(&["audit", "last", "-n", "1"])).contains("id=two"));
}

#[test]
fn the_last_run_is_replayed_and_explained_without_a_path() {
    let home = Home::new();
    let records = [
        request("one", "allow", "GET", "/v1/models"),
        request("two", "deny", "POST", "/v1/models"),
    ];
    home.keep(1, &records, &policy(&["GET"]));
    let same = home.file("same.json", &policy(&["GET"]).to_string());
    let wider = home.file("wider.json", &policy(&["GET", "POST"]).to_string());
    let replayed = home.run(&["replay", "--policy", same.to_str().unwrap(), "--last"]);
    assert_eq!(replayed.status.code(), Some(0), "{}{}", out(&replayed), err(&replayed));
    let replayed = home.run(&["replay", "--policy", wider.to_str().unwrap(), "--last"]);
    assert_eq!(replayed.status.code(), Some(1));
    assert!(out(&replayed).contains("newly allowed  POST api.test:443/v1/models"));

    // By the policy that the run had, or by another.
    let explained = home.run(&["explain", "--last", "two"]);
    assert_eq!(explained.status.code(), Some(1), "{}", err(&explained));
    assert!(out(&explained).contains("to permit   add \"POST\""), "{}", out(&explained));
    let by = ["explain", "--policy", wider.to_str().unwrap(), "--last", "two", "--json"];
    let explained = home.run(&by);
    assert_eq!(explained.status.code(), Some(0), "{}", err(&explained));
    let unknown = home.run(&["explain", "--last", "three"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(err(&unknown).contains("no record with this id"), "{}", err(&unknown));
}

#[test]
fn without_a_run_the_commands_say_what_keeps_one() {
    let home = Home::new();
    let policy = home.file("policy.json", "{}");
    let replay = ["replay", "--policy", policy.to_str().unwrap(), "--last"];
    for command in [&["audit", "last"][..], &["explain", "--last", "x"], &replay] {
        let output = home.run(command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(err(&output).contains("no run is kept"), "{}", err(&output));
    }
}
