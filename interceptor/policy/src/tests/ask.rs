//! What is asked of a person, and what is proposed.

use serde_json::{Value, json};

use super::super::{
    Authority, Catalogue, CredentialId, Decision, OverlayError, Patch, Policy, Request, Scheme,
    Subject, Traffic, check,
};
use super::outcome;

pub(super) fn compiled(document: &Value) -> Policy {
    let report = check(&document.to_string(), &Catalogue::builtin());
    report.policy.unwrap_or_else(|| panic!("{:?}", report.errors))
}

/// Whether the refusal of a request becomes a question.
fn is_asked(policy: &Policy, method: &str, url: &str, presented: &[&str]) -> bool {
    let (scheme, rest) = match url.strip_prefix("https://") {
        Some(rest) => (Scheme::Https, rest),
        None => (Scheme::Http, url.strip_prefix("http://").unwrap()),
    };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let Authority { host, port } = Authority::parse(authority).unwrap();
    let presented: Vec<CredentialId> =
        presented.iter().map(|name| policy.credential_named(name).unwrap()).collect();
    let port = port.unwrap_or(scheme.default_port());
    let request = Request {
        scheme,
        host: &host,
        port,
        method,
        path,
        overrides: &[],
        presented: &presented,
        aws: None,
    };
    match policy.decide(&request) {
        Decision::Allow(_) => panic!("{method} {url} is permitted"),
        Decision::Deny(deny) => policy.asks(&request, &deny),
    }
}

fn document() -> Value {
    json!({
        "ask": {},
        "network": {
            "allow": ["api.test", "10.1.0.0/16"],
            "deny": ["*", "bad.test", "192.0.2.0/24"],
        },
        "credentials_v2": {
            "own": { "key": "k", "hosts": ["api.test", "hidden.test"], "endpoints": [
                { "methods": ["GET"], "paths": ["/v1/models"] },
                { "methods": ["DELETE"], "paths": ["/v1/files/*"], "ask": true },
                { "methods": [], "paths": ["/v1/files"] },
            ] },
        },
    })
}

#[test]
fn only_a_refusal_for_want_of_a_rule_is_asked() {
    let policy = compiled(&document());
    for (method, url, asked) in [
        ("GET", "https://new.test/x", true),
        ("GET", "http://new.test/x", true),
        ("GET", "https://hidden.test/v1/models", true),
        ("POST", "https://api.test/v1/models", true),
        ("GET", "https://api.test/v2", true),
        ("DELETE", "https://api.test/v1/files/f1", true),
        ("GET", "https://8.8.8.8/", true),
        ("GET", "https://bad.test/", false),
        ("GET", "http://host.interceptor.internal:8080/", false),
        ("GET", "https://192.0.2.7/", false),
        ("GET", "https://127.0.0.1/", false),
        ("GET", "https://169.254.169.254/", false),
        ("GET", "https://10.2.0.1/", false),
        ("GET", "https://[::1]/", false),
        ("GET", "https://[64:ff9b::a9fe:a9fe]/", false),
        ("GET", "https://api.test/v1/../x", false),
        ("GET", "http://api.test/v1/models", false),
        ("CONNECT", "https://new.test/", false),
        ("OPTIONS", "https://api.test/*", true),
    ] {
        assert_eq!(is_asked(&policy, method, url, &[]), asked, "{method} {url}");
    }
    assert!(!is_asked(&policy, "GET", "https://new.test/", &["own"]), "a placeholder that leaks");
    let without = {
        let mut without = document();
        without.as_object_mut().unwrap().remove("ask");
        compiled(&without)
    };
    assert!(!is_asked(&without, "GET", "https://new.test/x", &[]));
    assert!(!is_asked(&without, "GET", "https://api.test/v2", &[]));
    assert!(is_asked(&without, "DELETE", "https://api.test/v1/files/f1", &[]), "the rule says so");
    assert!(without.may_ask() && !compiled(&json!({})).may_ask());
}

#[test]
fn what_is_asked_can_be_limited_to_hosts_and_a_time() {
    let mut limited = document();
    limited["ask"] = json!({ "hosts": ["*.test:443"], "timeout_seconds": 7 });
    let policy = compiled(&limited);
    assert_eq!(policy.ask_timeout().as_secs(), 7);
    assert!(is_asked(&policy, "GET", "https://new.test/x", &[]));
    assert!(!is_asked(&policy, "GET", "https://new.test:8443/x", &[]));
    assert!(!is_asked(&policy, "GET", "https://new.example/x", &[]));
    assert_eq!(compiled(&document()).ask_timeout().as_secs(), 300);
    for (ask, pointer) in [
        (json!({ "hosts": [] }), "/ask/hosts"),
        (json!({ "hosts": ["tcp://a.test"] }), "/ask/hosts/0"),
        (json!({ "hosts": ["a b"] }), "/ask/hosts/0"),
        (json!({ "timeout_seconds": 0 }), "/ask/timeout_seconds"),
        (json!({ "host": ["a.test"] }), "/ask/host"),
        (json!(true), "/ask"),
    ] {
        limited["ask"] = ask;
        let errors = check(&limited.to_string(), &Catalogue::builtin()).errors;
        assert_eq!(errors.iter().map(|one| one.pointer.as_str()).collect::<Vec<_>>(), [pointer]);
    }
}

#[test]
fn a_rule_that_asks_stands_in_the_way_of_later_ones_only() {
    let rules = |first: Value, second: Value| {
        let document = json!({ "credentials_v2": { "own": { "key": "k", "hosts": ["api.test"],
            "endpoints": [first, second] } } });
        super::decide(&compiled(&document), "GET", "https://api.test/a/b")
    };
    let wide = json!({ "methods": [], "paths": ["/"] });
    let asks = json!({ "methods": ["GET"], "paths": ["/a"], "ask": true });
    let asked = rules(asks.clone(), wide.clone());
    assert_eq!(outcome(&asked), "endpoint_denied");
    let Decision::Deny(deny) = asked else { panic!() };
    assert!(deny.message.contains("the rule `GET /a` permits only what a person approves"));
    assert_eq!(outcome(&rules(wide, asks)), "allow");
    let odd = json!({ "methods": ["GET"], "paths": ["/a"], "ask": 1 });
    let errors = check(
        &json!({ "credentials_v2": { "own": { "key": "k", "hosts": ["api.test"],
            "endpoints": [odd] } } })
        .to_string(),
        &Catalogue::builtin(),
    );
    assert_eq!(errors.errors[0].pointer, "/credentials_v2/own/endpoints/0/ask");
}

pub(super) fn subject(method: &str, host: &str, port: u16, path: &str) -> Subject {
    Subject {
        traffic: Traffic::Request,
        host: super::host(host),
        port,
        method: method.to_owned(),
        path: path.to_owned(),
        is_https: port != 80,
        credential: None,
        misused: false,
        address: None,
        aws: None,
    }
}

#[test]
fn proposals_are_the_smallest_edit_and_one_that_is_wider_by_the_paths_template() {
    let policy = compiled(&document());
    let proposed = |method: &str, host: &str, port: u16, path: &str| -> Vec<Value> {
        let proposals = policy.proposals(&subject(method, host, port, path));
        assert!(proposals.iter().enumerate().all(|(at, one)| one.wider == (at == 1)));
        proposals.iter().map(|one| one.patch.to_value()).collect()
    };
    let add = |path: &str, value: Value| json!({ "op": "add", "path": path, "value": value });
    let endpoints = "/credentials_v2/own/endpoints";
    let rule = |method: &str, path: &str| json!({ "methods": [method], "paths": [path] });
    for (asked, expected) in [
        (
            ("GET", "new.test", 8443, "/x/17"),
            vec![json!([add("/network/allow/-", json!("new.test:8443"))])],
        ),
        (
            ("GET", "api.test", 443, "/v1/runs/12345"),
            vec![
                json!([add(&format!("{endpoints}/0/paths/-"), json!("/v1/runs/12345"))]),
                json!([add(&format!("{endpoints}/0/paths/-"), json!("/v1/runs/*"))]),
            ],
        ),
        (
            ("POST", "api.test", 443, "/v1/models"),
            vec![json!([add(&format!("{endpoints}/-"), rule("POST", "/v1/models"))])],
        ),
        (
            ("DELETE", "api.test", 443, "/v1/files/file-9aXc0Qw3rT"),
            vec![
                json!([add(
                    &format!("{endpoints}/1"),
                    rule("DELETE", "/v1/files/file-9aXc0Qw3rT")
                )]),
                json!([add(&format!("{endpoints}/1"), rule("DELETE", "/v1/files/*"))]),
            ],
        ),
        (
            ("GET", "hidden.test", 443, "/v1/other"),
            vec![json!([
                add("/network/allow/-", json!("hidden.test:443")),
                add(&format!("{endpoints}/0/paths/-"), json!("/v1/other")),
            ])],
        ),
        // The root alone, not everything below it.
        (
            ("GET", "api.test", 443, "/"),
            vec![json!([add(&format!("{endpoints}/0/paths/-"), json!("/."))])],
        ),
        // Plain HTTP, deny rules, and what only a rule for an address permits.
        (("GET", "hidden.test", 80, "/v1/models"), vec![]),
        (("GET", "bad.test", 443, "/"), vec![]),
        (("GET", "127.0.0.1", 443, "/"), vec![]),
        (("get", "api.test", 443, "/v2"), vec![]),
    ] {
        let (method, host, port, path) = asked;
        assert_eq!(proposed(method, host, port, path), expected, "{asked:?}");
    }
}

#[test]
fn a_patch_makes_what_is_missing_on_its_way() {
    let policy = compiled(&json!({ "ask": {}, "network_profile": "locked-down" }));
    let proposals = policy.proposals(&subject("GET", "new.test", 443, "/"));
    assert_eq!(
        proposals[0].patch.to_value(),
        json!([
            { "op": "add", "path": "/network", "value": {} },
            { "op": "add", "path": "/network/allow", "value": [] },
            { "op": "add", "path": "/network/allow/-", "value": "new.test:443" },
        ])
    );
    let laid = policy.overlay(&proposals[0].patch).unwrap();
    assert_eq!(outcome(&super::decide(&laid, "GET", "https://new.test/")), "allow");
    assert_eq!(outcome(&super::decide(&laid, "GET", "https://other.test/")), "host_denied");
}

#[test]
fn a_lease_changes_rules_and_nothing_else() {
    let policy = compiled(&document());
    let lay = |operations: Value| policy.overlay(&Patch::from_value(operations).unwrap());
    let one =
        |op: &str, path: &str, value: Value| json!([{ "op": op, "path": path, "value": value }]);
    for operations in [
        one("add", "/limits", json!({ "requests": 9 })),
        one("replace", "/credentials_v2/own/key", json!("mine")),
        one("add", "/credentials_v2/own/hosts/-", json!("evil.test")),
        one("add", "/credentials_v2/new", json!({ "key": "k", "hosts": ["evil.test"] })),
        one("add", "/network/passthrough", json!(["evil.test"])),
        one("replace", "", json!({})),
        one("add", "/ask/hosts", json!(["evil.test"])),
        json!([{ "op": "move", "from": "/limits", "path": "/network/allow/0" }]),
    ] {
        let error = lay(operations.clone()).unwrap_err();
        assert!(matches!(error, OverlayError::OutOfBounds(_)), "{operations}: {error}");
    }
    for operations in [
        one("remove", "/network/deny/2", json!(null)),
        one("add", "/network/allow/-", json!("127.0.0.1")),
        one("add", "/network/allow/-", json!("tcp://db.test:5432")),
        one("replace", "/network", json!({ "allow": ["*"] })),
    ] {
        let error = lay(operations.clone()).unwrap_err();
        assert!(matches!(error, OverlayError::Connections(_)), "{operations}: {error}");
    }
    assert!(matches!(
        lay(one("add", "/network/allow/-", json!("a b"))),
        Err(OverlayError::Invalid(_))
    ));
    assert!(matches!(
        lay(one("remove", "/network/allow/9", json!(null))),
        Err(OverlayError::Unfit(_))
    ));
    let many = Value::Array(vec![one("add", "/network/allow/-", json!("a.test"))[0].clone(); 65]);
    assert_eq!(lay(many).unwrap_err(), OverlayError::TooLarge);
    let doubling: Vec<Value> = (0..40)
        .map(|_| json!({ "op": "copy", "from": "/network/allow", "path": "/network/allow/0" }))
        .collect();
    assert_eq!(lay(doubling.into()).unwrap_err(), OverlayError::TooLarge);
    let laid = lay(one("add", "/network/allow/-", json!("new.test"))).unwrap();
    assert!(!laid.proposals(&subject("GET", "x.test", 443, "/")).iter().any(|_| true));
}

#[test]
fn the_document_that_is_kept_has_no_key_and_credentials_keep_their_numbers() {
    let text = r#"{ "image": "sk-canary-1", "credentials": { "openai": "sk-canary-2" },
        "ask": {}, "network": { "allow": ["z.test"] },
        "credentials_v2": { "z": { "key": "sk-canary-3", "hosts": ["z.test"], "env": "Z" },
                            "a": { "key": { "env": "A" }, "hosts": ["a.test"], "env": "AA" } } }"#;
    let policy = check(text, &Catalogue::builtin()).policy.unwrap();
    assert!(!policy.document().unwrap().to_string().contains("canary"));
    assert!(!format!("{policy:?}").contains("canary"));
    let patch = &policy.proposals(&subject("GET", "new.test", 443, "/"))[0].patch;
    let laid = policy.overlay(patch).unwrap();
    let names = |policy: &Policy| -> Vec<String> {
        policy.credentials().iter().map(|one| one.name.clone()).collect()
    };
    assert_eq!(names(&laid), ["openai", "z", "a"]);
    assert_eq!(names(&laid), names(&policy));
}
