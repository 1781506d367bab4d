//! Requests under a base URL are judged as the requests they stand for, and the address of base
//! URLs leads nowhere else.

use std::net::IpAddr;

use super::{Catalogue, Decision, Host, Policy, Scheme, policy};
use crate::{BaseUrl, Reason};

const DOCUMENT: &str = r#"{ "credentials_v2": {
    "openai": { "key": "sk-real" },
    "github": { "key": "ghp_real", "endpoints": [{ "methods": ["GET"], "paths": ["/repos/o/"] }] },
    "my api/2": { "key": "real-2", "hosts": ["*.wild.test", "api.two.test:8443", "10.1.2.3"] },
    "wild": { "key": "real-3", "hosts": ["*.wild.test"] }
} }"#;

fn stands_for(policy: &Policy, path: &str) -> Option<BaseUrl> {
    let host = Host::parse("169.254.169.254").expect("an address");
    policy.base_url(Scheme::Http, &host, 80, path)
}

#[test]
fn a_base_url_stands_for_a_host_of_its_service() {
    let policy = policy(DOCUMENT);
    let table = [
        ("/proxy/openai/v1/models", "api.openai.com:443/v1/models"),
        ("/proxy/openai", "api.openai.com:443/"),
        ("/proxy/openai/", "api.openai.com:443/"),
        ("/proxy/%6fpenai/x", "api.openai.com:443/x"),
        ("/proxy/openai//v1", "api.openai.com:443//v1"),
        ("/proxy/openai/../x", "api.openai.com:443/../x"),
        ("/proxy/github/user", "api.github.com:443/user"),
        ("/proxy/github@github.com/o/r.git", "github.com:443/o/r.git"),
        ("/proxy/github@GitHub.com:443/o", "github.com:443/o"),
        ("/proxy/my%20api%2F2/x", "api.two.test:8443/x"),
        ("/proxy/my%20api%2F2@a.wild.test/x", "a.wild.test:443/x"),
        ("/proxy/my%20api%2F2@api.two.test/x", "api.two.test:8443/x"),
        ("/proxy/my%20api%2F2@10.1.2.3/x", "10.1.2.3:443/x"),
        ("/proxy/wild@b.wild.test/x", "b.wild.test:443/x"),
    ];
    for (path, expected) in table {
        let based = stands_for(&policy, path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!(format!("{}:{}{}", based.host, based.port, based.path), expected, "{path}");
    }
    for path in [
        "/",
        "*",
        "/proxy",
        "/proxy/",
        "/proxy//openai/x",
        "//proxy/openai/x",
        "/Proxy/openai/x",
        "/proxy/OpenAI/x",
        "/proxy/unknown/x",
        "/proxy/../openai/x",
        "/proxy/openai%2Fv1",
        "/proxy/%ff/x",
        "/proxy/openai@evil.test/x",
        "/proxy/openai@api.openai.com:8443/x",
        "/proxy/openai@/x",
        "/proxy/@api.openai.com/x",
        "/proxy/github@api.openai.com/x",
        "/proxy/my%20api%2F2@api.two.test:443/x",
        "/proxy/wild/x",
        "/latest/meta-data/",
    ] {
        assert_eq!(stands_for(&policy, path), None, "{path}");
    }
    let name = Host::parse("api.openai.com").expect("a name");
    let address = Host::parse("169.254.169.254").expect("an address");
    for (scheme, host, port) in
        [(Scheme::Https, &address, 443), (Scheme::Http, &address, 8080), (Scheme::Http, &name, 80)]
    {
        assert_eq!(policy.base_url(scheme, host, port, "/proxy/openai/x"), None);
    }
}

#[test]
fn r7_where_there_are_credentials_the_metadata_address_leads_nowhere_whatever_the_rules_say() {
    let allow = r#""network": { "allow": ["*", "0.0.0.0/0", "::/0", "169.254.0.0/16",
                                          "tcp://169.254.169.254"] }"#;
    let with = policy(&format!(
        r#"{{ {allow}, "credentials_v2": {{ "openai": {{ "key": "sk-real" }} }} }}"#
    ));
    let without = policy(&format!("{{ {allow} }}"));
    let name = Host::parse("some.test").expect("a name");
    for text in
        ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"]
    {
        let address: IpAddr = text.parse().expect("an address");
        let host = Host::Ip(address.to_canonical());
        for port in [80, 443, 8080] {
            let decisions = [with.decide_host(&host, port), with.decide_raw(&host, port)];
            for decision in decisions {
                let Decision::Deny(deny) = decision else { panic!("{text}:{port}") };
                assert_eq!(deny.reason, Reason::HostDenied);
                assert!(
                    deny.message.contains("/proxy/SERVICE/") && deny.message.contains("`openai`")
                );
            }
            assert!(with.decide_address(&name, address, port).is_err(), "{text}");
            assert!(without.decide_address(&name, address, port).is_ok(), "{text}");
        }
    }
    // Neighbouring addresses are ordinary addresses.
    let near = Host::parse("169.254.169.253").expect("an address");
    assert!(matches!(with.decide_host(&near, 80), Decision::Allow(_)));
}

#[test]
fn a_url_to_a_host_of_the_service_becomes_a_base_url_again() {
    let policy = policy(DOCUMENT);
    let first = stands_for(&policy, "/proxy/github/user").expect("a base URL");
    let other = stands_for(&policy, "/proxy/github@github.com/o").expect("a base URL");
    let custom = stands_for(&policy, "/proxy/my%20api%2F2/x").expect("a base URL");
    let table = [
        (&first, "https://api.github.com/user?page=2", Some("/proxy/github/user?page=2")),
        (&first, "HTTPS://API.github.com:443/user#x", Some("/proxy/github/user#x")),
        (&first, "https://api.github.com", Some("/proxy/github/")),
        (&first, "https://api.github.com?a", Some("/proxy/github/?a")),
        (&first, "https://codeload.github.com/o/r", Some("/proxy/github@codeload.github.com/o/r")),
        (&first, "//api.github.com/x", Some("/proxy/github/x")),
        (&first, "/user", Some("/proxy/github/user")),
        (&other, "/o/r", Some("/proxy/github@github.com/o/r")),
        (&other, "https://api.github.com/x", Some("/proxy/github/x")),
        (&custom, "/x", Some("/proxy/my%20api%2F2/x")),
        (&custom, "https://b.wild.test/x", Some("/proxy/my%20api%2F2@b.wild.test/x")),
        (&custom, "https://api.two.test:8443/x", Some("/proxy/my%20api%2F2/x")),
        (&custom, "https://api.two.test/x", None),
        (&first, "http://api.github.com/x", None),
        (&first, "https://evil.test/x", None),
        (&first, "https://api.github.com@evil.test/x", None),
        (&first, "https://api.github.com:8443/x", None),
        (&first, "other", None),
        (&first, "", None),
        (&first, "https://", None),
        (&first, "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", None),
    ];
    for (from, url, expected) in table {
        let expected = expected.map(|path| format!("http://169.254.169.254{path}"));
        assert_eq!(policy.as_base_url(from, url), expected, "{url}");
    }
}

#[test]
fn every_variable_of_a_base_url_leads_to_its_service() {
    let services = Catalogue::builtin();
    let keys: Vec<String> = services
        .services()
        .filter(|service| !service.base_url_env.is_empty())
        .map(|service| format!("\"{}\": \"sk-some-key\"", service.name))
        .collect();
    let policy = policy(&format!("{{ \"credentials\": {{ {} }} }}", keys.join(", ")));
    let variables = policy.base_urls();
    for (name, value) in [
        ("OPENAI_BASE_URL", "http://169.254.169.254/proxy/openai/v1"),
        ("ANTHROPIC_BASE_URL", "http://169.254.169.254/proxy/anthropic"),
    ] {
        assert!(variables.contains(&(name.to_owned(), value.to_owned())), "{variables:?}");
    }
    for (name, value) in &variables {
        let path = value
            .strip_prefix("http://169.254.169.254")
            .unwrap_or_else(|| panic!("{name}: {value}"));
        assert!(stands_for(&policy, path).is_some(), "{name}: {value}");
        assert!(!value.ends_with('/'), "{name}: {value}");
    }
    let mut names: Vec<&String> = variables.iter().map(|(name, _)| name).collect();
    names.dedup();
    assert_eq!(names.len(), variables.len());
}

proptest::proptest! {
    #[test]
    fn whatever_the_path_a_base_url_leads_to_a_host_of_its_credential(
        path in "(/proxy/)?(openai|github|wild|my%20api%2F2|%6f|@|api\\.|[.]|github\\.com|\
                 b\\.wild\\.test|:|443|8443|/|%2f|%|\\PC){0,8}",
    ) {
        let policy = policy(DOCUMENT);
        if let Some(based) = stands_for(&policy, &path) {
            let governing = policy.governing(Scheme::Https, &based.host, based.port);
            proptest::prop_assert!(governing.contains(&based.credential));
            proptest::prop_assert!(based.path.starts_with('/'));
            proptest::prop_assert!(path.ends_with(&based.path) || based.path == "/");
            // A redirect to the URL it stands for leads back to the base URL.
            let url = format!("https://{}:{}{}", based.host, based.port, based.path);
            let url = policy.as_base_url(&based, &url).expect("its own host");
            let base_url = url.strip_prefix("http://169.254.169.254").expect("a base URL");
            proptest::prop_assert_eq!(stands_for(&policy, base_url), Some(based));
        }
    }
}
