//! The policy document (attack P3): every error is reported, each at its position, none with a key
//! in it.

use std::time::Duration;

use super::super::{
    Catalogue, Document, Form, KeySource, Limits, MAX_BYTES, Policy, Problem, check,
};

fn errors(text: &str) -> Vec<Problem> {
    check(text, &Catalogue::builtin()).errors
}

/// A document, the pointer of its one mistake, and what its error says.
type Mistake = (String, String, &'static str);

fn at(pointer: &str, document: &str, says: &'static str) -> Mistake {
    (document.to_owned(), pointer.to_owned(), says)
}

/// A mistake in the one rule of a list of `network`.
fn network(list: &str, rule: &str, says: &'static str) -> Mistake {
    let document = format!(r#"{{"network":{{"{list}":["{rule}"]}}}}"#);
    at(&format!("/network/{list}/0"), &document, says)
}

/// A mistake in these entries of `credentials_v2`.
fn v2(entries: &str, within: &str, says: &'static str) -> Mistake {
    let document = format!(r#"{{"credentials_v2":{{{entries}}}}}"#);
    at(&format!("/credentials_v2/{within}"), &document, says)
}

/// A mistake in these fields of a credential with a custom name.
fn mine(fields: &str, within: &str, says: &'static str) -> Mistake {
    let entry = format!(r#""mine":{{"hosts":["mine.test"],{fields}}}"#);
    v2(&entry, &format!("mine/{within}"), says)
}

/// A mistake in the hosts of a credential.
fn hosts(hosts: &str, within: &str, says: &'static str) -> Mistake {
    let entry = format!(r#""mine":{{"key":"k","hosts":{hosts}}}"#);
    v2(&entry, &format!("mine/hosts{within}"), says)
}

/// A mistake in how a credential is injected.
fn inject(inject: &str, within: &str, says: &'static str) -> Mistake {
    let fields = format!(r#""key":"k","inject":{inject}"#);
    mine(&fields, &format!("inject{within}"), says)
}

/// A mistake in the one endpoint rule of a credential.
fn rule(rule: &str, within: &str, says: &'static str) -> Mistake {
    let fields = format!(r#""key":"k","endpoints":[{rule}]"#);
    mine(&fields, &format!("endpoints/0{within}"), says)
}

#[test]
fn p3_every_mistake_is_an_error_at_its_place() {
    let long = format!("{{\"image\":\"{}\"}}", "x".repeat(MAX_BYTES));
    let deep = format!("{{\"image\":{}1{}}}", "[".repeat(64), "]".repeat(64));
    let table = [
        // The document.
        at("", "", "the document is empty"),
        at("", "network:\n  allow: []\n", "looks like YAML"),
        at("", "[network]\nallow = []\n", "looks like TOML"),
        at("", "{", "not valid JSON"),
        at("", "{}}", "not valid JSON"),
        at("", "{'a':1}", "not valid JSON"),
        at("", "{\"image\":\"a\",,}", "not valid JSON"),
        at("", "\u{feff}{}", "not valid JSON"),
        at("", "{} / no", "not valid JSON"),
        at("", "[]", "an object, not a list"),
        at("", "null", "an object, not null"),
        at("", "7", "an object, not a number"),
        at("", &long, "more than 1048576 bytes"),
        at("", &deep, "deeper than 64"),
        at("/netwrok", r#"{"netwrok":{}}"#, "did you mean `network`"),
        at("/Network", r#"{"Network":{}}"#, "did you mean `network`"),
        at("/credentials-v2", r#"{"credentials-v2":{}}"#, "did you mean `credentials_v2`"),
        at("/a~1b~0c", r#"{"a/b~c":{}}"#, "unknown field"),
        at("/image", r#"{"image":1}"#, "a string, not a number"),
        at("/image", r#"{"image":null}"#, "a string, not null"),
        at("/image", r#"{"image":"a","image":"b"}"#, "twice"),
        at("/image", r#"{"image":"\ud800"}"#, "surrogate"),
        // The network.
        at("/network", r#"{"network":[]}"#, "an object, not a list"),
        at("/network", r#"{"network":null}"#, "an object, not null"),
        at("/network/alow", r#"{"network":{"alow":[]}}"#, "did you mean `allow`"),
        at("/network/allow", r#"{"network":{"allow":"a.test"}}"#, "a list, not a string"),
        at("/network/allow", r#"{"network":{"allow":{}}}"#, "a list, not an object"),
        at("/network/allow", r#"{"network":{"allow":[],"allow":["*"]}}"#, "twice"),
        at("/network/allow/1", r#"{"network":{"allow":["a.test",7]}}"#, "a string, not a number"),
        at("/network/allow/0", r#"{"network":{"allow":[["a.test"]]}}"#, "a string, not a list"),
        network("deny", "", "empty"),
        network("deny", "10.0.0.0/33", "CIDR"),
        network("deny", "10.0.0.0/", "CIDR"),
        network("deny", "10.0.0.0/-1", "CIDR"),
        network("deny", "10.0.0/8", "CIDR"),
        network("deny", "fd00::/129", "CIDR"),
        network("deny", "a.test/8", "paths belong to `endpoints`"),
        network("deny", "10.0.0.256", "IPv4"),
        network("deny", "fd00::x", "IPv6"),
        network("deny", "[10.0.0.1]", "IPv6"),
        network("deny", "[fd00::1", "IPv6"),
        network("deny", "fe80::1%eth0", "IPv6"),
        network("allow", "a.test:0", "port"),
        network("allow", "a.test:99999", "port"),
        network("allow", "a.test:https", "port"),
        network("allow", "a.test:", "port"),
        network("allow", "https://a.test", "scheme"),
        network("allow", "tcp://tcp://a.test", "scheme"),
        network("allow", "tcp://", "empty"),
        network("allow", "udp://a.test", "scheme"),
        network("allow", "a.test/path", "paths belong to `endpoints`"),
        network("allow", "a.*.test", "wildcard"),
        network("allow", "a*.test", "wildcard"),
        network("allow", "*a.test", "wildcard"),
        network("allow", "*.*.test", "wildcard"),
        network("allow", "*.10.0.0.1", "wildcard"),
        network("allow", "**", "wildcard"),
        network("allow", ".a.test", "*.example.com"),
        network("allow", "a b", "character"),
        network("allow", "a..b", "empty label"),
        network("allow", "xn--good-test", "IDNA"),
        network("allow", "user@a.test", "character"),
        network("passthrough", "10.0.0.1", "not addresses"),
        network("passthrough", "tcp://a.test", "tcp://"),
        at("/network_profile", r#"{"network_profile":"opnai"}"#, "did you mean `openai`"),
        at("/network_profile", r#"{"network_profile":"lockeddown"}"#, "did you mean `locked-down`"),
        at(
            "/network_profile/1",
            r#"{"network_profile":["openai","opnai"]}"#,
            "did you mean `openai`",
        ),
        at("/network_profile/1", r#"{"network_profile":["openai",7]}"#, "a string, not a number"),
        at("/network_profile/1", r#"{"network_profile":["openai","openai"]}"#, "named twice"),
        at("/network_profile", r#"{"network_profile":[]}"#, "is empty"),
        at("/$schema", r#"{"$schema":7}"#, "a string, not a number"),
        // Credentials.
        at("/credentials", r#"{"credentials":[]}"#, "an object, not a list"),
        at("/credentials/openai", r#"{"credentials":{"openai":7}}"#, "not a number"),
        at("/credentials/openai", r#"{"credentials":{"openai":""}}"#, "empty"),
        at("/credentials/openai", r#"{"credentials":{"openai":null}}"#, "not null"),
        at("/credentials/opnai", r#"{"credentials":{"opnai":"k"}}"#, "did you mean `openai`"),
        at("/credentials/mine", r#"{"credentials":{"mine":"k"}}"#, "credentials_v2"),
        at("/credentials/openai", r#"{"credentials":{"openai":"k","openai":"k"}}"#, "twice"),
        at(
            "/credentials_v2/openai",
            r#"{"credentials":{"openai":"a"},"credentials_v2":{"openai":{"key":"b"}}}"#,
            "one of the two",
        ),
        v2(r#""openai":"sk""#, "openai", "an object, not a string"),
        v2(r#""openai":{}"#, "openai", "`key` is missing"),
        v2(r#""opnai":{"key":"k"}"#, "opnai", "`hosts` is required"),
        v2(r#""openai":{"key":"k","endpoint":[]}"#, "openai/endpoint", "did you mean `endpoints`"),
        v2(r#""":{"key":"k","hosts":["a.test"]}"#, "", "1 to 128 characters"),
        v2(
            r#""openai":{"key":"k"},"other":{"key":"k","hosts":["a.test"],"env":"OPENAI_API_KEY"}"#,
            "other/env",
            "already carries",
        ),
        mine(r#""key":"""#, "key", "empty"),
        mine(r#""key":null"#, "key", "not null"),
        mine(r#""key":"a b""#, "key", "visible ASCII"),
        mine(r#""key":"a\nb""#, "key", "visible ASCII"),
        mine("\"key\":\"\u{e9}\"", "key", "visible ASCII"),
        mine(r#""key":{}"#, "key", "one of the two fields"),
        mine(r#""key":{"env":"A","file":"b"}"#, "key", "one of the two fields"),
        mine(r#""key":{"enf":"A"}"#, "key/enf", "did you mean `env`"),
        mine(r#""key":{"env":"1A"}"#, "key/env", "name of a variable"),
        mine(r#""key":{"env":"A-B"}"#, "key/env", "name of a variable"),
        mine(r#""key":{"env":7}"#, "key/env", "a string, not a number"),
        mine(r#""key":{"file":""}"#, "key/file", "empty"),
        mine(r#""key":{"file":["a"]}"#, "key/file", "a string, not a list"),
        mine(r#""key":"k","key":"l""#, "key", "twice"),
        mine(r#""key":"k","env":"a b""#, "env", "name of a variable"),
        mine(r#""key":"k","env":["A","B=C"]"#, "env/1", "name of a variable"),
        mine(r#""key":"k","env":7"#, "env", "a string, not a number"),
        mine(r#""key":"k","allow_plaintext":"yes""#, "allow_plaintext", "true or false"),
        mine(r#""key":"k","allow_plaintext":1"#, "allow_plaintext", "true or false"),
        mine(r#""key":"k","cookies":null"#, "cookies", "true or false"),
        inject(r#""authorization""#, "", "an object, not a string"),
        inject(r#"{}"#, "", "exactly one"),
        inject(r#"{"header":"a","query":"b"}"#, "", "exactly one"),
        inject(r#"{"query":"b","format":"{key}"}"#, "", "exactly one"),
        inject(r#"{"format":"{key}"}"#, "", "exactly one"),
        inject(r#"{"header":"a b"}"#, "/header", "name of an HTTP header"),
        inject(r#"{"header":""}"#, "/header", "name of an HTTP header"),
        inject(r#"{"header":":path"}"#, "/header", "name of an HTTP header"),
        inject(r#"{"header":"Host"}"#, "/header", "steers"),
        inject(r#"{"header":"Transfer-Encoding"}"#, "/header", "steers"),
        inject(r#"{"header":"Sec-WebSocket-Protocol"}"#, "/header", "steers"),
        inject(r#"{"header":"a","format":"Bearer"}"#, "/format", "{key}"),
        inject(r#"{"header":"a","format":"{key}{key}"}"#, "/format", "once"),
        inject(r#"{"header":"a","format":"{key}\r\nx: y"}"#, "/format", "visible ASCII"),
        inject(r#"{"header":"a","format":"{other} {key}"}"#, "/format", "once"),
        inject(r#"{"basic":{}}"#, "/basic", "`username` is missing"),
        inject(r#"{"basic":"u"}"#, "/basic", "an object, not a string"),
        inject(r#"{"basic":{"user":"u"}}"#, "/basic/user", "did you mean `username`"),
        inject(r#"{"basic":{"username":"a:b"}}"#, "/basic/username", "colon"),
        inject(r#"{"query":"a b"}"#, "/query", "query parameter"),
        inject(r#"{"query":""}"#, "/query", "query parameter"),
        // Hosts of a credential.
        hosts(r#"[]"#, "", "empty"),
        hosts(r#""a.test""#, "", "a list, not a string"),
        hosts(r#"["*"]"#, "/0", "any host"),
        hosts(r#"["10.0.0.0/8"]"#, "/0", "whole network"),
        hosts(r#"["tcp://a.test"]"#, "/0", "tcp://"),
        hosts(r#"["https://a.test"]"#, "/0", "scheme"),
        v2(r#""openai":{"key":"k","hosts":["a..b"]}"#, "openai/hosts/0", "empty label"),
        // Endpoint rules.
        mine(r#""key":"k","endpoints":{}"#, "endpoints", "a list, not an object"),
        mine(r#""key":"k","endpoints":null"#, "endpoints", "a list, not null"),
        rule(r#""GET /""#, "", "an object, not a string"),
        rule(r#"{"paths":["/"]}"#, "", "`methods` is missing"),
        rule(r#"{"methods":[]}"#, "", "`paths` is missing"),
        rule(r#"{"methods":[],"paths":["/"],"path":"/"}"#, "/path", "did you mean `paths`"),
        rule(r#"{"methods":"GET","paths":["/"]}"#, "/methods", "a list, not a string"),
        rule(r#"{"methods":["GE T"],"paths":["/"]}"#, "/methods/0", "not an HTTP method"),
        rule(r#"{"methods":[""],"paths":["/"]}"#, "/methods/0", "not an HTTP method"),
        rule(r#"{"methods":["*"],"paths":["/"]}"#, "/methods/0", "empty list means any"),
        rule(r#"{"methods":[null],"paths":["/"]}"#, "/methods/0", "a string, not null"),
        rule(r#"{"methods":[],"paths":[]}"#, "/paths", "empty"),
        rule(r#"{"methods":[],"paths":"/"}"#, "/paths", "a list, not a string"),
        rule(r#"{"methods":[],"paths":["/",7]}"#, "/paths/1", "a string, not a number"),
        rule(r#"{"methods":[],"paths":["v1"]}"#, "/paths/0", "starts with `/`"),
        rule(r#"{"methods":[],"paths":["/[a]"]}"#, "/paths/0", "wildcards"),
        rule(r#"{"methods":[],"paths":["/{id}"]}"#, "/paths/0", "wildcards"),
        rule(r#"{"methods":[],"paths":["/a/../b"]}"#, "/paths/0", "`..`"),
        // Limits.
        at("/limits", r#"{"limits":[]}"#, "an object, not a list"),
        at("/limits/conections", r#"{"limits":{"conections":1}}"#, "did you mean `connections`"),
        at("/limits/connections", r#"{"limits":{"connections":0}}"#, "greater than zero"),
        at("/limits/connections", r#"{"limits":{"connections":-1}}"#, "whole number"),
        at("/limits/connections", r#"{"limits":{"connections":1.5}}"#, "whole number"),
        at("/limits/connections", r#"{"limits":{"connections":"1"}}"#, "whole number"),
        at(
            "/limits/connections",
            r#"{"limits":{"connections":99999999999999999999}}"#,
            "whole number",
        ),
        at("/limits/connections", r#"{"limits":{"connections":null}}"#, "whole number"),
    ];
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
    let text = r#"{
  "netwrok": {},
  "network": {
    "allow": [
      "good.test",
      "a b"
    ]
  },
  "credentials_v2": {
    "opnai": { "key": "k" },
    "openai": { "key": "", "endpoints": [ { "methods": [],
      "paths": ["/a", "b"] } ] }
  },
  "limits": { "connections": 0 }
}
"#;
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
        r#"{"credentials_v2":{"openai":{"key":"k",
            "inject":{"header":"x","format":"Bearer SECRET"}}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","inject":{"header":"SECRET SECRET"}}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k","endpoints":["SECRET"]}}}"#,
        r#"{"credentials_v2":{"openai":{"key":"k",
            "endpoints":[{"methods":["SECRET SECRET"],"paths":["SECRET"]}]}}}"#,
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
      "credentials_v2": {
        "mine": { "key": { "env": "KEY" }, "hosts": ["a.test"], "env": "MINE",
                  "allow_plaintext": false, "cookies": true,
                  "inject": { "header": "x-key", "format": "{key}" },
                  "endpoints": [ { "methods": ["GET"], "paths": ["/a/b"] } ] },
        "other": { "key": { "file": "/k" }, "hosts": ["b.test"],
                   "inject": { "basic": { "username": "u" } } },
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
            "head":{"key":"k","hosts":["head.test"],
                    "inject":{"header":"X-Key","format":"Key {key}!"}},
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
        r#"{"limits":{"connections":1,"requests":2,"header_bytes":3,"headers":4,"body_bytes":5,
            "header_timeout_seconds":6,"idle_timeout_seconds":7,
            "response_timeout_seconds":14,"tunnel_idle_timeout_seconds":15,
            "total_timeout_seconds":8,"mints_per_second":9,"mints_burst":10,
            "requests_per_second_per_host":11,"bytes_up_per_host":12,"audit_backlog":13}}"#,
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
        r#"{{"network":{{"allow":[{}]}},"credentials_v2":{{"c":{{"key":"k","hosts":["h1.good.test"],
            "endpoints":[{{"methods":["GET"],"paths":[{}]}}]}}}}}}"#,
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
