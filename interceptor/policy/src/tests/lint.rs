//! The warnings of `check` (attack R2, R5, R10, C2, C6).

use super::super::{Catalogue, check, check_besides};

/// The pointers of a document's warnings.
fn warned(text: &str) -> Vec<(String, String)> {
    let report = check_besides(text, &[], &Catalogue::builtin());
    assert_eq!(report.errors, [], "{text}");
    report.warnings.into_iter().map(|problem| (problem.pointer, problem.message)).collect()
}

fn network(allow: &str, deny: &str) -> String {
    format!(
        r#"{{"network":{{"allow":[{allow}],"deny":[{deny}]}},"credentials_v2":{{"c":{{"key":"k","hosts":["api.test","*.sub.test"]}}}}}}"#
    )
}

fn endpoints(rules: &str) -> String {
    format!(
        r#"{{"credentials_v2":{{"c":{{"key":"k","hosts":["api.test"],"endpoints":[{rules}]}}}}}}"#
    )
}

#[test]
fn r2_doubtful_rules_are_warned_about() {
    let table: Vec<(String, &str, &str)> = vec![
        (network(r#""api.test","*.sub.test""#, r#""*""#), "", ""),
        (network(r#""api.test","api.test""#, ""), "/network/allow/1", "adds nothing"),
        (network(r#""*.sub.test","a.sub.test""#, ""), "/network/allow/1", "adds nothing: `*.sub.test`"),
        (network(r#""a.sub.test","*.sub.test""#, ""), "/network/allow/0", "adds nothing"),
        (network(r#""api.test","api.test:443""#, ""), "/network/allow/1", "adds nothing"),
        (network(r#""*.sub.test","api.test:80","api.test:443""#, ""), "", ""),
        (network(r#""api.test","10.1.0.0/16","10.1.2.0/24""#, ""), "/network/allow/2", "adds nothing: `10.1.0.0/16`"),
        (network(r#""api.test","9.9.9.9","9.9.9.9:53""#, ""), "/network/allow/2", "adds nothing"),
        (network(r#""api.test","api2.test""#, r#""api2.test""#), "/network/allow/1", "can never match: the deny rule `api2.test`"),
        (network(r#""api.test","a.sub.test""#, r#""*.sub.test""#), "/network/allow/1", "can never match: the deny rule `*.sub.test`"),
        (network(r#""api.test","10.1.2.3""#, r#""10.0.0.0/8""#), "/network/allow/1", "can never match"),
        (network(r#""api.test","*.sub.test""#, r#""a.sub.test:25""#), "", ""),
        (network(r#""api.test","*""#, ""), "/network/allow/1", "every public host"),
        (network(r#""api.test","0.0.0.0/0""#, ""), "/network/allow/1", "loopback"),
        (network(r#""api.test","*.co.uk""#, ""), "/network/allow/1", "public suffix"),
        (network(r#""api.test","*.github.io""#, ""), "/network/allow/1", "public suffix"),
        (network(r#""api.test","*.com""#, ""), "/network/allow/1", "public suffix"),
        (network(r#""api.test","nobody.test""#, ""), "/network/allow/1", "no credential and no profile uses this host"),
        (network(r#""api.test","*.sub.test","github.com""#, ""), "", ""),
        (network(r#""api.test","gist.github.com""#, ""), "/network/allow/1", "relay"),
        (network(r#""api.test","x.workers.dev""#, ""), "/network/allow/1", "relay"),
        (network(r#""api.test","dns.google""#, ""), "/network/allow/1", "relay"),
        (network(r#""tcp://api.test""#, ""), "/network/allow/0", "means nothing for a host that a credential"),
        (network(r#""api.test""#, r#""tcp://bad.test""#), "/network/deny/0", "means nothing in `deny`"),
        (network("", r#""bad.test""#), "/network/deny", "every public host that is not listed"),
        (network("", r#""*""#), "/credentials_v2/c", "refuses every host of this credential"),
        (network(r#""api.test""#, ""), "/credentials_v2/c/hosts/1", "can never be used there"),
        (network("", ""), "/network/allow", "an empty `allow` permits every public host"),
        (network(r#""api.test","10.1.2.3/8""#, ""), "/network/allow/1", "the rule covers the whole network"),
        (network(r#""api.test","0x7f.1""#, ""), "/network/allow/1", "canonical form"),
        (r#"{"network":{"allow":["api.test"]},"credentials_v2":{"c":{"key":"k","hosts":["other.test"]}}}"#.to_owned(), "/credentials_v2/c", "refuses every host"),
        (r#"{"network_profile":["unrestricted","openai"]}"#.to_owned(), "/network_profile/0", "adds nothing"),
        (r#"{"network_profile":"locked-down","credentials":{"openai":"k"}}"#.to_owned(), "/credentials/openai", "refuses every host"),
        (r#"{"credentials_v2":{"c":{"key":"k","hosts":["api.test"],"allow_plaintext":true}}}"#.to_owned(), "/credentials_v2/c/allow_plaintext", "in the clear"),
        (r#"{"credentials_v2":{"c":{"key":"k","hosts":["*.co.uk"]}}}"#.to_owned(), "/credentials_v2/c/hosts/0", "public suffix"),
        (r#"{"credentials_v2":{"c":{"key":"k","hosts":["api.test"],"env":"PATH"}}}"#.to_owned(), "/credentials_v2/c/env", "controls programs"),
        (r#"{"credentials_v2":{"c":{"key":"k","hosts":["api.test"],"inject":{"header":"Authorization"}}}}"#.to_owned(), "/credentials_v2/c/inject", "without a scheme"),
        (r#"{"network":{"passthrough":["*"]}}"#.to_owned(), "/network/passthrough/0", "passes all TLS through"),
        (r#"{"network":{"deny":["*"],"passthrough":["p.test"]}}"#.to_owned(), "/network/passthrough/0", "can never match"),
        (endpoints(r#"{"methods":["GET"],"paths":["/v1/models"]}"#), "", ""),
        (endpoints(""), "/credentials_v2/c/endpoints", "permits nothing"),
        (endpoints(r#"{"methods":["GET"],"paths":["/user"]}"#), "/credentials_v2/c/endpoints/0/paths/0", "`/user/keys`"),
        (endpoints(r#"{"methods":["GET"],"paths":["/user/"]}"#), "", ""),
        (endpoints(r#"{"methods":["TRACE"],"paths":["/a/b"]}"#), "/credentials_v2/c/endpoints/0/methods/0", "always refused"),
        (endpoints(r#"{"methods":["GET"],"paths":["/a/b","/a/b/c"]}"#), "/credentials_v2/c/endpoints/0/paths/1", "never decides: `GET /a/b`"),
        (endpoints(r#"{"methods":[],"paths":["/a/b"]},{"methods":["GET"],"paths":["/a/b"]}"#), "/credentials_v2/c/endpoints/1/paths/0", "never decides"),
        (endpoints(r#"{"methods":["GET"],"paths":["/a/b"]},{"methods":["POST"],"paths":["/a/b"]},{"methods":["POST","GET"],"paths":["/a/b/c"]}"#), "/credentials_v2/c/endpoints/2/paths/0", "never decides"),
        (endpoints(r#"{"methods":["GET"],"paths":["/a/b"]},{"methods":["GET","POST"],"paths":["/a/b"]}"#), "", ""),
        (endpoints(r#"{"methods":["GET"],"paths":["/a/*/c","/a/b/c/d"]}"#), "", ""),
        (endpoints(r#"{"methods":["GET"],"paths":["/a/*","/a/b/c"]}"#), "/credentials_v2/c/endpoints/0/paths/1", "never decides"),
        (endpoints(r#"{"methods":["GET"],"paths":["/a/b/c","/a/*"]}"#), "", ""),
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
        format!(
            r#"{{"network":{{"allow":["api.openai.com"]}},"credentials_v2":{{"openai":{credential}}}}}"#
        )
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
      "network": { "deny": ["0.0.0.0/0"], "allow": ["api.openai.com", "*.example.com:443", "10.1.0.0/16", "tcp://db.example.com:5432"] },
      "credentials_v2": {
        "openai": { "key": "sk-real", "endpoints": [ { "methods": ["POST"], "paths": ["/v1/chat/completions"] }, { "methods": ["GET"],  "paths": ["/v1/models"] } ] },
        "billing": { "key": { "env": "BILLING_KEY" }, "hosts": ["billing.example.com"], "inject": { "header": "x-billing-key" },
                     "env": "BILLING_API_KEY", "endpoints": [ { "methods": [], "paths": ["/v2/invoices/*"] } ] } } }"#;
    assert_eq!(warned(text), []);
}

#[test]
fn c6_a_rule_that_hands_out_further_keys_is_warned_about() {
    let github = |paths: &str, methods: &str| {
        format!(
            r#"{{"credentials_v2":{{"github":{{"key":"k","endpoints":[{{"methods":[{methods}],"paths":[{paths}]}}]}}}}}}"#
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
