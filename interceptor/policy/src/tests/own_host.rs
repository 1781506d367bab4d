//! The names of the host itself: only a rule of their own, with the port, permits them.

use super::super::{Authority, Catalogue, Document, Edit, HostName, NetworkRule, Subject, check};
use super::network::{judge, network};
use super::{Host, decide, host, outcome, policy};
use crate::Traffic;

const NAMES: [&str; 3] =
    ["host.interceptor.internal", "host.docker.internal", "host.containers.internal"];

#[test]
fn no_wildcard_and_no_open_policy_covers_the_host_itself() {
    let open: [(&[&str], &[&str]); 7] = [
        (&[], &[]),
        (&[], &["evil.test"]),
        (&["*"], &[]),
        (&["*:8080"], &[]),
        (&["tcp://*"], &[]),
        (&["*.internal", "*.interceptor.internal", "*.docker.internal:8080"], &[]),
        (&["*.containers.internal", "127.0.0.1", "::1", "0.0.0.0/0", "::/0"], &[]),
    ];
    for (allow, deny) in open {
        let policy = network(allow, deny);
        for name in NAMES {
            let verdict = judge(&policy, &format!("{name}:8080"));
            assert_eq!(verdict, "host_denied", "{name} {allow:?} {deny:?}");
            assert_eq!(outcome(&policy.decide_raw(&host(name), 8080)), "host_denied");
            assert!(!policy.may_resolve(host(name).name().unwrap()), "{name} {allow:?}");
        }
    }
    let unrestricted = policy("{}");
    assert_eq!(judge(&unrestricted, "host.docker.internal"), "host_denied");
    let profile = policy(r#"{"network_profile":"unrestricted"}"#);
    assert_eq!(judge(&profile, "host.interceptor.internal:80"), "host_denied");
}

#[test]
fn a_rule_permits_its_own_name_at_its_own_port_in_every_spelling() {
    for name in NAMES {
        let rules = [&format!("{name}:8080")[..], "*"];
        let policy = network(&rules, &[]);
        for spelling in [name.to_owned(), name.to_uppercase(), format!("{name}.")] {
            assert_eq!(judge(&policy, &format!("{spelling}:8080")), "allow", "{spelling}");
            assert_eq!(judge(&policy, &format!("{spelling}:8081")), "host_denied", "{spelling}");
        }
        for other in NAMES.iter().filter(|other| **other != name) {
            assert_eq!(judge(&policy, &format!("{other}:8080")), "host_denied");
        }
        assert!(policy.may_resolve(host(name).name().unwrap()));
        // The rule does not make it a rule for any protocol.
        assert_eq!(outcome(&policy.decide_raw(&host(name), 8080)), "protocol_denied");
        let raw = network(&[&format!("tcp://{name}:5432")], &[]);
        assert_eq!(outcome(&raw.decide_raw(&host(name), 5432)), "allow");
        assert_eq!(outcome(&raw.decide_raw(&host(name), 5433)), "host_denied");
        // A wildcard for any protocol does not widen the rule.
        let both = network(&[&format!("{name}:5432"), "tcp://*"], &[]);
        assert_eq!(outcome(&both.decide_raw(&host(name), 5432)), "protocol_denied");
    }
    // Names around them are ordinary names.
    let around = network(&["*"], &[]);
    for name in ["a.host.docker.internal", "host.docker.internal.test", "docker.internal"] {
        assert_eq!(judge(&around, name), "allow", "{name}");
    }
}

#[test]
fn deny_rules_hold_for_the_host_itself() {
    for deny in ["*.internal", "host.docker.internal", "*.docker.internal:8080"] {
        let policy = network(&["host.docker.internal:8080"], &[deny]);
        assert_eq!(judge(&policy, "host.docker.internal:8080"), "host_denied", "{deny}");
        assert!(!policy.may_resolve(host("host.docker.internal").name().unwrap()), "{deny}");
    }
    let closed = network(&["host.docker.internal:8080"], &["*"]);
    assert_eq!(judge(&closed, "host.docker.internal:8080"), "allow");
}

#[test]
fn a_rule_without_a_port_is_an_error_and_one_beside_a_wildcard_does_something() {
    let report = |allow: &str| {
        check(&format!(r#"{{"network":{{"allow":{allow}}}}}"#), &Catalogue::builtin())
    };
    for rule in NAMES.iter().flat_map(|name| [name.to_string(), format!("tcp://{name}.")]) {
        let errors = report(&format!(r#"["{rule}"]"#)).errors;
        let [error] = &errors[..] else { panic!("{errors:?}") };
        assert_eq!(error.pointer, "/network/allow/0");
        assert!(error.message.contains("name the port"), "{}", error.message);
    }
    let found = report(r#"["*", "host.docker.internal:80", "host.docker.internal:80"]"#);
    let adds_nothing: Vec<_> =
        found.warnings.iter().filter(|warning| warning.message.contains("adds nothing")).collect();
    assert_eq!(adds_nothing.len(), 1, "{:?}", found.warnings);
    assert!(adds_nothing[0].message.contains("host.docker.internal:80"));
    assert_eq!(adds_nothing[0].pointer, "/network/allow/2");
}

#[test]
fn a_credential_of_the_host_itself_needs_the_rule_too() {
    let text = |allow: &str| {
        format!(
            r#"{{"network":{{"allow":{allow}}},"credentials_v2":{{"mine":{{"key":"the-key",
                "hosts":["host.interceptor.internal:8443"],"endpoints":[]}}}}}}"#
        )
    };
    let unused = |allow: &str| {
        let report = check(&text(allow), &Catalogue::builtin());
        report.warnings.iter().any(|warning| warning.message.contains("can never be used"))
    };
    assert!(unused(r#"["*"]"#));
    assert!(!unused(r#"["host.interceptor.internal:8443"]"#));
    let policy = policy(&text(r#"["host.interceptor.internal:8443"]"#));
    let url = "https://host.interceptor.internal:8443/x";
    assert_eq!(outcome(&decide(&policy, "GET", url)), "endpoint_denied");
}

#[test]
fn a_refusal_says_what_permits_it_and_the_edit_does() {
    let subject = |port: u16| Subject {
        traffic: Traffic::Request,
        host: host("host.docker.internal"),
        port,
        method: "GET".to_owned(),
        path: "/".to_owned(),
        is_https: false,
        credential: None,
        misused: false,
        address: None,
        aws: None,
    };
    for (document, edit) in [
        (
            r#"{"network":{"allow":["api.test"]}}"#,
            r#"add "host.docker.internal:8080" to /network/allow"#,
        ),
        (
            "{}",
            r#"add "*" to /network/allow, and add "host.docker.internal:8080" to /network/allow"#,
        ),
        (
            r#"{"network":{"allow":["host.docker.internal:80"]}}"#,
            r#"add "host.docker.internal:8080" to /network/allow"#,
        ),
    ] {
        let value = serde_json::from_str(document).unwrap();
        let found = Edit::permitting(&value, &Catalogue::builtin(), &subject(8080)).unwrap();
        assert_eq!(found.to_string(), edit);
        let denied = subject(8080).judge(&policy(document));
        let super::super::Decision::Deny(deny) = denied else { panic!("{document}") };
        assert!(deny.message.contains("add \"host.docker.internal:8080\" to"), "{}", deny.message);
        assert_eq!(deny.message.contains("\"*\" beside it"), document == "{}", "{}", deny.message);
    }
}

#[test]
fn a_rule_text_and_a_host_mean_the_same_name() {
    for name in NAMES {
        let (rule, _) = NetworkRule::parse(&format!("{}:1", name.to_uppercase())).unwrap();
        assert!(rule.names_own_host());
        let authority = Authority::parse(&format!("{name}.:1")).unwrap();
        assert!(authority.host.is_own_host());
    }
    let named = |text: &str| match Host::parse(text).unwrap() {
        Host::Name(name) => HostName::is_own_host(&name),
        Host::Ip(_) => false,
    };
    assert!(!named("host.docker.internal.evil.test") && !named("xhost.docker.internal"));
    let document = r#"{"network":{"deny":["host.docker.internal"]}}"#;
    assert!(Document::parse(document).is_ok(), "a deny rule needs no port");
}
