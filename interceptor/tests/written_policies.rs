//! Policies as people write them: comments, schemas, profiles joined; run as users run it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod desk;

use serde_json::{Value, json};

use desk::Desk;

const COMMENTED: &str = "// what the agent may do, with sk-CANARY
{
  \"$schema\": \"policy.schema.json\",
  \"network_profile\": [\"openai\", \"locked-down\"], // and:
  \"network\": {
    \"allow\": [\"own.example.com\",], /* ours,
                                      sk-CANARY */
  },
}
";

#[test]
fn a_file_may_hold_comments_and_trailing_commas_wherever_a_policy_is_read() {
    let desk = Desk::new();
    let policy = desk.file("p.jsonc", COMMENTED);
    let (seen, code) = desk.json(&["check", "--json", &desk.path("p.jsonc")]);
    assert_eq!((code, &seen["errors"]), (0, &json!([])), "{seen:#}");
    for (host, expected) in [("own.example.com", 0), ("api.openai.com", 0), ("a.example.com", 1)] {
        let (seen, code) = desk.explain(&policy, &["GET", &format!("https://{host}/")]);
        assert_eq!(code, expected, "{host}: {seen:#}");
    }
    desk.file("audit.jsonl", "");
    let replayed = desk.run(&["replay", "--policy", "p.jsonc", "--audit", "audit.jsonl"], None);
    assert!(replayed.status.success(), "{replayed:?}");
    let piped = desk.run(&["check", "-"], Some(COMMENTED));
    assert!(piped.status.success(), "{piped:?}");
}

#[test]
fn an_error_in_a_commented_file_has_its_line_and_shows_no_comment() {
    let desk = Desk::new();
    let text = "{\n  // one\n  \"network\": { \"alow\": [] /* sk-CANARY */ },\n}\n";
    let file = desk.file("p.jsonc", text).display().to_string();
    let output = desk.run(&["check", &file], None);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("{file}:3: error: unknown field `alow`")), "{said}");
    assert!(said.contains("| \"network\": { \"alow\": []"), "{said}");
    let unended = desk.run(&["check", "-"], Some("{}\n/* and\n"));
    let said = String::from_utf8(unended.stdout).unwrap();
    assert!(said.contains("-:2: error: a comment that begins with `/*` has no end"), "{said}");
    for (text, format) in [("// ours\nnetwork:\n  allow: []\n", "YAML"), ("a = 1\n", "TOML")] {
        let output = desk.run(&["check", "-"], Some(text));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(&format!("this looks like {format}; a policy is")), "{said}");
    }
}

#[test]
fn the_schema_is_printed_and_is_the_one_of_the_document() {
    let desk = Desk::new();
    let output = desk.run(&["schema"], None);
    assert_eq!(output.status.code(), Some(0));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["properties"]["$schema"]["type"], "string");
    assert!(schema["properties"]["credentials_v2"].is_object(), "{schema:#}");
}

#[test]
fn a_misspelt_name_gets_the_nearest_one() {
    let desk = Desk::new();
    for (arguments, meant) in [
        (["profiles", "opnai"], "did you mean `openai`?"),
        (["services", "antropic"], "did you mean `anthropic`?"),
        (["chekc", "p.json"], "'check'"),
    ] {
        let output = desk.run(&arguments, None);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(meant), "{said}");
    }
}

#[test]
fn check_refuses_what_run_refuses_of_keys_and_warns_of_what_is_careless() {
    let desk = Desk::new();
    let policy = |key: &str| {
        format!(
            r#"{{ "network": {{ "allow": ["api.openai.com"] }},
                  "credentials_v2": {{ "openai": {{ "key": {key},
                  "endpoints": [{{ "methods": ["GET"], "paths": ["/v1/models/*"] }}] }} }} }}"#
        )
    };
    let found = |text: &str, kind: &str| {
        let file = desk.file("p.json", text).display().to_string();
        let (seen, code) = desk.json(&["check", "--json", &file]);
        let first = seen[kind][0].clone();
        (code, first["path"].clone(), first["message"].as_str().unwrap_or_default().to_owned())
    };
    let key = "/credentials_v2/openai/key";
    let two = desk.file("two", "sk-CANARY-one\nsk-CANARY-two\n");
    let empty = desk.file("empty", "\n");
    for file in [&two, &empty] {
        let (code, path, message) = found(&policy(&json!({ "file": file }).to_string()), "errors");
        assert_eq!((code, path), (1, json!(key)), "{message}");
    }
    let fine = desk.file("fine", "sk-CANARY-one\n");
    let mode = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&fine, mode).unwrap();
    };
    let text = policy(&json!({ "file": fine }).to_string());
    mode(0o600);
    let (code, _, message) = found(&text, "warnings");
    assert_eq!((code, message.as_str()), (0, ""));
    mode(0o644);
    let (code, path, message) = found(&text, "warnings");
    assert_eq!((code, path), (0, json!(key)), "{message}");
    assert!(message.contains("every user of this machine can read"), "{message}");
    let (_, path, message) = found(&policy("\"sk-CANARY\""), "warnings");
    assert_eq!(path, json!(key), "{message}");
    let (_, path, message) = found("{}", "warnings");
    assert!(path == json!("") && message.contains("permits everything"), "{message}");
}

#[test]
fn agents_are_listed_and_shown() {
    let desk = Desk::new();
    let (seen, _) = desk.json(&["agents", "--json"]);
    let names: Vec<&str> =
        seen.as_array().unwrap().iter().map(|agent| agent["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["claude-code", "codex", "gemini-cli", "opencode", "aider", "copilot-cli"]);
    let (seen, _) = desk.json(&["agents", "codex", "--json"]);
    assert_eq!(seen[0]["credentials"][0]["service"], "openai");
    assert_eq!(seen[0]["credentials"][0]["hosts"], json!(["api.openai.com"]));
    let shown = desk.run(&["agents", "codex"], None);
    assert!(String::from_utf8(shown.stdout).unwrap().contains("GET /v1/responses"));
    let wrong = desk.run(&["agents", "claude"], None);
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(said.contains("did you mean `claude-code`?"), "{said}");
}

#[test]
fn init_writes_what_it_finds_and_never_over_a_file() {
    let desk = Desk::new();
    std::fs::create_dir(desk.directory.path().join(".git")).unwrap();
    let remote = "[remote \"origin\"]\n\turl = git@github.com:o/r.git\n";
    desk.file(".git/config", remote);
    let keys = [("OPENAI_API_KEY", "sk-CANARY-one"), ("GH_TOKEN", "ghp_CANARY")];
    let made = desk.run_with(&keys, &["init"], None);
    let out = String::from_utf8(made.stdout).unwrap();
    assert_eq!(made.status.code(), Some(0), "{out}{}", String::from_utf8_lossy(&made.stderr));
    assert!(out.contains("wrote ") && out.contains("sudo interceptor run -- COMMAND"), "{out}");
    let text = std::fs::read_to_string(desk.path("interceptor.jsonc")).unwrap();
    for part in ["\"OPENAI_API_KEY\"", "\"GH_TOKEN\"", "\"/repos/o/r\"", "tcp://github.com:22"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(!text.contains("CANARY"), "{text}");
    let checked = desk.run_with(&keys, &["check", "interceptor.jsonc"], None);
    assert!(checked.status.success(), "{checked:?}");
    let trusted = desk.path("home/.local/state/interceptor/trusted");
    assert_eq!(std::fs::read_to_string(&trusted).unwrap().lines().count(), 1);
    for arguments in [&["init"][..], &["init", "codex"]] {
        let refused = desk.run_with(&keys, arguments, None);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && said.contains("--force"), "{said}");
    }
    let forced = desk.run_with(&keys, &["init", "--force", "codex"], None);
    assert!(forced.status.success(), "{forced:?}");
    let text = std::fs::read_to_string(desk.path("interceptor.jsonc")).unwrap();
    assert!(text.contains("OpenAI Codex CLI") && !text.contains("GH_TOKEN"), "{text}");
    desk.file("interceptor.jsonc", "{ \"netwrok\": {} }");
    let wrong = desk.run(&["trust", "interceptor.jsonc"], None);
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(1), "{said}");
    assert!(said.contains("interceptor.jsonc:1: error: unknown field `netwrok`"), "{said}");
}
