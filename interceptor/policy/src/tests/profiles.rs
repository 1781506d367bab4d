//! Profiles, and the hint at the nearest rule.

use super::super::{Catalogue, Decision, Document, Policy};
use super::network::{judge, network};
use super::{host, policy};

#[test]
fn profiles_decide_like_networks() {
    let decide = |name: &str, destination: &str| {
        let policy = policy(&format!(r#"{{"network_profile":"{name}"}}"#));
        judge(&policy, destination)
    };
    assert_eq!(decide("unrestricted", "anything.test"), "allow");
    assert_eq!(decide("unrestricted", "169.254.169.254"), "host_denied");
    assert_eq!(decide("locked-down", "anything.test"), "host_denied");
    assert_eq!(decide("locked-down", "1.1.1.1"), "host_denied");
    assert_eq!(decide("openai", "api.openai.com"), "allow");
    assert_eq!(decide("openai", "api.anthropic.com"), "host_denied");
    assert_eq!(decide("claude-code", "api.anthropic.com"), "allow");
    assert_eq!(decide("data-science", "huggingface.co"), "allow");
    assert_eq!(decide("web-dev", "github.com"), "allow");
    assert_eq!(judge(&policy("{}"), "anything.test"), "allow");
    assert_eq!(judge(&policy("{}"), "10.0.0.1"), "host_denied");
    assert_eq!(judge(&policy(r#"{"network":{}}"#), "anything.test"), "allow");
}

#[test]
fn profiles_and_network_are_joined_every_allow_and_every_deny_of_either() {
    let judged = |text: &str, destinations: [&str; 3]| {
        let policy = policy(text);
        destinations.map(|destination| judge(&policy, destination))
    };
    let hosts = ["api.openai.com", "api.anthropic.com", "own.test"];
    for (text, expected) in [
        (r#"{"network_profile":["openai","claude-code"]}"#, ["allow", "allow", "host_denied"]),
        (
            r#"{"network_profile":"openai","network":{"allow":["own.test"]}}"#,
            ["allow", "host_denied", "allow"],
        ),
        (
            r#"{"network_profile":["openai","claude-code"],"network":{"deny":["api.openai.com"]}}"#,
            ["host_denied", "allow", "host_denied"],
        ),
        (
            r#"{"network_profile":"locked-down","network":{"allow":["own.test"]}}"#,
            ["host_denied", "host_denied", "allow"],
        ),
        // It has no rules of its own: what the other lists say holds.
        (
            r#"{"network_profile":["unrestricted","openai"]}"#,
            ["allow", "host_denied", "host_denied"],
        ),
        (r#"{"network_profile":"unrestricted","network":{}}"#, ["allow", "allow", "allow"]),
    ] {
        assert_eq!(judged(text, hosts), expected, "{text}");
    }
    let policy = policy(r#"{"network_profile":["openai","claude-code"]}"#);
    let Decision::Allow(allow) = policy.decide_host(&host("api.anthropic.com"), 443) else {
        panic!("it is refused")
    };
    assert_eq!(allow.rule.unwrap().pointer, "/network_profile/1");
}

#[test]
fn a_profile_includes_its_groups_and_refuses_the_rest_even_when_they_are_empty() {
    let mut catalogue = Catalogue::builtin();
    catalogue.add_profiles(r#"{"mine":{"description":"d","groups":["registries"]}}"#).unwrap();
    let document = Document::parse(r#"{"network_profile":"mine"}"#).unwrap().document;
    let empty = Policy::compile(&document, &catalogue).unwrap();
    assert_eq!(judge(&empty, "packages.test"), "host_denied");
    catalogue.set_group("registries", vec!["packages.test".to_owned()]);
    catalogue.add_profiles(r#"{"registries":{"description":"d","allow":["more.test"]}}"#).unwrap();
    let filled = Policy::compile(&document, &catalogue).unwrap();
    assert_eq!(judge(&filled, "packages.test"), "allow");
    assert_eq!(judge(&filled, "more.test"), "allow");
    assert_eq!(judge(&filled, "other.test"), "host_denied");
}

#[test]
fn a_refused_host_gets_the_nearest_rule_and_the_edit() {
    let policy = network(&["api.good.test:443", "*.deep.test", "login.test"], &["*"]);
    let table = [
        ("api.good.test", 80, "api.good.test:443", "port"),
        ("deep.test", 443, "*.deep.test", "host"),
        ("loginn.test", 443, "login.test", "host"),
    ];
    for (name, port, rule, failed) in table {
        let Decision::Deny(deny) = policy.decide_host(&host(name), port) else {
            panic!("{name} is permitted")
        };
        let near = deny.nearest.unwrap();
        assert_eq!((near.rule.text.as_str(), near.failed), (rule, failed), "{name}");
        assert!(
            deny.message.contains(&near.edit) && deny.message.contains("network policy"),
            "{}",
            deny.message
        );
    }
    let Decision::Deny(deny) = policy.decide_host(&host("unrelated.org"), 443) else { panic!() };
    assert_eq!(deny.nearest, None);
    assert!(deny.message.contains("add \"unrelated.org\" to /network/allow"), "{}", deny.message);
    assert_eq!(deny.rule.unwrap().text, "*");
}
