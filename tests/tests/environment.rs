//! Which variables of the caller's environment enter a sandbox.

use std::collections::BTreeMap;

use interceptor_tests::{Lab, Outcome};
use serde_json::json;

const HOST: &str = "api.example.test";

fn variables(outcome: &Outcome) -> BTreeMap<String, String> {
    let out = outcome.success().out();
    let pairs = out.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn c11_secrets_that_the_policy_does_not_name_stay_outside_and_are_named_once() {
    Lab::test_on_both_roads(|lab| {
        let other = lab.another_key();
        let sandbox = || {
            let sandbox = lab.sandbox(&lab.governed(HOST, json!([]))).bare().quiet_log();
            let sandbox = sandbox.env("GH_TOKEN", &other).env("DEPLOY_PASSWORD", &other);
            // The credential's own variable, and one whose name only suggests a secret.
            sandbox.env("LAB_API_KEY", &other).env("MAX_OUTPUT_TOKENS", "100")
        };
        let outcome = sandbox().shell("env");
        let seen = variables(&outcome);
        assert!(
            !seen.contains_key("GH_TOKEN") && !seen.contains_key("DEPLOY_PASSWORD"),
            "{seen:?}"
        );
        assert!(seen["LAB_API_KEY"].contains("proxy-managed"), "{seen:?}");
        assert_eq!(seen["MAX_OUTPUT_TOKENS"], "100");
        let lines: Vec<String> = outcome
            .err()
            .lines()
            .filter(|line| line.contains("GH_TOKEN"))
            .map(str::to_owned)
            .collect();
        let [line] = lines.as_slice() else { panic!("{}", outcome.err()) };
        assert!(line.contains("DEPLOY_PASSWORD, GH_TOKEN") && line.contains("--env"), "{line}");
        assert!(!line.contains("LAB_API_KEY"), "{line}");
        assert!(!outcome.err().contains(&other), "{}", outcome.err());

        let quiet = sandbox().option("-q").shell("env");
        assert!(!variables(&quiet).contains_key("GH_TOKEN"));
        assert_eq!(quiet.err(), "");
    });
}

#[test]
fn c11_a_variable_is_passed_or_set_by_name_but_never_a_key_of_the_policy() {
    Lab::test_on_both_roads(|lab| {
        let sandbox = lab.sandbox(&lab.governed(HOST, json!([]))).bare().quiet_log();
        let sandbox = sandbox.env("GH_TOKEN", "own").env("COPY_TOKEN", lab.key());
        let given = ["GH_TOKEN", "COPY_TOKEN", "DEPLOY_TOKEN=set=here", "LAB_API_KEY=own"];
        let sandbox =
            given.iter().fold(sandbox, |sandbox, given| sandbox.option("--env").option(*given));
        let outcome = sandbox.shell("env");
        let seen = variables(&outcome);
        assert_eq!((seen["GH_TOKEN"].as_str(), seen["DEPLOY_TOKEN"].as_str()), ("own", "set=here"));
        assert!(!seen.contains_key("COPY_TOKEN"), "{seen:?}");
        assert!(seen["LAB_API_KEY"].contains("proxy-managed"), "{seen:?}");
        let line = "not passed in: COPY_TOKEN (with a real key of the policy)\n";
        assert!(outcome.err().contains(line), "{}", outcome.err());
        assert!(!outcome.err().contains(lab.key()), "{}", outcome.err());
    });
}
