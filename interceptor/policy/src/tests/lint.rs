//! The warnings of `check` (attack R2, R5, R10, C2, C6).

use super::super::{Catalogue, check, check_besides};

/// The pointers of a document's warnings.
fn warned(text: &str) -> Vec<(String, String)> {
    let report = check_besides(text, &[], &Catalogue::builtin());
    assert_eq!(report.errors, [], "{text}");
    report.warnings.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
}

/// A document, the pointer of a warning (empty: there is none), and what it says.
type Doubt = (String, String, &'static str);

fn at(pointer: &str, document: impl Into<String>, says: &'static str) -> Doubt {
    (document.into(), pointer.to_owned(), says)
}

/// Rules of the network, separated by blanks, beside a credential.
fn network(allow: &str, deny: &str) -> String {
    let (allow, deny) = (listed(allow), listed(deny));
    let credential = r#"{"key":"k","hosts":["api.test","*.sub.test"]}"#;
    format!(
        r#"{{"network":{{"allow":{allow},"deny":{deny}}},"credentials_v2":{{"c":{credential}}}}}"#
    )
}

/// A warning about a rule of `allow`.
fn rule(allow: &str, deny: &str, index: usize, says: &'static str) -> Doubt {
    at(&format!("/network/allow/{index}"), network(allow, deny), says)
}

/// A warning about a field of a credential.
fn field(fields: &str, within: &str, says: &'static str) -> Doubt {
    let document = format!(r#"{{"credentials_v2":{{"c":{{"key":"k",{fields}}}}}}}"#);
    at(&format!("/credentials_v2/c/{within}"), document, says)
}

/// A credential with rules such as `GET,POST /a /b`; the method `*` is any.
fn endpoints(rules: &[&str]) -> String {
    let rule = |rule: &&str| {
        let (methods, paths) = rule.split_once(' ').unwrap();
        let methods = if methods == "*" { String::new() } else { methods.replace(',', " ") };
        format!(r#"{{"methods":{},"paths":{}}}"#, listed(&methods), listed(paths))
    };
    let rules = rules.iter().map(rule).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"credentials_v2":{{"c":{{"key":"k","hosts":["api.test"],"endpoints":[{rules}]}}}}}}"#
    )
}

/// A warning about such rules.
fn rules(rules: &[&str], within: &str, says: &'static str) -> Doubt {
    at(&format!("/credentials_v2/c/endpoints{within}"), endpoints(rules), says)
}

/// Words as a list of JSON.
fn listed(words: &str) -> String {
    serde_json::to_string(&words.split_whitespace().collect::<Vec<_>>()).unwrap()
}

#[test]
fn r2_doubtful_rules_are_warned_about() {
    let table = [
        at("", network("api.test *.sub.test", "*"), ""),
        rule("api.test api.test", "", 1, "adds nothing"),
        rule("*.sub.test a.sub.test", "", 1, "adds nothing: `*.sub.test`"),
        rule("a.sub.test *.sub.test", "", 0, "adds nothing"),
        rule("api.test api.test:443", "", 1, "adds nothing"),
        at("", network("*.sub.test api.test:80 api.test:443", ""), ""),
        rule("api.test 10.1.0.0/16 10.1.2.0/24", "", 2, "adds nothing: `10.1.0.0/16`"),
        rule("api.test 9.9.9.9 9.9.9.9:53", "", 2, "adds nothing"),
        rule("api.test api2.test", "api2.test", 1, "can never match: the deny rule `api2.test`"),
        rule("api.test a.sub.test", "*.sub.test", 1, "can never match: the deny rule `*.sub.test`"),
        rule("api.test 10.1.2.3", "10.0.0.0/8", 1, "can never match"),
        at("", network("api.test *.sub.test", "a.sub.test:25"), ""),
        rule("api.test *", "", 1, "every public host"),
        rule("api.test 0.0.0.0/0", "", 1, "loopback"),
        rule("api.test *.co.uk", "", 1, "public suffix"),
        rule("api.test *.github.io", "", 1, "public suffix"),
        rule("api.test *.com", "", 1, "public suffix"),
        rule("api.test nobody.test", "", 1, "no credential and no profile uses this host"),
        at("", network("api.test *.sub.test github.com", ""), ""),
        rule("api.test gist.github.com", "", 1, "relay"),
        rule("api.test x.workers.dev", "", 1, "relay"),
        rule("api.test dns.google", "", 1, "relay"),
        rule("tcp://api.test", "", 0, "means nothing for a host that a credential"),
        at("/network/deny/0", network("api.test", "tcp://bad.test"), "means nothing in `deny`"),
        at("/network/deny", network("", "bad.test"), "every public host that is not listed"),
        at("/credentials_v2/c", network("", "*"), "refuses every host of this credential"),
        at("/credentials_v2/c/hosts/1", network("api.test", ""), "can never be used there"),
        at("/network/allow", network("", ""), "an empty `allow` permits every public host"),
        rule("api.test 10.1.2.3/8", "", 1, "the rule covers the whole network"),
        rule("api.test 0x7f.1", "", 1, "canonical form"),
        at(
            "/credentials_v2/c",
            r#"{"network":{"allow":["api.test"]},
                "credentials_v2":{"c":{"key":"k","hosts":["other.test"]}}}"#,
            "refuses every host",
        ),
        at(
            "/network_profile/0",
            r#"{"network_profile":["unrestricted","openai"]}"#,
            "adds nothing",
        ),
        at(
            "/credentials/openai",
            r#"{"network_profile":"locked-down","credentials":{"openai":"k"}}"#,
            "refuses every host",
        ),
        field(r#""hosts":["api.test"],"allow_plaintext":true"#, "allow_plaintext", "in the clear"),
        field(r#""hosts":["*.co.uk"]"#, "hosts/0", "public suffix"),
        field(r#""hosts":["api.test"],"env":"PATH""#, "env", "controls programs"),
        field(
            r#""hosts":["api.test"],"inject":{"header":"Authorization"}"#,
            "inject",
            "without a scheme",
        ),
        at(
            "/network/passthrough/0",
            r#"{"network":{"passthrough":["*"]}}"#,
            "passes all TLS through",
        ),
        at(
            "/network/passthrough/0",
            r#"{"network":{"deny":["*"],"passthrough":["p.test"]}}"#,
            "can never match",
        ),
        at("", endpoints(&["GET /v1/models"]), ""),
        rules(&[], "", "permits nothing"),
        rules(&["GET /user"], "/0/paths/0", "`/user/keys`"),
        at("", endpoints(&["GET /user/"]), ""),
        rules(&["TRACE /a/b"], "/0/methods/0", "always refused"),
        rules(&["GET /a/b /a/b/c"], "/0/paths/1", "never decides: `GET /a/b`"),
        rules(&["* /a/b", "GET /a/b"], "/1/paths/0", "never decides"),
        rules(&["GET /a/b", "POST /a/b", "POST,GET /a/b/c"], "/2/paths/0", "never decides"),
        at("", endpoints(&["GET /a/b", "GET,POST /a/b"]), ""),
        at("", endpoints(&["GET /a/*/c /a/b/c/d"]), ""),
        rules(&["GET /a/* /a/b/c"], "/0/paths/1", "never decides"),
        at("", endpoints(&["GET /a/b/c /a/*"]), ""),
    ];
    for (text, pointer, says) in &table {
        let seen = warned(text);
        if pointer.is_empty() {
            assert_eq!(seen, [], "{text}");
        } else {
            let found = seen.iter().any(|(at, message)| at == pointer && message.contains(says));
            assert!(found, "{text}: {seen:#?}");
        }
    }
}

#[test]
fn a_file_is_warned_of_open_policies_literal_keys_and_keys_without_rules() {
    let openai = |credential: &str| {
        let network = r#"{"allow":["api.openai.com"]}"#;
        format!(r#"{{"network":{network},"credentials_v2":{{"openai":{credential}}}}}"#)
    };
    for (text, pointer, says) in [
        ("{}".to_owned(), "", "permits everything"),
        (r#"{"network":{}}"#.to_owned(), "/network", "permits everything"),
        (
            r#"{"network_profile":"unrestricted"}"#.to_owned(),
            "/network_profile",
            "permits everything",
        ),
        (r#"{"network":{"deny":["a.test"]}}"#.to_owned(), "/network/deny", "every public host"),
        (r#"{"network":{"allow":["*"]}}"#.to_owned(), "/network/allow/0", "every public host"),
        (
            r#"{"credentials_v2":{"openai":{"key":{"env":"A"},"endpoints":[]}}}"#.to_owned(),
            "",
            "nothing limits which hosts",
        ),
        (openai(r#"{"key":{"env":"A"}}"#), "/credentials_v2/openai", "without `endpoints`"),
        (
            openai(r#"{"key":"sk-CANARY","endpoints":[{"methods":[],"paths":["/v1"]}]}"#),
            "/credentials_v2/openai/key",
            "stands in the policy itself",
        ),
        (
            r#"{"credentials":{"openai":"sk-CANARY"}}"#.to_owned(),
            "/credentials/openai",
            "stands in",
        ),
    ] {
        let report = check(&text, &Catalogue::builtin());
        let found = report.warnings.iter().any(|warning| {
            warning.pointer == pointer && warning.message.contains(says) && warning.line == Some(1)
        });
        assert!(found, "{text}: {:?}", report.warnings);
    }
    let good =
        openai(r#"{"key":{"env":"A"},"endpoints":[{"methods":["GET"],"paths":["/v1/models/*"]}]}"#);
    assert_eq!(check(&good, &Catalogue::builtin()).warnings, []);
}

#[test]
fn the_documented_example_has_no_warnings() {
    let text = r#"{
      "image": "python:3.12-slim",
      "network": { "deny": ["0.0.0.0/0"],
                   "allow": ["api.openai.com", "*.example.com:443", "10.1.0.0/16",
                             "tcp://db.example.com:5432"] },
      "credentials_v2": {
        "openai": { "key": "sk-real",
                    "endpoints": [ { "methods": ["POST"], "paths": ["/v1/chat/completions"] },
                                   { "methods": ["GET"],  "paths": ["/v1/models"] } ] },
        "billing": { "key": { "env": "BILLING_KEY" }, "hosts": ["billing.example.com"],
                     "inject": { "header": "x-billing-key" }, "env": "BILLING_API_KEY",
                     "endpoints": [ { "methods": [], "paths": ["/v2/invoices/*"] } ] } } }"#;
    assert_eq!(warned(text), []);
}

#[test]
fn c6_a_rule_that_hands_out_further_keys_is_warned_about() {
    let github = |paths: &str, methods: &str| {
        format!(
            r#"{{"credentials_v2":{{"github":{{"key":"k",
                "endpoints":[{{"methods":[{methods}],"paths":[{paths}]}}]}}}}}}"#
        )
    };
    let seen = warned(&github(r#""/user/**""#, ""));
    assert!(seen.iter().any(|(_, message)| message.contains("POST /user/keys")), "{seen:?}");
    let seen = warned(&github(r#""/repos/*""#, r#""POST""#));
    assert!(seen.iter().any(|(_, message)| message.contains("/repos/o/r/keys")), "{seen:?}");
    assert_eq!(warned(&github(r#""/repos/*""#, r#""GET""#)), []);
}

#[test]
fn r10_known_relays_are_named_with_the_reason() {
    let data: serde_json::Value =
        serde_json::from_str(include_str!("../../data/relays.json")).unwrap();
    for relay in data["relays"].as_array().unwrap() {
        let host = relay["host"].as_str().unwrap();
        assert!(super::super::NetworkRule::parse(host).is_ok(), "{host}");
        let seen = warned(&format!(r#"{{"network":{{"allow":["{host}"]}}}}"#));
        assert!(seen.iter().any(|(_, message)| message.contains("relay")), "{host}: {seen:?}");
    }
}
