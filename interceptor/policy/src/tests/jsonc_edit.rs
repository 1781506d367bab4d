//! Edits written into a policy's file.

use serde_json::{Value, json};

use super::super::{EditError, Patch, edited, strict_json};

fn add(text: &str, path: &str, value: Value) -> Result<String, EditError> {
    let patch = json!([{ "op": "add", "path": path, "value": value }]);
    edited(text, &Patch::from_value(patch).unwrap()).map(|text| text.to_string())
}

#[test]
fn comments_order_and_layout_stay() {
    for (text, path, expected) in [
        (r#"{"a": []}"#, "/a/-", r#"{"a": ["n"]}"#),
        (r#"{"a": ["x"]}"#, "/a/-", r#"{"a": ["x", "n"]}"#),
        (r#"{"a": ["x",]}"#, "/a/-", r#"{"a": ["x", "n"]}"#),
        (r#"{"a": ["x" /* , why */]}"#, "/a/-", r#"{"a": ["x", "n" /* , why */]}"#),
        (r#"{"a": ["x"]}"#, "/a/0", r#"{"a": ["n", "x"]}"#),
        (r#"{"b": 1}"#, "/a", r#"{"b": 1, "a": "n"}"#),
        ("{}", "/a", r#"{"a": "n"}"#),
        (
            "{\n  // hosts\n  \"a\": [\n    \"x\", // the first\n    \"y\"  // the second\n  ]\n}",
            "/a/-",
            "{\n  // hosts\n  \"a\": [\n    \"x\", // the first\n    \"y\",  // the second\n    \
             \"n\"\n  ]\n}",
        ),
        (
            "{\n  \"a\": [\n    \"x\", // last, for now\n  ],\n}",
            "/a/-",
            "{\n  \"a\": [\n    \"x\", // last, for now\n    \"n\",\n  ],\n}",
        ),
        (
            "{\n  \"a\": [\n    \"x\"\n  ]\n}",
            "/a/0",
            "{\n  \"a\": [\n    \"n\",\n    \"x\"\n  ]\n}",
        ),
        (
            "{\n  \"b\\\"c\": {\n    \"x\": 1\n  } // b\n}\n",
            "/a",
            "{\n  \"b\\\"c\": {\n    \"x\": 1\n  }, // b\n  \"a\": \"n\"\n}\n",
        ),
    ] {
        assert_eq!(add(text, path, json!("n")).unwrap(), expected, "{text}");
    }
}

#[test]
fn what_is_no_addition_is_left_to_a_person() {
    let patch = |operations: Value| Patch::from_value(operations).unwrap();
    let text = r#"{"a": ["x"], "b": 1}"#;
    for operations in [
        json!([{ "op": "remove", "path": "/a/0" }]),
        json!([{ "op": "replace", "path": "/b", "value": 2 }]),
        json!([{ "op": "add", "path": "/b", "value": 2 }]),
        json!([{ "op": "add", "path": "", "value": {} }]),
    ] {
        assert_eq!(edited(text, &patch(operations)).unwrap_err(), EditError::ByHand);
    }
    assert!(matches!(add(text, "/c/-", json!(1)), Err(EditError::Patch(_))));
    assert!(matches!(add("{", "/a", json!(1)), Err(EditError::NotJson(_))));
}

#[test]
fn hostile_values_stay_values() {
    let hostile = json!("a\"], // \n \u{1b}[2J */ \u{2028}");
    let text = add("{\"a\": [ /* x */ ]}", "/a/-", hostile.clone()).unwrap();
    let strict = strict_json(&text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&strict).unwrap(), json!({ "a": [hostile] }));
}
