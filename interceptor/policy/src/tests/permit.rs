//! The smallest edit that permits what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Catalogue, Edit, Subject, Traffic, check};
use super::host;

fn request(method: &str, url: &str) -> Subject {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (name, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let is_https = scheme == "https";
    Subject {
        traffic: Traffic::Request,
        host: host(name),
        port: port.parse().unwrap_or(if is_https { 443 } else { 80 }),
        method: method.to_owned(),
        path: path.to_owned(),
        is_https,
        credential: None,
        misused: false,
        address: None,
        aws: None,
    }
}

fn document() -> Value {
    json!({
        "network": {
            "allow": ["api.test", "other.test:8443", "plain.test"], "deny": ["*", "bad.test"],
        },
        "credentials_v2": {
            "own": { "key": "k", "hosts": ["api.test"], "endpoints": [
                { "methods": ["GET"], "paths": ["/v1/models"] },
                { "methods": ["GET", "PUT"], "paths": ["/v1/files"] },
            ] },
            "a/b": { "key": "k", "hosts": ["none.test"], "env": "AB", "endpoints": [] },
        },
    })
}

fn edit(subject: &Subject) -> Option<Edit> {
    Edit::permitting(&document(), &Catalogue::builtin(), subject)
}

fn judged(document: &Value, subject: &Subject) -> bool {
    let policy = check(&document.to_string(), &Catalogue::builtin()).policy.unwrap();
    subject.judge(&policy).is_allow()
}

#[test]
fn the_edit_is_the_smallest_that_permits() {
    for (subject, expected) in [
        (request("GET", "https://new.test/x"), r#"add "new.test" to /network/allow"#),
        (request("GET", "https://other.test/x"), r#"add "other.test:443" to /network/allow"#),
        (request("GET", "https://10.1.2.3/x"), r#"add "10.1.2.3" to /network/allow"#),
        (
            request("GET", "https://bad.test/x"),
            r#"remove "bad.test" at /network/deny/1, and add "bad.test" to /network/allow"#,
        ),
        (
            request("POST", "https://api.test/v1/models"),
            r#"add "POST" to /credentials_v2/own/endpoints/0/methods"#,
        ),
        (
            request("GET", "https://api.test/v2"),
            r#"add "/v2" to /credentials_v2/own/endpoints/0/paths"#,
        ),
        (
            request("PUT", "https://api.test/v2"),
            r#"add {"methods":["PUT"],"paths":["/v2"]} to /credentials_v2/own/endpoints"#,
        ),
        (
            request("GET", "https://none.test/v2"),
            "add \"none.test\" to /network/allow, and add \
             {\"methods\":[\"GET\"],\"paths\":[\"/v2\"]} to /credentials_v2/a~1b/endpoints",
        ),
        (
            request("GET", "http://api.test/v1/models"),
            "set /credentials_v2/own/allow_plaintext to true",
        ),
        (
            Subject { traffic: Traffic::Raw, port: 5432, ..request("", "https://db.test/") },
            r#"add "db.test" to /network/allow, and add "tcp://db.test:5432" to /network/allow"#,
        ),
        (
            Subject {
                address: Some("10.0.0.7".parse().unwrap()),
                ..request("GET", "https://plain.test/x")
            },
            r#"add "10.0.0.7" to /network/allow"#,
        ),
    ] {
        let found = edit(&subject).unwrap_or_else(|| panic!("no edit for {subject:?}"));
        assert_eq!(found.to_string(), expected);
        assert!(judged(&found.applied(&document()).unwrap(), &subject), "{expected}");
    }
}

#[test]
fn what_no_edit_permits_has_none_and_what_is_permitted_needs_none() {
    for subject in [
        request("GET", "https://api.test/v1/models"),
        request("TRACE", "https://api.test/v1/models"),
        request("get", "https://api.test/v1/models"),
        request("GET", "https://api.test/v1/../x"),
        request("GET", "http://169.254.169.254/latest"),
        Subject {
            credential: Some("own".into()),
            misused: true,
            ..request("GET", "https://plain.test/x")
        },
        Subject { traffic: Traffic::Raw, ..request("", "https://api.test/") },
    ] {
        assert_eq!(edit(&subject), None, "{subject:?}");
    }
    // A network without an allow list stays open beside the address that is added.
    let open = json!({});
    let subject = request("GET", "https://10.0.0.1/x");
    let found = Edit::permitting(&open, &Catalogue::builtin(), &subject).unwrap();
    let edited = found.applied(&open).unwrap();
    assert_eq!(edited["network"]["allow"], json!(["*", "10.0.0.1"]));
    assert!(judged(&edited, &request("GET", "https://else.test/x")));
}

proptest! {
    #[test]
    fn an_edit_permits_what_it_is_for_and_nothing_is_left_out(
        method in prop_oneof![Just("GET"), Just("POST"), Just("DELETE")],
        name in prop_oneof![
            Just("api.test"), Just("new.test"), Just("none.test"), Just("other.test"),
            Just("bad.test"),
        ],
        path in "(/([a-z*\\[{]|v1|models|%2F|%20){1,3}){1,4}/?",
        port in prop_oneof![Just(443_u16), Just(8443)],
    ) {
        let subject = Subject { port, ..request(method, &format!("https://{name}{path}")) };
        // Only the governed port of a host has rules; others are judged by host alone.
        let before = judged(&document(), &subject);
        let found = edit(&subject);
        prop_assert_eq!(found.is_none(), before, "{:?}: {:?}", subject, found);
        if let Some(found) = found {
            let edited = found.applied(&document()).unwrap();
            prop_assert!(judged(&edited, &subject), "{}", found);
        }
    }
}
