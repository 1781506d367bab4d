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
