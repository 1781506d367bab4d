//! Documents built to exhaust the reader. Each is refused for the right reason, in time and memory
//! that are a small multiple of its size.

use super::super::{Catalogue, MAX_BYTES, MAX_DEPTH, check};

fn errors(text: &str) -> Vec<String> {
    let report = check(text, &Catalogue::builtin());
    assert!(report.policy.is_none(), "{}", &text[..text.len().min(80)]);
    report.errors.into_iter().map(|problem| problem.message).collect()
}

#[test]
fn p3_what_nests_too_deep_is_refused_for_that() {
    let deep = 100_000;
    for text in [
        format!("{}1{}", r#"{"a":"#.repeat(deep), "}".repeat(deep)),
        format!("{}{}", "[".repeat(deep), "]".repeat(deep)),
        format!(
            r#"{{"network":{{"allow":[{}{}]}}}}"#,
            r#"{"a":["#.repeat(deep / 2),
            "]}".repeat(deep / 2)
        ),
        format!("{}{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1)),
    ] {
        let errors = errors(&text);
        assert!(errors.len() == 1 && errors[0].contains("nests deeper"), "{errors:?}");
    }
    // Brackets in a string are text.
    let text = format!(r#"{{"image":"{}"}}"#, "[".repeat(deep));
    assert!(check(&text, &Catalogue::builtin()).policy.is_some());
}

#[test]
fn p3_of_very_many_errors_the_first_are_told_and_that_there_are_more() {
    let many = vec!["1"; 400_000].join(",");
    let fields: String = (0..50_000).map(|n| format!(r#""f{n}":1,"#)).collect();
    let duplicates = vec![r#""image":"x""#; 80_000].join(",");
    for text in [
        format!(r#"{{"network":{{"allow":[{many}]}}}}"#),
        format!(
            r#"{{"credentials_v2":{{"{}":{{"key":"kkkk","hosts":[{many}]}}}}}}"#,
            "n".repeat(128)
        ),
        format!(r#"{{{fields}"image":"x"}}"#),
        format!("{{{duplicates}}}"),
    ] {
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        let errors = errors(&text);
        assert_eq!(errors.len(), 1001);
        assert!(errors[1000].contains("only the first 1000"), "{}", errors[1000]);
    }
}

#[test]
fn p3_a_name_that_every_place_below_it_would_repeat_is_refused() {
    let (name, many) = ("n".repeat(300_000), vec!["1"; 200_000].join(","));
    for text in [
        format!(r#"{{"{name}":[{many}]}}"#),
        format!(r#"{{"credentials_v2":{{"{name}":{{"key":"kkkk","hosts":[{many}]}}}}}}"#),
    ] {
        let errors = errors(&text);
        assert!(errors[0].contains("more than 128 bytes"), "{}", errors[0]);
        assert!(errors.iter().all(|error| error.len() < 1000));
    }
}
