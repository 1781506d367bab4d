//! The text of a policy: no panic, nothing but JSON with comments is valid, no message contains a
//! key, and there is a policy exactly if there is no error.
#![no_main]

use interceptor_policy::{Catalogue, KeySource, check, strict_json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let report = check(text, &Catalogue::builtin());
    assert_eq!(report.policy.is_some(), report.errors.is_empty());
    if report.errors.is_empty() {
        let json = strict_json(text).expect("its comments end");
        assert!(serde_json::from_str::<serde::de::IgnoredAny>(&json).is_ok());
    }
    for (source, _) in report.policy.iter().flat_map(|policy| policy.sources()) {
        let KeySource::Literal(key) = source else { continue };
        // A shorter key may happen to be a word of a message.
        if key.expose().len() >= 16 {
            for problem in report.warnings.iter() {
                assert!(!problem.message.contains(key.expose()));
            }
        }
    }
});
