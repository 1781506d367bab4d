//! Policies in pages and examples.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::pages::{blocks, pages};
use super::root;

/// Whether a document is a policy, judging by its fields.
fn is_policy(document: &Value) -> bool {
    ["network", "network_profile", "credentials", "credentials_v2", "limits"]
        .iter()
        .any(|field| document.get(field).is_some())
}

/// Checks a policy with the product.
#[track_caller]
fn check(policy: &str, place: &str) {
    let mut check = Command::new(env!("CARGO_BIN_EXE_interceptor"));
    check.args(["check", "--skip-keys", "-"]);
    check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(policy.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{place}: {said}");
}

#[test]
fn every_json_block_parses_and_every_policy_among_them_is_free_of_errors() {
    let mut policies = 0;
    for (path, text) in pages() {
        for block in blocks(&path, &text) {
            let json = match block.language.as_str() {
                "json" => block.text.as_str(),
                // A policy that the reader is told to write to a file.
                "sh" => match block.text.split_once("<<'POLICY'\n") {
                    Some((_, rest)) => rest.split_once("\nPOLICY\n").unwrap().0,
                    None => continue,
                },
                _ => continue,
            };
            let document: Value = serde_json::from_str(json)
                .unwrap_or_else(|error| panic!("{}: {error}", block.place));
            if is_policy(&document) {
                check(json, &block.place);
                policies += 1;
            }
        }
    }
    assert!(policies >= 4, "{policies} policies were found");
}

#[test]
fn the_policies_among_the_examples_are_free_of_errors() {
    let mut checked = 0;
    for directory in ["policies", "podman", "systemd"] {
        for entry in fs::read_dir(root().join("examples").join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            if is_policy(&serde_json::from_str(&text).unwrap()) {
                check(&text, &path.display().to_string());
                checked += 1;
            }
        }
    }
    assert!(checked >= 5, "{checked} examples were checked");
}

/// The names of all properties of a schema.
fn properties(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Object(own)) = fields.get("properties") {
                into.extend(own.keys().cloned());
            }
            fields.values().for_each(|value| properties(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| properties(value, into)),
        _ => {}
    }
}

#[test]
fn the_policy_page_has_every_field_of_the_schema() {
    let page = fs::read_to_string(root().join("docs/policy.md")).unwrap();
    let schema = root().join("interceptor/policy/data/policy.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    let mut names = BTreeSet::new();
    properties(&schema, &mut names);
    assert!(names.contains("audit_backlog") && names.contains("allow_plaintext"), "{names:?}");
    for name in names {
        let named =
            [format!("`{name}`"), format!("\"{name}\"")].iter().any(|name| page.contains(name));
        assert!(named, "docs/policy.md does not name {name}");
    }
}
