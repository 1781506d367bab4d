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
        assert!(err(&output).contains("no records of a run are kept"), "{}", err(&output));
    }
}

#[test]
fn why_explains_the_last_refusal_in_full() {
    let home = Home::new();
    let mut look_up = request("five", "deny", "", "");
    look_up["kind"] = "dns".into();
    let mut limit = request("three", "deny", "GET", "/v1/models");
    limit["type"] = "limit_exceeded".into();
    let records = [
        request("one", "allow", "GET", "/v1/models"),
        limit,
        request("two", "deny", "POST", "/v1/models"),
        request("four", "allow", "GET", "/v1/models"),
        look_up,
    ];
    home.keep(1, &records, &policy(&["GET"]));
    let shown = home.run(&["why"]);
    assert_eq!(shown.status.code(), Some(0), "{}", err(&shown));
    let shown = out(&shown);
    for expected in [
        "refused  POST api.test/v1/models\n",
        "  id          two\n",
        "  type        endpoint_denied (filter: endpoint)\n",
        "  credential  own\n",
        "  policy      policy.json\n",
        "  because     POST /v1/models was refused by the endpoint rules of the\n",
        "  to permit   add \"POST\" to /credentials_v2/own/endpoints/0/methods\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let json: Value = serde_json::from_str(&out(&home.run(&["why", "two", "--json"]))).unwrap();
    assert_eq!(json["edit"], "add \"POST\" to /credentials_v2/own/endpoints/0/methods");

    // A refusal that no rule permits, of the last run that has it.
    home.keep(2, &[request("six", "allow", "GET", "/v1/models")], &policy(&["GET"]));
    let shown = out(&home.run(&["why", "three"]));
    assert!(shown.contains("a limit of the sandbox was reached"), "{shown}");
    assert!(shown.contains("to do       raise the limit"), "{shown}");
    let clean = out(&home.run(&["why"]));
    assert!(clean.contains("Nothing was refused in the last run, and 1 request was"), "{clean}");
    let unknown = home.run(&["why", "seven"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(err(&unknown).contains("none of the 2 runs"), "{}", err(&unknown));
}

#[test]
fn o2_why_steers_no_terminal() {
    let home = Home::new();
    let hostile = "/\u{1b}[2J\nfake\u{202e}\u{9b}31m";
    let mut record = request("one", "deny", hostile, hostile);
    record["host"] = hostile.into();
    record["rule"] = hostile.into();
    home.keep(1, &[record], &policy(&["GET"]));
    for command in [&["why"][..], &["why", "--json"]] {
        let shown = out(&home.run(command));
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!shown.chars().any(steers), "{shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("fake")), "{shown}");
    }
}

#[test]
fn a_policy_is_learnt_from_the_last_run_and_replay_changes_nothing() {
    let home = Home::new();
    let records = [
        request("one", "allow", "GET", "/v1/models/1234567"),
        request("two", "deny", "POST", "/v1/models"),
    ];
    let mut base = policy(&["GET"]);
    base["limits"] = json!({ "requests": 7 });
    home.keep(1, &records, &base);
    let learnt = home.run(&["learn", "last", "-o", "interceptor.jsonc"]);
    assert_eq!(learnt.status.code(), Some(0), "{}", err(&learnt));
    assert_eq!(err(&learnt), "interceptor: wrote interceptor.jsonc\n");
    let text = std::fs::read_to_string(home.directory.path().join("interceptor.jsonc")).unwrap();
    assert!(text.contains("\n        // once, 2026-01-31 12:00\n"), "{text}");
    assert!(text.contains("\"/v1/models/*\"") && text.contains("\"OWN_KEY\""), "{text}");
    let replay = home.run(&["replay", "--policy", "interceptor.jsonc", "--last"]);
    assert_eq!(replay.status.code(), Some(0), "{}{}", out(&replay), err(&replay));
    let check = home.run(&["check", "interceptor.jsonc", "--skip-keys"]);
    assert_eq!(check.status.code(), Some(0), "{}{}", out(&check), err(&check));

    // Never over a file, unless that is asked for.
    let again = home.run(&["learn", "last", "-o", "interceptor.jsonc"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(err(&again).contains("--force"), "{}", err(&again));
    let json = ["learn", "last", "-o", "interceptor.jsonc", "--force", "--json"];
    assert_eq!(home.run(&json).status.code(), Some(0));
    let text = std::fs::read_to_string(home.directory.path().join("interceptor.jsonc")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["limits"], json!({ "requests": 7 }));
    let own = &document["credentials_v2"]["own"];
    assert_eq!(own["endpoints"], json!([{ "methods": ["GET"], "paths": ["/v1/models/*"] }]));

    // From a file, with a base, and with what was refused.
    let audit: String = records.iter().map(|record| format!("{record}\n")).collect();
    home.file("audit.jsonl", &audit);
    home.file("base.json", &base.to_string());
    let wider = ["learn", "audit.jsonl", "--policy", "base.json", "--json", "--include-refused"];
    let wider: Value = serde_json::from_str(&out(&home.run(&wider))).unwrap();
    let rules = &wider["credentials_v2"]["own"]["endpoints"];
    assert_eq!(rules[1], json!({ "methods": ["POST"], "paths": ["/v1/models"] }));
}

#[test]
fn what_cannot_be_learnt_is_told() {
    let home = Home::new();
    let both = [
        request("one", "allow", "GET", "/v1/models"),
        request("two", "deny", "GET", "/v1/models"),
        json!({ "unreadable": true }),
    ];
    home.keep(1, &both, &policy(&["GET"]));
    let learnt = home.run(&["learn", "last"]);
    assert_eq!(learnt.status.code(), Some(1), "{}", err(&learnt));
    assert!(out(&learnt).contains("\"/v1/models\""), "{}", out(&learnt));
    let expected = "GET api.test:443/v1/models was refused, but the policy permits it";
    assert!(err(&learnt).contains(expected), "{}", err(&learnt));
    assert!(err(&learnt).contains("1 line skipped"), "{}", err(&learnt));
}
