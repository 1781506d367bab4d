//! Policies as large as documents may be: a decision must not look at every rule (attack X6).

use std::fmt::Write as _;
use std::time::Instant;

use super::{decide, outcome, policy};

/// `n` as four characters that are valid in a host name.
fn name(mut n: usize) -> String {
    let digits = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::new();
    for _ in 0..4 {
        text.push(char::from(digits[n % digits.len()]));
        n /= digits.len();
    }
    text
}

#[test]
fn x6_a_hundred_thousand_rules_cost_a_decision_nothing_to_speak_of() {
    let mut rules = String::new();
    for n in 0..100_000 {
        let _ = write!(rules, "\"{}.t\",", name(n));
    }
    let policy = policy(&format!(r#"{{"network":{{"allow":[{rules}"last.test"]}}}}"#));
    let started = Instant::now();
    for n in 0..50_000 {
        let allowed = format!("https://{}.t/", name(n));
        assert_eq!(outcome(&decide(&policy, "GET", &allowed)), "allow", "{allowed}");
        let denied = format!("https://{}.u/", name(n));
        assert_eq!(outcome(&decide(&policy, "GET", &denied)), "host_denied", "{denied}");
    }
    // Each at 100,000 comparisons would take minutes.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn x6_thousands_of_globs_of_many_stars_come_to_an_end() {
    let globs: Vec<String> = (0..2000).map(|n| format!("\"/{}b{n}\"", "a*".repeat(40))).collect();
    let text = format!(
        r#"{{"credentials_v2":{{"c":{{"key":"real-key-of-the-test","hosts":["api.test"],
            "endpoints":[{{"methods":["GET"],"paths":[{}]}}]}}}}}}"#,
        globs.join(",")
    );
    let policy = policy(&text);
    let started = Instant::now();
    let url = format!("https://api.test/{}", "a".repeat(2000));
    assert_eq!(outcome(&decide(&policy, "GET", &url)), "endpoint_denied");
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}
