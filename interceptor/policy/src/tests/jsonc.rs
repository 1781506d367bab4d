//! Comments and trailing commas.

use proptest::prelude::*;
use serde_json::Value;

use super::super::{Catalogue, check, check_besides, strict_json};

#[test]
fn comments_and_trailing_commas_become_spaces_and_nothing_else_changes() {
    for (text, expected) in [
        ("{} // end", "{}       "),
        ("// é\n{}", "     \n{}"),
        ("/* a\nb */{}", "    \n    {}"),
        ("[1,2,]", "[1,2 ]"),
        ("[1, /* c */ ]", "[1          ]"),
        ("{\"a\":[true,],\n}", "{\"a\":[true ] \n}"),
        ("[\"// no\",\"/* no */\",\"\\\"// no\"]", "[\"// no\",\"/* no */\",\"\\\"// no\"]"),
        ("[\"a,]\",]", "[\"a,]\" ]"),
        ("[1]//a\r[2]", "[1]   \r[2]"),
        ("/**/1/***/", "    1     "),
    ] {
        assert_eq!(strict_json(text).unwrap().as_str(), expected, "{text:?}");
    }
}

#[test]
fn what_is_wrong_without_them_stays_wrong() {
    for text in [
        "[,]",
        "{,}",
        "[1,,]",
        "[,1]",
        "{\"a\":,}",
        ",",
        "[1],",
        "/ /",
        "[1]/",
        "# no\n{}",
        "[1 2]",
    ] {
        let json = strict_json(text).unwrap();
        assert!(serde_json::from_str::<Value>(&json).is_err(), "{text:?} became {:?}", *json);
    }
    for (text, line) in [("/*", 1), ("{}\n\n/* *", 3), ("/*/", 1)] {
        let problem = strict_json(text).unwrap_err();
        assert_eq!(problem.line, Some(line), "{text:?}");
        assert_eq!(check(text, &Catalogue::builtin()).errors, [problem], "{text:?}");
    }
}

#[test]
fn errors_keep_their_lines_and_the_strict_reader_takes_no_comment() {
    let text =
        "// what it may do\n{\n  /* two\n  lines */ \"network\": {\n    \"alow\": [],\n  },\n}";
    let report = check(text, &Catalogue::builtin());
    let places: Vec<_> =
        report.errors.iter().map(|error| (error.pointer.as_str(), error.line)).collect();
    assert_eq!(places, [("/network/alow", Some(5))]);
    for text in ["{} // c", "{\"network\":{},}", "/* c */{}"] {
        assert!(check(text, &Catalogue::builtin()).errors.is_empty(), "{text}");
        assert_eq!(check_besides(text, &[], &Catalogue::builtin()).errors.len(), 1, "{text}");
    }
}

/// A document, and the same with comments and trailing commas.
fn written(value: &Value, comments: &mut impl FnMut() -> String) -> String {
    let (open, close, items): (_, _, Vec<String>) = match value {
        Value::Array(items) => {
            ("[", "]", items.iter().map(|item| written(item, comments)).collect())
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let name = Value::from(name.as_str());
                format!("{name}{}:{}", comments(), written(value, comments))
            };
            ("{", "}", fields.iter().map(field).collect())
        }
        scalar => return format!("{}{scalar}{}", comments(), comments()),
    };
    let comma = if items.is_empty() { "" } else { "," };
    format!("{open}{}{comma}{}{close}", items.join(","), comments())
}

fn document() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        r#"[a-z"\\/*, {}\[\]é]{0,8}"#.prop_map(Value::from),
    ];
    scalar.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((r#"[a-z"/*,]{0,4}"#, inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_commented_document_means_what_the_plain_one_means(
        value in document(),
        comments in prop::collection::vec(
            r#"( |\n|//[a-z"*/{,é]{0,6}\n|/\*[a-z"/{,é\n]{0,6}\*/){0,3}"#, 1..8),
    ) {
        let mut next = comments.iter().cycle();
        let text = written(&value, &mut || next.next().cloned().unwrap_or_default());
        let json = strict_json(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
        prop_assert_eq!(json.len(), text.len());
        prop_assert_eq!(json.lines().count(), text.lines().count());
    }

    #[test]
    fn plain_json_is_left_as_it_is(value in document()) {
        let text = format!("{value:#}");
        let json = strict_json(&text).unwrap();
        prop_assert_eq!(json.as_str(), text.as_str());
    }

    #[test]
    fn any_text_keeps_its_length_and_its_lines(text in r#"[\[\]{}",:/*\\ \n\r0é]{0,40}"#) {
        if let Ok(json) = strict_json(&text) {
            prop_assert_eq!(json.len(), text.len());
            let kept = |text: &str| {
                text.match_indices(['\n', '\r']).map(|(at, _)| at).collect::<Vec<_>>()
            };
            prop_assert_eq!(kept(&json), kept(&text));
            // A second pass finds nothing that the first one left.
            let again = strict_json(&json).unwrap();
            if serde_json::from_str::<Value>(&json).is_ok() {
                prop_assert_eq!(again.as_str(), json.as_str());
            }
        }
    }
}
