//! `upstream`: what it means, what is an error, and what goes without the proxy.

use super::super::{Catalogue, Direct, Document, KeySource, Policy, Proxy, ProxyUrl, check};
use super::{host, policy};

fn proxied(fields: &str) -> Policy {
    policy(&format!(r#"{{"upstream":{{"proxy":"http://proxy.corp:3128"{fields}}}}}"#))
}

#[test]
fn every_field_is_read() {
    let policy = policy(
        r#"{"upstream":{"proxy":"https://Proxy.Corp.:8443/","proxy_auth":"me:it's a s3cret",
            "proxy_resolves":true,"no_proxy":["*.corp","10.0.0.0/8","one.test:8080"],
            "ca":["/etc/corp.pem"]}}"#,
    );
    let out = policy.way_out();
    let Some(Proxy::Url(url)) = &out.proxy else { panic!("{out:?}") };
    assert_eq!(url.to_string(), "https://proxy.corp:8443");
    let Some(KeySource::Literal(auth)) = &out.proxy_auth else { panic!() };
    assert_eq!(auth.expose(), "me:it's a s3cret");
    assert!(out.proxy_resolves && out.ca.len() == 1);
    assert!(!format!("{policy:?}").contains("s3cret"));
    let none = super::policy("{}");
    assert!(none.way_out().proxy.is_none());
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_without_a_value() {
    for (fields, pointer, message) in [
        (r#""proxy":7"#, "/upstream/proxy", "is a string"),
        (r#""proxy":"socks5://sk-canary:1""#, "/upstream/proxy", "must speak HTTP"),
        (r#""proxy":"sk-canary""#, "/upstream/proxy", "must speak HTTP"),
        (r#""proxy":"http://u:sk-canary@p.corp:1""#, "/upstream/proxy", "no user or password"),
        (r#""proxy":"http://sk-canary@p.corp:1""#, "/upstream/proxy", "no user or password"),
        (r#""proxy":"http://p.corp:1/sk-canary""#, "/upstream/proxy", "ends after its port"),
        (r#""proxy":"http://p.corp:1?sk-canary""#, "/upstream/proxy", "ends after its port"),
        (r#""proxy":"http://p.corp:99999""#, "/upstream/proxy", "not a number from 1"),
        (r#""proxy":"http://""#, "/upstream/proxy", "empty"),
        (r#""proxy":"http://p\r\nsk-canary:1""#, "/upstream/proxy", "cannot have"),
        (r#""proxy_auth":"""#, "/upstream/proxy_auth", "empty"),
        (r#""proxy_auth":"a:sk-canary\r\nx: y""#, "/upstream/proxy_auth", "control character"),
        (r#""proxy_auth":{"vault":1}"#, "/upstream/proxy_auth/vault", "unknown field"),
        (r#""proxy_auth":[]"#, "/upstream/proxy_auth", "`proxy_auth` is a string"),
        (r#""no_proxy":["http://x"]"#, "/upstream/no_proxy/0", "scheme"),
        (r#""ca":[""]"#, "/upstream/ca/0", "empty"),
        (r#""ca":"/x""#, "/upstream/ca", "is a list"),
        (r#""proxy_resolve":true"#, "/upstream/proxy_resolve", "did you mean `proxy_resolves`"),
    ] {
        let errors = Document::parse(&format!(r#"{{"upstream":{{{fields}}}}}"#)).unwrap_err();
        let [error] = &errors[..] else { panic!("{fields}: {errors:?}") };
        assert_eq!(error.pointer, pointer, "{fields}");
        assert!(error.message.contains(message), "{fields}: {}", error.message);
        assert!(!error.message.contains("canary"), "{fields}: {}", error.message);
    }
}

#[test]
fn a_url_of_a_variable_may_lack_a_scheme_and_hold_a_user() {
    for (text, url, user) in [
        ("proxy.corp:3128", "http://proxy.corp:3128", None),
        ("HTTP://proxy.corp", "http://proxy.corp:80", None),
        ("https://[2001:db8::1]:1/", "https://[2001:db8::1]:1", None),
        ("http://me:p%40ss%3a@proxy.corp:1", "http://proxy.corp:1", Some("me:p@ss:")),
        ("me@proxy.corp:1", "http://proxy.corp:1", Some("me:")),
        ("http://a@b:c@proxy.corp:1", "http://proxy.corp:1", Some("a@b:c")),
    ] {
        let (found, auth) = ProxyUrl::parse_with_user(text).unwrap();
        assert_eq!(
            (found.to_string().as_str(), auth.as_ref().map(|auth| auth.as_str())),
            (url, user)
        );
    }
    for text in ["socks5://proxy.corp:1", "", "http://", "http://proxy.corp:1/path", "a b"] {
        assert!(ProxyUrl::parse_with_user(text).is_err(), "{text}");
    }
}

#[test]
fn what_no_proxy_lists_and_the_host_itself_go_directly() {
    let policy = proxied(r#","no_proxy":["*.corp","git.test:8443","10.0.0.0/8"]"#);
    let direct = |name: &str, port| policy.way_out().direct(&host(name), port);
    for (name, port, rule) in [
        ("api.corp", 443, Some("*.corp")),
        ("API.corp.", 80, Some("*.corp")),
        ("git.test", 8443, Some("git.test:8443")),
        ("10.1.2.3", 22, Some("10.0.0.0/8")),
        ("::ffff:10.1.2.3", 22, Some("10.0.0.0/8")),
        ("git.test", 443, None),
        ("corp", 443, None),
        ("evilcorp", 443, None),
        ("api.corp.evil.test", 443, None),
        ("11.1.2.3", 22, None),
    ] {
        let found = direct(name, port);
        let text = match &found {
            Some(Direct::Rule(rule)) => Some(rule.text.as_str()),
            _ => None,
        };
        assert_eq!(text, rule, "{name}:{port}");
    }
    assert_eq!(direct("host.docker.internal", 80), Some(Direct::OwnHost));
}

#[test]
fn a_variable_no_proxy_means_names_and_all_below_them() {
    let mut no_proxy = proxied("").way_out().no_proxy.clone();
    no_proxy.add_variable(" example.test , .corp, *.lab ,127.0.0.1,10.0.0.0/8,::1,a b,,x:8080");
    for (name, port, covered) in [
        ("example.test", 443, true),
        ("a.example.test", 443, true),
        ("badexample.test", 443, false),
        ("corp", 1, true),
        ("a.b.corp", 1, true),
        ("a.lab", 1, true),
        ("127.0.0.1", 1, true),
        ("10.2.3.4", 1, true),
        ("::1", 1, true),
        ("x", 8080, true),
        ("x", 80, false),
        ("other.test", 443, false),
    ] {
        assert_eq!(no_proxy.covering(&host(name), port).is_some(), covered, "{name}:{port}");
    }
    let texts: Vec<&str> = no_proxy.texts().collect();
    let mut again = proxied("").way_out().no_proxy.clone();
    again.add_rules(texts.iter().copied());
    assert_eq!(again.texts().collect::<Vec<_>>(), texts);
    let mut all = proxied("").way_out().no_proxy.clone();
    all.add_variable("*");
    assert!(all.covering(&host("any.test"), 1).is_some());
}

#[test]
fn an_option_takes_the_place_of_the_proxy_and_never_the_credential_of_another() {
    let other = || Proxy::parse("http://other.corp:3128").unwrap();
    let own = proxied(r#","proxy_auth":"u:p""#);
    let replaced = own.clone().with_proxy(other());
    assert_eq!(replaced.way_out().proxy, Some(other()));
    assert!(replaced.way_out().proxy_auth.is_none());
    let same = own.with_proxy(Proxy::parse("http://PROXY.corp:3128").unwrap());
    assert!(same.way_out().proxy_auth.is_some());
    let without = policy(r#"{"upstream":{"proxy_auth":"u:p"}}"#).with_proxy(other());
    assert!(without.way_out().proxy_auth.is_some());
}

#[test]
fn check_warns_of_what_does_not_hold() {
    let warnings = |fields: &str| {
        let text = format!(r#"{{"network":{{"allow":["a.test"]}},"upstream":{{{fields}}}}}"#);
        let report = check(&text, &Catalogue::builtin());
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        let ours = report.warnings.into_iter().filter(|one| one.pointer.starts_with("/upstream"));
        ours.map(|one| (one.pointer, one.message)).collect::<Vec<_>>()
    };
    let found = warnings(r#""proxy":"http://p:1","proxy_resolves":true"#);
    assert_eq!(found.len(), 1);
    assert!(found[0].1.contains("rules for addresses do not hold"), "{found:?}");
    let found = warnings(r#""proxy":"http://p:1","proxy_auth":"u:p""#);
    assert!(found.len() == 1 && found[0].1.contains("stands in the policy itself"), "{found:?}");
    let found = warnings(r#""proxy_auth":{"env":"X"},"proxy_resolves":true"#);
    assert!(found.len() == 2 && found[0].1.contains("--upstream-proxy"), "{found:?}");
    assert_eq!(warnings(r#""proxy":"environment","proxy_auth":{"env":"X"}"#), []);
}
