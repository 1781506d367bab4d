//! The policy document (attack P3): every error is reported, each at its position, none with a key
//! in it.

use std::time::Duration;

use super::super::{
    Catalogue, Document, Form, KeySource, Limits, MAX_BYTES, Policy, Problem, check,
};

fn errors(text: &str) -> Vec<Problem> {
    check(text, &Catalogue::builtin()).errors
}

/// A credential with a custom name and these further fields.
fn custom(fields: &str) -> String {
    format!(r#"{{"credentials_v2":{{"mine":{{"hosts":["mine.test"]{fields}}}}}}}"#)
}

/// A document with one endpoint rule.
fn endpoint(rule: &str) -> String {
    custom(&format!(r#","key":"k","endpoints":[{rule}]"#))
}

#[test]
fn p3_every_mistake_is_an_error_at_its_place() {
    let long = format!("{{\"image\":\"{}\"}}", "x".repeat(MAX_BYTES));
    let deep = format!("{{\"image\":{}1{}}}", "[".repeat(64), "]".repeat(64));
    let table: Vec<(String, &str, &str)> = [
        // The document.
        ("", "", "the document is empty"),
        ("network:\n  allow: []\n", "", "looks like YAML"),
        ("[network]\nallow = []\n", "", "looks like TOML"),
        ("{", "", "not valid JSON"),
        ("{}}", "", "not valid JSON"),
        ("{'a':1}", "", "not valid JSON"),
        ("{\"image\":\"a\",,}", "", "not valid JSON"),
        ("\u{feff}{}", "", "not valid JSON"),
        ("{} / no", "", "not valid JSON"),
        ("[]", "", "an object, not a list"),
        ("null", "", "an object, not null"),
        ("7", "", "an object, not a number"),
        (long.as_str(), "", "more than 1048576 bytes"),
        (deep.as_str(), "", "deeper than 64"),
        (r#"{"netwrok":{}}"#, "/netwrok", "did you mean `network`"),
        (r#"{"Network":{}}"#, "/Network", "did you mean `network`"),
        (r#"{"credentials-v2":{}}"#, "/credentials-v2", "did you mean `credentials_v2`"),
        (r#"{"a/b~c":{}}"#, "/a~1b~0c", "unknown field"),
        (r#"{"image":1}"#, "/image", "a string, not a number"),
        (r#"{"image":null}"#, "/image", "a string, not null"),
        (r#"{"image":"a","image":"b"}"#, "/image", "twice"),
        (r#"{"image":"\ud800"}"#, "/image", "surrogate"),
        // The network.
        (r#"{"network":[]}"#, "/network", "an object, not a list"),
        (r#"{"network":null}"#, "/network", "an object, not null"),
        (r#"{"network":{"alow":[]}}"#, "/network/alow", "did you mean `allow`"),
        (r#"{"network":{"allow":"a.test"}}"#, "/network/allow", "a list, not a string"),
        (r#"{"network":{"allow":{}}}"#, "/network/allow", "a list, not an object"),
        (r#"{"network":{"allow":[],"allow":["*"]}}"#, "/network/allow", "twice"),
        (r#"{"network":{"allow":["a.test",7]}}"#, "/network/allow/1", "a string, not a number"),
        (r#"{"network":{"allow":[["a.test"]]}}"#, "/network/allow/0", "a string, not a list"),
        (r#"{"network":{"deny":[""]}}"#, "/network/deny/0", "empty"),
        (r#"{"network":{"deny":["10.0.0.0/33"]}}"#, "/network/deny/0", "CIDR"),
        (r#"{"network":{"deny":["10.0.0.0/"]}}"#, "/network/deny/0", "CIDR"),
        (r#"{"network":{"deny":["10.0.0.0/-1"]}}"#, "/network/deny/0", "CIDR"),
        (r#"{"network":{"deny":["10.0.0/8"]}}"#, "/network/deny/0", "CIDR"),
        (r#"{"network":{"deny":["fd00::/129"]}}"#, "/network/deny/0", "CIDR"),
        (r#"{"network":{"deny":["a.test/8"]}}"#, "/network/deny/0", "paths belong to `endpoints`"),
        (r#"{"network":{"deny":["10.0.0.256"]}}"#, "/network/deny/0", "IPv4"),
        (r#"{"network":{"deny":["fd00::x"]}}"#, "/network/deny/0", "IPv6"),
        (r#"{"network":{"deny":["[10.0.0.1]"]}}"#, "/network/deny/0", "IPv6"),
        (r#"{"network":{"deny":["[fd00::1"]}}"#, "/network/deny/0", "IPv6"),
        (r#"{"network":{"deny":["fe80::1%eth0"]}}"#, "/network/deny/0", "IPv6"),
        (r#"{"network":{"allow":["a.test:0"]}}"#, "/network/allow/0", "port"),
        (r#"{"network":{"allow":["a.test:99999"]}}"#, "/network/allow/0", "port"),
        (r#"{"network":{"allow":["a.test:https"]}}"#, "/network/allow/0", "port"),
        (r#"{"network":{"allow":["a.test:"]}}"#, "/network/allow/0", "port"),
        (r#"{"network":{"allow":["https://a.test"]}}"#, "/network/allow/0", "scheme"),
        (r#"{"network":{"allow":["tcp://tcp://a.test"]}}"#, "/network/allow/0", "scheme"),
        (r#"{"network":{"allow":["tcp://"]}}"#, "/network/allow/0", "empty"),
        (r#"{"network":{"allow":["udp://a.test"]}}"#, "/network/allow/0", "scheme"),
        (r#"{"network":{"allow":["a.test/path"]}}"#, "/network/allow/0", "paths belong to `endpoints`"),
        (r#"{"network":{"allow":["a.*.test"]}}"#, "/network/allow/0", "wildcard"),
        (r#"{"network":{"allow":["a*.test"]}}"#, "/network/allow/0", "wildcard"),
        (r#"{"network":{"allow":["*a.test"]}}"#, "/network/allow/0", "wildcard"),
        (r#"{"network":{"allow":["*.*.test"]}}"#, "/network/allow/0", "wildcard"),
        (r#"{"network":{"allow":["*.10.0.0.1"]}}"#, "/network/allow/0", "wildcard"),
        (r#"{"network":{"allow":["**"]}}"#, "/network/allow/0", "wildcard"),
        (r#"{"network":{"allow":[".a.test"]}}"#, "/network/allow/0", "*.example.com"),
        (r#"{"network":{"allow":["a b"]}}"#, "/network/allow/0", "character"),
        (r#"{"network":{"allow":["a..b"]}}"#, "/network/allow/0", "empty label"),
        (r#"{"network":{"allow":["xn--good-test"]}}"#, "/network/allow/0", "IDNA"),
        (r#"{"network":{"allow":["user@a.test"]}}"#, "/network/allow/0", "character"),
        (r#"{"network":{"passthrough":["10.0.0.1"]}}"#, "/network/passthrough/0", "not addresses"),
        (r#"{"network":{"passthrough":["tcp://a.test"]}}"#, "/network/passthrough/0", "tcp://"),
        (r#"{"network_profile":"opnai"}"#, "/network_profile", "did you mean `openai`"),
        (r#"{"network_profile":"lockeddown"}"#, "/network_profile", "did you mean `locked-down`"),
        (r#"{"network_profile":["openai","opnai"]}"#, "/network_profile/1", "did you mean `openai`"),
        (r#"{"network_profile":["openai",7]}"#, "/network_profile/1", "a string, not a number"),
        (r#"{"network_profile":["openai","openai"]}"#, "/network_profile/1", "named twice"),
        (r#"{"network_profile":[]}"#, "/network_profile", "is empty"),
        (r#"{"$schema":7}"#, "/$schema", "a string, not a number"),
        // Credentials.
        (r#"{"credentials":[]}"#, "/credentials", "an object, not a list"),
        (r#"{"credentials":{"openai":7}}"#, "/credentials/openai", "not a number"),
        (r#"{"credentials":{"openai":""}}"#, "/credentials/openai", "empty"),
        (r#"{"credentials":{"openai":null}}"#, "/credentials/openai", "not null"),
        (r#"{"credentials":{"opnai":"k"}}"#, "/credentials/opnai", "did you mean `openai`"),
        (r#"{"credentials":{"mine":"k"}}"#, "/credentials/mine", "credentials_v2"),
        (r#"{"credentials":{"openai":"k","openai":"k"}}"#, "/credentials/openai", "twice"),
        (r#"{"credentials":{"openai":"a"},"credentials_v2":{"openai":{"key":"b"}}}"#, "/credentials_v2/openai", "one of the two"),
        (r#"{"credentials_v2":{"openai":"sk"}}"#, "/credentials_v2/openai", "an object, not a string"),
        (r#"{"credentials_v2":{"openai":{}}}"#, "/credentials_v2/openai", "`key` is missing"),
        (r#"{"credentials_v2":{"opnai":{"key":"k"}}}"#, "/credentials_v2/opnai", "`hosts` is required"),
        (r#"{"credentials_v2":{"openai":{"key":"k","endpoint":[]}}}"#, "/credentials_v2/openai/endpoint", "did you mean `endpoints`"),
        (r#"{"credentials_v2":{"":{"key":"k","hosts":["a.test"]}}}"#, "/credentials_v2/", "1 to 128 characters"),
        (r#"{"credentials_v2":{"openai":{"key":"k"},"other":{"key":"k","hosts":["a.test"],"env":"OPENAI_API_KEY"}}}"#, "/credentials_v2/other/env", "already carries"),
    ]
    .into_iter()
    .map(|(text, pointer, says)| (text.to_owned(), pointer, says))
    .chain([
        (custom(r#","key":"""#), "/credentials_v2/mine/key", "empty"),
        (custom(r#","key":null"#), "/credentials_v2/mine/key", "not null"),
        (custom(r#","key":"a b""#), "/credentials_v2/mine/key", "visible ASCII"),
        (custom(r#","key":"a\nb""#), "/credentials_v2/mine/key", "visible ASCII"),
        (custom(",\"key\":\"\u{e9}\""), "/credentials_v2/mine/key", "visible ASCII"),
        (custom(r#","key":{}"#), "/credentials_v2/mine/key", "one of the two fields"),
        (custom(r#","key":{"env":"A","file":"b"}"#), "/credentials_v2/mine/key", "one of the two fields"),
        (custom(r#","key":{"enf":"A"}"#), "/credentials_v2/mine/key/enf", "did you mean `env`"),
        (custom(r#","key":{"env":"1A"}"#), "/credentials_v2/mine/key/env", "name of a variable"),
        (custom(r#","key":{"env":"A-B"}"#), "/credentials_v2/mine/key/env", "name of a variable"),
        (custom(r#","key":{"env":7}"#), "/credentials_v2/mine/key/env", "a string, not a number"),
        (custom(r#","key":{"file":""}"#), "/credentials_v2/mine/key/file", "empty"),
        (custom(r#","key":{"file":["a"]}"#), "/credentials_v2/mine/key/file", "a string, not a list"),
        (custom(r#","key":"k","key":"l""#), "/credentials_v2/mine/key", "twice"),
        (custom(r#","key":"k","env":"a b""#), "/credentials_v2/mine/env", "name of a variable"),
        (custom(r#","key":"k","env":["A","B=C"]"#), "/credentials_v2/mine/env/1", "name of a variable"),
        (custom(r#","key":"k","env":7"#), "/credentials_v2/mine/env", "a string, not a number"),
        (custom(r#","key":"k","allow_plaintext":"yes""#), "/credentials_v2/mine/allow_plaintext", "true or false"),
        (custom(r#","key":"k","allow_plaintext":1"#), "/credentials_v2/mine/allow_plaintext", "true or false"),
        (custom(r#","key":"k","cookies":null"#), "/credentials_v2/mine/cookies", "true or false"),
        (custom(r#","key":"k","inject":"authorization""#), "/credentials_v2/mine/inject", "an object, not a string"),
        (custom(r#","key":"k","inject":{}"#), "/credentials_v2/mine/inject", "exactly one"),
        (custom(r#","key":"k","inject":{"header":"a","query":"b"}"#), "/credentials_v2/mine/inject", "exactly one"),
        (custom(r#","key":"k","inject":{"query":"b","format":"{key}"}"#), "/credentials_v2/mine/inject", "exactly one"),
        (custom(r#","key":"k","inject":{"format":"{key}"}"#), "/credentials_v2/mine/inject", "exactly one"),
        (custom(r#","key":"k","inject":{"header":"a b"}"#), "/credentials_v2/mine/inject/header", "name of an HTTP header"),
        (custom(r#","key":"k","inject":{"header":""}"#), "/credentials_v2/mine/inject/header", "name of an HTTP header"),
        (custom(r#","key":"k","inject":{"header":":path"}"#), "/credentials_v2/mine/inject/header", "name of an HTTP header"),
        (custom(r#","key":"k","inject":{"header":"Host"}"#), "/credentials_v2/mine/inject/header", "steers"),
        (custom(r#","key":"k","inject":{"header":"Transfer-Encoding"}"#), "/credentials_v2/mine/inject/header", "steers"),
        (custom(r#","key":"k","inject":{"header":"Sec-WebSocket-Protocol"}"#), "/credentials_v2/mine/inject/header", "steers"),
        (custom(r#","key":"k","inject":{"header":"a","format":"Bearer"}"#), "/credentials_v2/mine/inject/format", "{key}"),
        (custom(r#","key":"k","inject":{"header":"a","format":"{key}{key}"}"#), "/credentials_v2/mine/inject/format", "once"),
        (custom(r#","key":"k","inject":{"header":"a","format":"{key}\r\nx: y"}"#), "/credentials_v2/mine/inject/format", "visible ASCII"),
        (custom(r#","key":"k","inject":{"header":"a","format":"{other} {key}"}"#), "/credentials_v2/mine/inject/format", "once"),
        (custom(r#","key":"k","inject":{"basic":{}}"#), "/credentials_v2/mine/inject/basic", "`username` is missing"),
        (custom(r#","key":"k","inject":{"basic":"u"}"#), "/credentials_v2/mine/inject/basic", "an object, not a string"),
        (custom(r#","key":"k","inject":{"basic":{"user":"u"}}"#), "/credentials_v2/mine/inject/basic/user", "did you mean `username`"),
        (custom(r#","key":"k","inject":{"basic":{"username":"a:b"}}"#), "/credentials_v2/mine/inject/basic/username", "colon"),
        (custom(r#","key":"k","inject":{"query":"a b"}"#), "/credentials_v2/mine/inject/query", "query parameter"),
        (custom(r#","key":"k","inject":{"query":""}"#), "/credentials_v2/mine/inject/query", "query parameter"),
        // Hosts of a credential.
        (r#"{"credentials_v2":{"mine":{"key":"k","hosts":[]}}}"#.to_owned(), "/credentials_v2/mine/hosts", "empty"),
        (r#"{"credentials_v2":{"mine":{"key":"k","hosts":"a.test"}}}"#.to_owned(), "/credentials_v2/mine/hosts", "a list, not a string"),
        (r#"{"credentials_v2":{"mine":{"key":"k","hosts":["*"]}}}"#.to_owned(), "/credentials_v2/mine/hosts/0", "any host"),
        (r#"{"credentials_v2":{"mine":{"key":"k","hosts":["10.0.0.0/8"]}}}"#.to_owned(), "/credentials_v2/mine/hosts/0", "whole network"),
        (r#"{"credentials_v2":{"mine":{"key":"k","hosts":["tcp://a.test"]}}}"#.to_owned(), "/credentials_v2/mine/hosts/0", "tcp://"),
        (r#"{"credentials_v2":{"mine":{"key":"k","hosts":["https://a.test"]}}}"#.to_owned(), "/credentials_v2/mine/hosts/0", "scheme"),
        (r#"{"credentials_v2":{"openai":{"key":"k","hosts":["a..b"]}}}"#.to_owned(), "/credentials_v2/openai/hosts/0", "empty label"),
        // Endpoint rules.
        (custom(r#","key":"k","endpoints":{}"#), "/credentials_v2/mine/endpoints", "a list, not an object"),
        (custom(r#","key":"k","endpoints":null"#), "/credentials_v2/mine/endpoints", "a list, not null"),
        (endpoint(r#""GET /""#), "/credentials_v2/mine/endpoints/0", "an object, not a string"),
        (endpoint(r#"{"paths":["/"]}"#), "/credentials_v2/mine/endpoints/0", "`methods` is missing"),
        (endpoint(r#"{"methods":[]}"#), "/credentials_v2/mine/endpoints/0", "`paths` is missing"),
        (endpoint(r#"{"methods":[],"paths":["/"],"path":"/"}"#), "/credentials_v2/mine/endpoints/0/path", "did you mean `paths`"),
        (endpoint(r#"{"methods":"GET","paths":["/"]}"#), "/credentials_v2/mine/endpoints/0/methods", "a list, not a string"),
        (endpoint(r#"{"methods":["GE T"],"paths":["/"]}"#), "/credentials_v2/mine/endpoints/0/methods/0", "not an HTTP method"),
        (endpoint(r#"{"methods":[""],"paths":["/"]}"#), "/credentials_v2/mine/endpoints/0/methods/0", "not an HTTP method"),
        (endpoint(r#"{"methods":["*"],"paths":["/"]}"#), "/credentials_v2/mine/endpoints/0/methods/0", "empty list means any"),
        (endpoint(r#"{"methods":[null],"paths":["/"]}"#), "/credentials_v2/mine/endpoints/0/methods/0", "a string, not null"),
        (endpoint(r#"{"methods":[],"paths":[]}"#), "/credentials_v2/mine/endpoints/0/paths", "empty"),
        (endpoint(r#"{"methods":[],"paths":"/"}"#), "/credentials_v2/mine/endpoints/0/paths", "a list, not a string"),
        (endpoint(r#"{"methods":[],"paths":["/",7]}"#), "/credentials_v2/mine/endpoints/0/paths/1", "a string, not a number"),
        (endpoint(r#"{"methods":[],"paths":["v1"]}"#), "/credentials_v2/mine/endpoints/0/paths/0", "starts with `/`"),
        (endpoint(r#"{"methods":[],"paths":["/[a]"]}"#), "/credentials_v2/mine/endpoints/0/paths/0", "wildcards"),
        (endpoint(r#"{"methods":[],"paths":["/{id}"]}"#), "/credentials_v2/mine/endpoints/0/paths/0", "wildcards"),
        (endpoint(r#"{"methods":[],"paths":["/a/../b"]}"#), "/credentials_v2/mine/endpoints/0/paths/0", "`..`"),
        // Limits.
        (r#"{"limits":[]}"#.to_owned(), "/limits", "an object, not a list"),
        (r#"{"limits":{"conections":1}}"#.to_owned(), "/limits/conections", "did you mean `connections`"),
        (r#"{"limits":{"connections":0}}"#.to_owned(), "/limits/connections", "greater than zero"),
        (r#"{"limits":{"connections":-1}}"#.to_owned(), "/limits/connections", "whole number"),
        (r#"{"limits":{"connections":1.5}}"#.to_owned(), "/limits/connections", "whole number"),
        (r#"{"limits":{"connections":"1"}}"#.to_owned(), "/limits/connections", "whole number"),
        (r#"{"limits":{"connections":99999999999999999999}}"#.to_owned(), "/limits/connections", "whole number"),
        (r#"{"limits":{"connections":null}}"#.to_owned(), "/limits/connections", "whole number"),
    ])
    .collect();
    for (text, pointer, says) in &table {
        let shown: String = text.chars().take(120).collect();
        let seen = errors(text);
        let [error] = seen.as_slice() else { panic!("{shown}: {seen:#?}") };
        assert_eq!(error.pointer, *pointer, "{shown}: {error:?}");
        assert!(error.message.contains(says), "{shown}: {error:?}");
        assert!(
            !pointer.is_empty() && error.line == Some(1) || pointer.is_empty(),
            "{shown}: {error:?}"
        );
    }
    assert!(table.len() > 100);
}

#[test]
fn every_error_is_reported_with_its_line() {
    let text = "{\n  \"netwrok\": {},\n  \"network\": {\n    \"allow\": [\n      \"good.test\",\n      \
         \"a b\"\n    ]\n  },\n  \"credentials_v2\": {\n    \"opnai\": { \"key\": \"k\" },\n    \
         \"openai\": { \"key\": \"\", \"endpoints\": [ { \"methods\": [],\n      \"paths\": \
         [\"/a\", \"b\"] } ] }\n  },\n  \"limits\": { \"connections\": 0 }\n}\n";
    let seen: Vec<(String, Option<usize>)> =
        errors(text).into_iter().map(|error| (error.pointer, error.line)).collect();
    let expected = [
        ("/netwrok", 2),
        ("/network/allow/1", 6),
        ("/credentials_v2/opnai", 10),
        ("/credentials_v2/openai/key", 11),
        ("/credentials_v2/openai/endpoints/0/paths/1", 12),
        ("/limits/connections", 14),
    ];
    let expected: Vec<_> =
        expected.into_iter().map(|(pointer, line)| (pointer.to_owned(), Some(line))).collect();
    assert_eq!(seen, expected);
    let syntax = errors("{\n  \"image\": \"a\"\n  \"network\": {}\n}");
    assert_eq!(syntax.len(), 1);
    assert_eq!(syntax[0].line, Some(3));
    assert!(syntax[0].message.ends_with("(column 3)"), "{}", syntax[0].message);
}

#[test]
fn c11_no_message_ever_contains_a_key() {
    let secret = "sk-CANARY-0123456789abcdefghijABCDEFGHIJ";
    let documents = [
        r#"{"credentials":{"openai":["SECRET"]}}"#,
        r#"{"credentials":{"opnai":"SECRET"}}"#,
        r#"{"credentials":{"SECRET":"openai"}}"#,
        r#"{"credentials":"SECRET"}"#,
        r#"{"credentials_v2":{"openai":"SECRET"}}"#,
        r#"{"credentials_v2":{"SECRET":{"key":"openai"}}}"#,
        r#"{"credentials_v2":{"openai":{"key":["SECRET"]}}}"#,
        r#"{"credentials_v2":{"openai":{"key":{"SECRET":"x"}}}}"#,
        r#"{"credentials_v2":{"openai":{"key":{"env":"SECRET"}}}}"#,
        r#"{"credentials_v2":{"openai":{"key":{"literal":"SECRET"}}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"SECRET\n"}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"SECRET","key":"SECRET"}}}"#,
        r#"{"credentials_v2":{"openai":{"value":"SECRET"}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","env":"SECRET"}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","hosts":["SECRET SECRET"]}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","inject":{"header":"x","format":"Bearer SECRET"}}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","inject":{"header":"SECRET SECRET"}}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","endpoints":["SECRET"]}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","endpoints":[{"methods":["SECRET SECRET"],"paths":["SECRET"]}]}}}"#,
        r#"{"network":{"allow":["SECRET SECRET"]}}"#,
        r#"{"network_profile":"SECRET"}"#,
        r#"{"image":{"SECRET":1}}"#,
        r#"{"limits":{"connections":"SECRET"}}"#,
        r#"{"SECRET":1}"#,
        r#"{"credentials":{"openai":"SECRET""#,
        r#"{"credentials":{"openai":SECRET}}"#,
        r#"SECRET"#,
    ];
    for document in documents {
        let text = document.replace("SECRET", secret);
        let report = check(&text, &Catalogue::builtin());
        assert!(!report.errors.is_empty(), "{document}");
        for problem in report.errors.iter().chain(&report.warnings) {
            let shown = format!("{problem:?}");
            assert!(!shown.contains("CANARY"), "{document}: {}", shown.replace(secret, "SECRET"));
        }
    }
    // The `Debug` output of a policy that holds one does not show it either.
    let text = format!(r#"{{"credentials":{{"openai":"{secret}"}}}}"#);
    let document = Document::parse(&text).unwrap().document;
    let policy = Policy::compile(&document, &Catalogue::builtin()).unwrap();
    assert!(!format!("{document:?} {policy:?}").contains("CANARY"));
    let KeySource::Literal(key) = &policy.credentials()[0].key else { panic!() };
    assert_eq!(key.expose(), secret);
}

/// The mutation test of attack P3: each key of a valid policy renamed, or its value of another
/// type, is an error.
#[test]
fn p3_no_renamed_or_retyped_field_is_accepted() {
    let text = r#"{
      "image": "i",
      "network": { "allow": ["a.test"], "deny": ["*"], "passthrough": ["p.test"] },
      "credentials": { "groq": "k" },
      "credentials_v2": { "mine": { "key": { "env": "KEY" }, "hosts": ["a.test"], "env": "MINE", "allow_plaintext": false, "cookies": true,
        "inject": { "header": "x-key", "format": "{key}" }, "endpoints": [ { "methods": ["GET"], "paths": ["/a/b"] } ] },
        "other": { "key": { "file": "/k" }, "hosts": ["b.test"], "inject": { "basic": { "username": "u" } } },
        "third": { "key": "k", "hosts": ["c.test"], "inject": { "query": "q" } } },
      "limits": { "connections": 1, "idle_timeout_seconds": 2 }
    }"#;
    assert_eq!(errors(text), []);
    let document: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut pointers = Vec::new();
    collect("", &document, &mut pointers);
    // The names of credentials are the user's own: renaming one makes another credential, not a
    // mistake.
    let free = ["/credentials_v2/mine", "/credentials_v2/other", "/credentials_v2/third"];
    let mut mutations = 0;
    for pointer in &pointers {
        if !free.contains(&pointer.as_str()) {
            let mut renamed = document.clone();
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            let object = renamed.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            let value = object.remove(name).unwrap();
            object.insert(format!("{name}x"), value);
            assert!(!errors(&renamed.to_string()).is_empty(), "{pointer} renamed is accepted");
            mutations += 1;
        }
        for other in [
            serde_json::json!(null),
            serde_json::json!(7.5),
            serde_json::json!([[]]),
            serde_json::json!({"x": {}}),
        ] {
            let mut retyped = document.clone();
            *retyped.pointer_mut(pointer).unwrap() = other.clone();
            assert!(!errors(&retyped.to_string()).is_empty(), "{pointer} as {other} is accepted");
            mutations += 1;
        }
    }
    assert!(mutations > 120, "{mutations}");
    // The fields that a credential or a rule requires.
    for required in [
        "/credentials_v2/mine/key",
        "/credentials_v2/mine/hosts",
        "/credentials_v2/mine/endpoints/0/methods",
        "/credentials_v2/mine/endpoints/0/paths",
        "/credentials_v2/other/inject/basic/username",
    ] {
        let mut without = document.clone();
        let (parent, name) = required.rsplit_once('/').unwrap();
        without.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name);
        assert!(!errors(&without.to_string()).is_empty(), "{required} removed is accepted");
    }
}

fn collect(pointer: &str, value: &serde_json::Value, pointers: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (name, value) in object {
                let pointer = format!("{pointer}/{name}");
                collect(&pointer, value, pointers);
                pointers.push(pointer);
            }
        }
        serde_json::Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                collect(&format!("{pointer}/{index}"), value, pointers);
            }
        }
        _ => {}
    }
}

#[test]
fn the_simple_form_is_a_credential_without_endpoints() {
    let policy = super::policy(
        r#"{"credentials":{"openai":"sk-a","groq":{"env":"GROQ"},"xai":{"file":"/k"}}}"#,
    );
    let names: Vec<&str> =
        policy.credentials().iter().map(|credential| credential.name.as_str()).collect();
    assert_eq!(names, ["openai", "groq", "xai"]);
    assert!(matches!(&policy.credentials()[1].key, KeySource::Env(name) if name == "GROQ"));
    assert!(
        matches!(&policy.credentials()[2].key, KeySource::File(path) if path.to_str() == Some("/k"))
    );
    for method in ["GET", "POST", "PATCH"] {
        assert_eq!(
            super::outcome(&super::decide(&policy, method, "https://api.openai.com/any/path")),
            "allow"
        );
    }
}

#[test]
fn a_credential_takes_missing_fields_from_the_catalogue_or_the_defaults() {
    let policy = super::policy(
        r#"{"credentials_v2":{
            "openai":{"key":"k"},
            "anthropic":{"key":"k","hosts":["claude.test:8443"],"env":["A","B"]},
            "github":{"key":"k","inject":{"basic":{"username":"me"}},"cookies":true},
            "mine":{"key":"k","hosts":["mine.test"]},
            "head":{"key":"k","hosts":["head.test"],"inject":{"header":"X-Key","format":"Key {key}!"}},
            "ask":{"key":"k","hosts":["ask.test"],"inject":{"query":"api_key"}}}}"#,
    );
    let credential = |name: &str| policy.credential(policy.credential_named(name).unwrap());
    let header = |name: &str, prefix: &str, suffix: &str| Form::Header {
        name: name.to_owned(),
        prefix: prefix.to_owned(),
        suffix: suffix.to_owned(),
    };
    let openai = credential("openai");
    assert_eq!(openai.service.as_deref(), Some("openai"));
    assert_eq!(openai.forms, [header("authorization", "Bearer ", "")]);
    assert_eq!(openai.env, ["OPENAI_API_KEY"]);
    assert!(openai.placeholder.prefix.contains("proxy-managed"));
    let anthropic = credential("anthropic");
    assert_eq!(
        anthropic.forms,
        [header("x-api-key", "", ""), header("authorization", "Bearer ", "")]
    );
    assert_eq!(anthropic.env, ["A", "B"]);
    assert_eq!((anthropic.hosts.len(), anthropic.hosts[0].port), (1, Some(8443)));
    let github = credential("github");
    assert_eq!(github.forms, [Form::Basic { username: "me".to_owned() }]);
    assert_eq!(github.env, ["GITHUB_TOKEN", "GH_TOKEN"]);
    assert!(github.cookies);
    let mine = credential("mine");
    assert_eq!(mine.service, None);
    assert_eq!(mine.forms, [header("authorization", "Bearer ", "")]);
    assert!(mine.env.is_empty() && !mine.allow_plaintext && !mine.cookies);
    assert_eq!(credential("head").forms, [header("x-key", "Key ", "!")]);
    assert_eq!(credential("ask").forms, [Form::Query { name: "api_key".to_owned() }]);
    assert_eq!(mine.key_pointer, "/credentials_v2/mine/key");
}

#[test]
fn limits_have_defaults_and_are_typed() {
    assert_eq!(*super::policy("{}").limits(), Limits::default());
    let policy = super::policy(
        r#"{"limits":{"connections":1,"requests":2,"header_bytes":3,"headers":4,"body_bytes":5,"header_timeout_seconds":6,"idle_timeout_seconds":7,
            "response_timeout_seconds":14,"tunnel_idle_timeout_seconds":15,
            "total_timeout_seconds":8,"mints_per_second":9,"mints_burst":10,"requests_per_second_per_host":11,"bytes_up_per_host":12,"audit_backlog":13}}"#,
    );
    let expected = Limits {
        connections: 1,
        requests: 2,
        header_bytes: 3,
        headers: 4,
        body_bytes: Some(5),
        header_timeout: Duration::from_secs(6),
        idle_timeout: Duration::from_secs(7),
        response_timeout: Duration::from_secs(14),
        tunnel_idle_timeout: Duration::from_secs(15),
        total_timeout: Some(Duration::from_secs(8)),
        mints_per_second: 9,
        mints_burst: 10,
        requests_per_second_per_host: Some(11),
        bytes_up_per_host: Some(12),
        audit_backlog: 13,
    };
    assert_eq!(*policy.limits(), expected);
}

#[test]
fn a_document_of_ten_thousand_rules_loads() {
    let hosts: Vec<String> = (0..10_000).map(|n| format!("\"h{n}.good.test\"")).collect();
    let paths: Vec<String> = (0..10_000).map(|n| format!("\"/v1/r{n}/*/x\"")).collect();
    let text = format!(
        r#"{{"network":{{"allow":[{}]}},"credentials_v2":{{"c":{{"key":"k","hosts":["h1.good.test"],"endpoints":[{{"methods":["GET"],"paths":[{}]}}]}}}}}}"#,
        hosts.join(","),
        paths.join(",")
    );
    assert!(text.len() < MAX_BYTES);
    let policy = super::policy(&text);
    assert_eq!(
        super::outcome(&super::decide(&policy, "GET", "https://h1.good.test/v1/r9999/a/x")),
        "allow"
    );
}

#[test]
fn each_of_thousands_of_credentials_is_found_by_name() {
    let entry = |n: usize| {
        format!(r#""c{n}":{{"key":"k-{n}-0123456789","hosts":["h{n}.example.test"],"env":[]}}"#)
    };
    let all: Vec<String> = (0..8_000).map(entry).collect();
    let policy = super::policy(&format!(r#"{{"credentials_v2":{{{}}}}}"#, all.join(",")));
    for n in 0..8_000 {
        let id = policy.credential_named(&format!("c{n}")).unwrap();
        assert_eq!(policy.credential(id).name, format!("c{n}"));
    }
    assert!(policy.credential_named("c8000").is_none());
}
