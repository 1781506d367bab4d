//! Decisions, from the request's side.

use super::super::{Decision, Request, Scheme};
use super::{decide, decide_with, host, outcome, policy};

const EXAMPLE: &str = r#"{
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
                 "endpoints": [ { "methods": [], "paths": ["/v2/invoices/*"] } ] }
  }
}"#;

#[test]
fn the_documented_example_decides_as_documented() {
    let policy = policy(EXAMPLE);
    let table = [
        ("POST", "https://api.openai.com/v1/chat/completions", "allow"),
        ("GET", "https://api.openai.com/v1/chat/completions", "endpoint_denied"),
        ("GET", "https://api.openai.com/v1/models", "allow"),
        ("GET", "https://api.openai.com/v1/models/gpt-4", "allow"),
        ("GET", "https://api.openai.com/v1/models-admin", "endpoint_denied"),
        ("get", "https://api.openai.com/v1/models", "endpoint_denied"),
        ("GET", "https://api.openai.com/v1/%6dodels", "allow"),
        ("GET", "https://api.openai.com/v1/models/../admin", "path_ambiguous"),
        ("CONNECT", "https://api.openai.com/v1/models", "method_refused"),
        ("GET", "http://api.openai.com/v1/models", "host_denied_or_plaintext"),
        ("GET", "https://evil.example.org/", "host_denied"),
        ("DELETE", "https://billing.example.com/v2/invoices/7/lines/1", "allow"),
        ("GET", "https://billing.example.com/v2/invoices", "endpoint_denied"),
        ("GET", "https://billing.example.com/v2/invoices/", "endpoint_denied"),
        ("GET", "https://docs.example.com/", "allow"),
        ("GET", "https://example.com/", "host_denied"),
        ("GET", "https://10.1.2.3/", "allow"),
        ("GET", "https://10.2.2.3/", "host_denied"),
    ];
    for (method, url, expected) in table {
        let seen = decide(&policy, method, url);
        let expected =
            if expected == "host_denied_or_plaintext" { "plaintext_denied" } else { expected };
        assert_eq!(outcome(&seen), expected, "{method} {url}: {seen:?}");
    }
    assert_eq!(outcome(&policy.decide_raw(&host("db.example.com"), 5432)), "allow");
    assert_eq!(outcome(&policy.decide_raw(&host("docs.example.com"), 443)), "protocol_denied");
}

/// Two credentials that share a host, a credential that permits plaintext, and one for a service.
const KEYS: &str = r#"{
  "network": { "allow": ["*"], "deny": ["denied.test", "denied-too.test"] },
  "credentials_v2": {
    "a":     { "key": "ka",
               "hosts": ["shared.test", "only-a.test", "port.test:8443", "*.wild.test"],
               "endpoints": [ { "methods": ["GET"], "paths": ["/a"] } ] },
    "b":     { "key": "kb", "hosts": ["shared.test"], "inject": { "query": "key" } },
    "plain": { "key": "kp", "hosts": ["plain.test", "plain-port.test:8080"],
               "allow_plaintext": true },
    "ip":    { "key": "ki", "hosts": ["9.9.9.9:8443"] },
    "none":  { "key": "kn", "hosts": ["none.test"], "endpoints": [] },
    "deny":  { "key": "kd", "hosts": ["denied.test"] }
  }
}"#;

#[test]
fn credentials_govern_their_hosts_and_ports_and_nothing_else() {
    let policy = policy(KEYS);
    /// Method, URL, presented, outcome, credential.
    type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, Option<&'a str>);
    let table: &[Case<'_>] = &[
        ("GET", "https://only-a.test/a", &[], "allow", Some("a")),
        ("GET", "https://only-a.test/a", &["a"], "allow", Some("a")),
        ("GET", "https://only-a.test/a", &["a", "a"], "allow", Some("a")),
        ("GET", "https://only-a.test./a", &[], "allow", Some("a")),
        ("GET", "https://ONLY-A.test:443/a", &[], "allow", Some("a")),
        ("GET", "https://only-a.test/a", &["b"], "credential_misuse", Some("b")),
        ("GET", "https://only-a.test/a", &["a", "b"], "credential_misuse", Some("b")),
        ("GET", "https://only-a.test:8443/a", &[], "allow", None),
        ("GET", "https://only-a.test:8443/anything", &[], "allow", None),
        ("GET", "https://only-a.test:8443/a", &["a"], "credential_misuse", Some("a")),
        ("GET", "http://only-a.test/a", &[], "plaintext_denied", Some("a")),
        ("GET", "http://only-a.test:8080/a", &[], "plaintext_denied", Some("a")),
        ("GET", "http://only-a.test:443/a", &[], "plaintext_denied", Some("a")),
        ("GET", "http://only-a.test/a", &["a"], "plaintext_denied", Some("a")),
        ("GET", "https://port.test:8443/a", &[], "allow", Some("a")),
        ("GET", "https://port.test/a", &[], "allow", None),
        ("GET", "https://port.test/a", &["a"], "credential_misuse", Some("a")),
        ("GET", "http://port.test:8443/a", &[], "plaintext_denied", Some("a")),
        ("GET", "https://x.wild.test/a", &[], "allow", Some("a")),
        ("GET", "https://x.y.wild.test/a", &[], "allow", Some("a")),
        ("GET", "https://wild.test/a", &["a"], "credential_misuse", Some("a")),
        ("GET", "https://evilwild.test/a", &["a"], "credential_misuse", Some("a")),
        ("GET", "https://shared.test/a", &[], "credential_ambiguous", None),
        ("GET", "https://shared.test/a", &["a"], "allow", Some("a")),
        ("GET", "https://shared.test/b", &["a"], "endpoint_denied", Some("a")),
        ("GET", "https://shared.test/b", &["b"], "allow", Some("b")),
        ("DELETE", "https://shared.test/anything", &["b"], "allow", Some("b")),
        ("GET", "https://shared.test/a", &["a", "b"], "credential_ambiguous", None),
        ("GET", "https://shared.test/a", &["plain"], "credential_misuse", Some("plain")),
        ("GET", "http://shared.test/a", &["b"], "plaintext_denied", Some("b")),
        ("GET", "https://plain.test/x", &[], "allow", Some("plain")),
        ("GET", "http://plain.test/x", &[], "allow", Some("plain")),
        ("GET", "http://plain.test:8080/x", &[], "plaintext_denied", Some("plain")),
        ("GET", "http://plain-port.test:8080/x", &[], "allow", Some("plain")),
        ("GET", "http://plain-port.test/x", &[], "plaintext_denied", Some("plain")),
        ("GET", "https://9.9.9.9:8443/x", &[], "allow", Some("ip")),
        ("GET", "https://[::ffff:9.9.9.9]:8443/x", &[], "allow", Some("ip")),
        ("GET", "https://0x09090909:8443/x", &[], "allow", Some("ip")),
        ("GET", "https://[64:ff9b::909:909]:8443/x", &[], "allow", None),
        ("GET", "https://[64:ff9b::909:909]:8443/x", &["ip"], "credential_misuse", Some("ip")),
        ("GET", "https://9.9.9.9/x", &["ip"], "credential_misuse", Some("ip")),
        ("GET", "https://none.test/x", &[], "endpoint_denied", Some("none")),
        ("GET", "https://denied.test/x", &[], "host_denied", None),
        ("GET", "https://denied.test/x", &["deny"], "host_denied", None),
        ("GET", "http://denied.test/x", &[], "host_denied", None),
        // A leak, whatever the network filter decides about its destination.
        ("GET", "https://denied.test/x", &["a"], "credential_misuse", Some("a")),
        ("GET", "https://denied.test/x", &["deny", "a"], "credential_misuse", Some("a")),
        ("GET", "http://denied.test/x", &["a"], "credential_misuse", Some("a")),
        ("GET", "https://denied-too.test/x", &["a"], "credential_misuse", Some("a")),
        ("GET", "http://denied-too.test/x", &["b"], "credential_misuse", Some("b")),
        ("GET", "https://denied-too.test/x", &[], "host_denied", None),
        ("GET", "http://169.254.169.254/proxy/nobody/x", &["a"], "host_denied", None),
        ("GET", "https://other.test/x", &[], "allow", None),
        ("GET", "http://other.test/x", &[], "allow", None),
        ("GET", "https://other.test/x", &["a"], "credential_misuse", Some("a")),
        ("GET", "http://other.test/x", &["b"], "credential_misuse", Some("b")),
    ];
    for (method, url, presented, expected, credential) in table {
        let seen = decide_with(&policy, method, url, &[], presented);
        assert_eq!(outcome(&seen), *expected, "{method} {url} {presented:?}: {seen:?}");
        let id = match &seen {
            Decision::Allow(allow) => allow.credential,
            Decision::Deny(deny) => deny.credential,
        };
        assert_eq!(
            id.map(|id| policy.credential(id).name.as_str()),
            *credential,
            "{method} {url} {presented:?}"
        );
    }
}

#[test]
fn the_checks_run_in_order_and_name_their_filter() {
    let policy = policy(KEYS);
    let table = [
        // The method is checked first, on every host.
        ("CONNECT", "https://denied.test/../x", "method_refused", 405, "request"),
        ("TRACE", "https://other.test/", "method_refused", 405, "request"),
        ("trace", "https://other.test/", "method_refused", 405, "request"),
        ("Connect", "https://only-a.test/a", "method_refused", 405, "request"),
        ("", "https://other.test/", "request_malformed", 400, "request"),
        ("GE T", "https://other.test/", "request_malformed", 400, "request"),
        ("GET\r\n", "https://other.test/", "request_malformed", 400, "request"),
        ("G\u{e9}T", "https://other.test/", "request_malformed", 400, "request"),
        // The path is checked before the network filter, on governed hosts.
        ("GET", "https://denied.test/../x", "path_ambiguous", 400, "request"),
        ("GET", "http://only-a.test/%2e%2e/a", "path_ambiguous", 400, "request"),
        ("GET", "https://none.test/%zz", "path_ambiguous", 400, "request"),
        // The network filter runs before the credential is chosen.
        ("GET", "http://denied.test/x", "host_denied", 403, "network"),
        ("GET", "http://only-a.test/b", "plaintext_denied", 403, "credential"),
        ("GET", "https://shared.test/b", "credential_ambiguous", 403, "credential"),
        ("GET", "https://only-a.test/b", "endpoint_denied", 403, "endpoint"),
    ];
    for (method, url, expected, status, filter) in table {
        let seen = decide(&policy, method, url);
        let Decision::Deny(deny) = &seen else { panic!("{method} {url} is permitted") };
        assert_eq!(
            (deny.reason.as_str(), deny.status, deny.filter.as_str()),
            (expected, status, filter),
            "{method} {url}"
        );
        assert!(!deny.message.is_empty());
    }
}

#[test]
fn the_judged_path_is_the_forwarded_path() {
    let policy = policy(KEYS);
    let table = [
        // Governed: the canonical form.
        ("https://only-a.test/%61/%7e", "/a/~"),
        ("https://only-a.test/a/x%2fy", "/a/x%2Fy"),
        ("https://only-a.test/a?b=%2e%2e", "/a"),
        ("https://plain.test/%41", "/A"),
        // Not governed: exactly as sent.
        ("https://other.test/%61/../b", "/%61/../b"),
        ("https://other.test/a\\b", "/a\\b"),
        ("https://other.test/%zz", "/%zz"),
        ("https://only-a.test:8443/%2e%2e/", "/%2e%2e/"),
    ];
    for (url, path) in table {
        let seen = decide(&policy, "GET", url);
        let Decision::Allow(allow) = &seen else { panic!("{url}: {seen:?}") };
        let sent = &url[url[8..].find('/').unwrap() + 8..];
        assert_eq!(allow.path.text(sent), path, "{url}");
    }
}

#[test]
fn r3_method_overrides_may_not_ask_for_more_than_the_rules() {
    let policy = policy(
        r#"{"credentials_v2":{
            "ro":{"key":"k","hosts":["ro.test"],
                  "endpoints":[{"methods":["GET","HEAD"],"paths":["/v1"]},
                               {"methods":["POST"],"paths":["/v1/search"]}]},
            "rw":{"key":"k","hosts":["rw.test"]}}}"#,
    );
    let table: &[(&str, &str, &[&str], &str)] = &[
        ("GET", "https://ro.test/v1/x", &[], "allow"),
        ("GET", "https://ro.test/v1/x", &["GET"], "allow"),
        ("GET", "https://ro.test/v1/x", &["get"], "allow"),
        ("GET", "https://ro.test/v1/x", &["HEAD"], "allow"),
        ("GET", "https://ro.test/v1/x", &["DELETE"], "endpoint_denied"),
        ("GET", "https://ro.test/v1/x", &["delete"], "endpoint_denied"),
        ("GET", "https://ro.test/v1/x", &[" Delete\t"], "endpoint_denied"),
        ("GET", "https://ro.test/v1/x", &["GET", "DELETE"], "endpoint_denied"),
        ("GET", "https://ro.test/v1/x", &["GET, DELETE"], "endpoint_denied"),
        ("GET", "https://ro.test/v1/x", &[""], "endpoint_denied"),
        ("GET", "https://ro.test/v1/x", &["TRACE"], "endpoint_denied"),
        ("POST", "https://ro.test/v1/search", &["GET"], "allow"),
        ("POST", "https://ro.test/v1/search", &["PUT"], "endpoint_denied"),
        ("GET", "https://rw.test/x", &["DELETE"], "allow"),
        ("GET", "https://rw.test/x", &["CONNECT"], "endpoint_denied"),
        ("GET", "https://rw.test/x", &["no method"], "endpoint_denied"),
        ("GET", "https://free.test/x", &["DELETE"], "allow"),
        // Methods are compared as sent, and HEAD and OPTIONS are not implied by GET.
        ("get", "https://ro.test/v1/x", &[], "endpoint_denied"),
        ("Get", "https://ro.test/v1/x", &[], "endpoint_denied"),
        ("HEAD", "https://ro.test/v1/x", &[], "allow"),
        ("OPTIONS", "https://ro.test/v1/x", &[], "endpoint_denied"),
        ("HEAD", "https://ro.test/v1/search", &[], "allow"),
        ("PROPFIND", "https://ro.test/v1/x", &[], "endpoint_denied"),
        ("PROPFIND", "https://rw.test/x", &[], "allow"),
        ("M-SEARCH", "https://rw.test/x", &[], "allow"),
    ];
    for (method, url, overrides, expected) in table {
        let seen = decide_with(&policy, method, url, overrides, &[]);
        assert_eq!(outcome(&seen), *expected, "{method} {url} {overrides:?}: {seen:?}");
    }
}

#[test]
fn methods_of_a_document_are_upper_cased_and_an_empty_list_means_any() {
    let policy = policy(
        r#"{"credentials_v2":{"c":{"key":"k","hosts":["c.test"],
            "endpoints":[{"methods":["get","Post"],"paths":["/a"]},
                         {"methods":[],"paths":["/b"]}]}}}"#,
    );
    for (method, path, expected) in [
        ("GET", "/a", "allow"),
        ("POST", "/a", "allow"),
        ("post", "/a", "endpoint_denied"),
        ("PUT", "/a", "endpoint_denied"),
        ("PUT", "/b", "allow"),
        ("anything", "/b", "allow"),
    ] {
        assert_eq!(
            outcome(&decide(&policy, method, &format!("https://c.test{path}"))),
            expected,
            "{method} {path}"
        );
    }
}

#[test]
fn r4_the_query_takes_no_part() {
    let policy = policy(EXAMPLE);
    for query in ["", "?action=delete", "?a=1&a=2", "?a;b", "?/../admin", "?x=%zz", "?#"] {
        let url = format!("https://api.openai.com/v1/models{query}");
        assert_eq!(outcome(&decide(&policy, "GET", &url)), "allow", "{query}");
        let url = format!("https://api.openai.com/v1/files{query}");
        assert_eq!(outcome(&decide(&policy, "GET", &url)), "endpoint_denied", "{query}");
    }
}

#[test]
fn options_asterisk_names_no_path_that_a_rule_could_permit() {
    let policy = policy(KEYS);
    let asterisk = |name: &str, method: &str| {
        let host = host(name);
        policy.decide(&Request {
            scheme: Scheme::Https,
            host: &host,
            port: 443,
            method,
            path: "*",
            overrides: &[],
            aws: None,
            presented: &[],
        })
    };
    assert_eq!(outcome(&asterisk("only-a.test", "OPTIONS")), "endpoint_denied");
    assert_eq!(outcome(&asterisk("plain.test", "OPTIONS")), "endpoint_denied");
    assert_eq!(outcome(&asterisk("plain.test", "GET")), "path_ambiguous");
    assert_eq!(outcome(&asterisk("other.test", "OPTIONS")), "allow");
}

#[test]
fn a_refusal_names_the_rule_the_nearest_miss_and_the_edit() {
    let policy = policy(EXAMPLE);
    let table = [
        (
            "DELETE",
            "/v1/models/x",
            "GET /v1/models",
            "/credentials_v2/openai/endpoints/1/paths/0",
            "method",
            "add \"DELETE\" to /credentials_v2/openai/endpoints/1/methods",
        ),
        (
            "get",
            "/v1/models",
            "GET /v1/models",
            "/credentials_v2/openai/endpoints/1/paths/0",
            "method",
            "send the method as `GET`: methods are case-sensitive",
        ),
        (
            "delete",
            "/v1/models",
            "GET /v1/models",
            "/credentials_v2/openai/endpoints/1/paths/0",
            "method",
            "add \"DELETE\" to /credentials_v2/openai/endpoints/1/methods and send the method as \
             `DELETE`: methods are case-sensitive",
        ),
        (
            "GET",
            "/v1/files",
            "POST /v1/chat/completions",
            "/credentials_v2/openai/endpoints/0/paths/0",
            "path",
            "add {\"methods\": [\"GET\"], \"paths\": [\"/v1/files\"]} to \
             /credentials_v2/openai/endpoints",
        ),
        (
            "POST",
            "/v1/chat/edits",
            "POST /v1/chat/completions",
            "/credentials_v2/openai/endpoints/0/paths/0",
            "path",
            "add \"/v1/chat/edits\" to /credentials_v2/openai/endpoints/0/paths",
        ),
    ];
    for (method, path, rule, pointer, failed, edit) in table {
        let Decision::Deny(deny) =
            decide(&policy, method, &format!("https://api.openai.com{path}"))
        else {
            panic!()
        };
        let near = deny.nearest.unwrap();
        assert_eq!((near.rule.text.as_str(), near.rule.pointer.as_str()), (rule, pointer));
        assert_eq!((near.failed, near.edit.as_str()), (failed, edit));
        assert!(deny.message.contains(edit) && deny.message.contains("openai"), "{}", deny.message);
    }
    let Decision::Allow(allow) = decide(&policy, "GET", "https://api.openai.com/v1/models") else {
        panic!()
    };
    assert_eq!(allow.rule.unwrap().text, "GET /v1/models");
    let Decision::Allow(allow) =
        decide(&policy, "PUT", "https://billing.example.com/v2/invoices/1")
    else {
        panic!()
    };
    assert_eq!(allow.rule.unwrap().text, "* /v2/invoices/*");
    let Decision::Allow(allow) = decide(&policy, "GET", "https://docs.example.com/") else {
        panic!()
    };
    let rule = allow.rule.unwrap();
    assert_eq!(
        (rule.text.as_str(), rule.pointer.as_str()),
        ("*.example.com:443", "/network/allow/1")
    );
}

/// The edit that a refusal proposes really permits the request.
#[test]
fn the_proposed_edit_is_enough() {
    let rules = |methods: &str, paths: &str, more: &str| {
        policy(&format!(
            r#"{{"credentials_v2":{{"c":{{"key":"k","hosts":["c.test"],
                "endpoints":[{{"methods":[{methods}],"paths":[{paths}]}}{more}]}}}}}}"#
        ))
    };
    let url = "https://c.test/v1/x%5B1%5D/*";
    let before = decide(&rules(r#""GET""#, r#""/v1/y""#, ""), "GET", url);
    let Decision::Deny(deny) = before else { panic!() };
    let edit = deny.nearest.unwrap().edit;
    let pattern = edit.split('"').nth(1).unwrap();
    assert_eq!(
        outcome(&decide(&rules(r#""GET""#, &format!(r#""/v1/y","{pattern}""#), ""), "GET", url)),
        "allow",
        "{edit}"
    );
}

#[test]
fn r6_one_function_judges_every_road() {
    let policy = policy(
        r#"{"network":{"allow":["c.test","f.test"]},
            "credentials_v2":{"c":{"key":"k","hosts":["c.test"],"allow_plaintext":true,
            "endpoints":[{"methods":["GET"],"paths":["/a"]}]}}}"#,
    );
    for (method, rest) in [
        ("GET", "c.test/a"),
        ("PUT", "c.test/a"),
        ("GET", "c.test/b"),
        ("GET", "c.test/../a"),
        ("GET", "f.test/x"),
        ("GET", "g.test/"),
    ] {
        let secure = decide(&policy, method, &format!("https://{rest}"));
        let plain = decide(&policy, method, &format!("http://{rest}"));
        assert_eq!(outcome(&secure), outcome(&plain), "{method} {rest}");
    }
    // Tunnels use the network filter alone, and it agrees with the filter for requests.
    for name in ["c.test", "f.test", "g.test"] {
        let request = decide(&policy, "GET", &format!("https://{name}/a"));
        assert_eq!(outcome(&policy.decide_host(&host(name), 443)), outcome(&request), "{name}");
    }
}

#[test]
fn r8_a_verdict_depends_on_nothing_but_what_a_request_names() {
    // A request consists of scheme, host, port, method, path, override headers and presented
    // placeholders: no other header, source or time can affect the decision. The same request gets
    // the same answer.
    let policy = policy(EXAMPLE);
    let first = decide(&policy, "GET", "https://api.openai.com/v1/models");
    for _ in 0..100 {
        assert_eq!(decide(&policy, "GET", "https://api.openai.com/v1/models"), first);
    }
}

#[test]
fn r9_a_policy_is_one_value_that_no_change_reaches() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    let old = std::sync::Arc::new(policy(EXAMPLE));
    shared(&old);
    let kept = std::sync::Arc::clone(&old);
    let new = policy(&EXAMPLE.replace("/v1/models", "/v1/files"));
    assert_eq!(outcome(&decide(&kept, "GET", "https://api.openai.com/v1/models")), "allow");
    assert_eq!(
        outcome(&decide(&new, "GET", "https://api.openai.com/v1/models")),
        "endpoint_denied"
    );
}
