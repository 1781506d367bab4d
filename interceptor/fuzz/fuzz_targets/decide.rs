//! A request against a policy: lines of endpoint rules (`METHOD PATTERN`), then the request
//! (`METHOD PATH`). The tree of rules agrees with the single patterns, and the forwarded path is
//! the judged path.
#![no_main]

use interceptor_policy::{
    CanonicalPath, Catalogue, Decision, Document, Host, PathPattern, Policy, Request, Scheme,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some((rules, request)) = text.rsplit_once('\n') else { return };
    let Some((method, path)) = request.split_once(' ') else { return };
    let rules: Vec<(&str, &str)> =
        rules.lines().filter_map(|line| line.split_once(' ')).take(32).collect();
    let listed: Vec<_> = rules
        .iter()
        .map(|(method, pattern)| serde_json::json!({ "methods": [method], "paths": [pattern] }))
        .collect();
    let credential = serde_json::json!({ "key": "k", "hosts": ["c.test"], "endpoints": listed });
    let document = serde_json::json!({ "credentials_v2": { "c": credential } });
    let Ok(parsed) = Document::parse(&document.to_string()) else { return };
    let Ok(policy) = Policy::compile(&parsed.document, &Catalogue::builtin()) else { return };
    let Ok(host) = Host::parse("c.test") else { return };
    // Under a base URL it is a request to the same host or to none.
    if let Ok(address) = Host::parse("169.254.169.254")
        && let Some(based) = policy.base_url(Scheme::Http, &address, 80, path)
    {
        assert!(
            based.host == host && based.port == 443 && path.ends_with(&based.path)
                || based.path == "/"
        );
        if let Some(url) = policy.as_base_url(&based, &format!("https://c.test{}", based.path)) {
            let again = url.strip_prefix("http://169.254.169.254").unwrap_or_default();
            assert_eq!(policy.base_url(Scheme::Http, &address, 80, again), Some(based));
        }
    }
    let decision = policy.decide(&Request {
        scheme: Scheme::Https,
        host: &host,
        port: 443,
        method,
        path,
        overrides: &[],
        aws: None,
        presented: &[],
    });
    let Ok(canonical) = CanonicalPath::parse(path) else {
        assert!(matches!(decision, Decision::Deny(_)));
        return;
    };
    let single = rules.iter().any(|(rule_method, pattern)| {
        rule_method.to_ascii_uppercase() == method
            && PathPattern::parse(pattern).is_ok_and(|pattern| pattern.matches(&canonical))
    });
    let refused =
        ["CONNECT", "TRACE", "TRACK"].iter().any(|never| method.eq_ignore_ascii_case(never));
    match decision {
        Decision::Allow(allow) => {
            assert!(single && !refused);
            assert_eq!(allow.path.text(path), canonical.as_str());
        }
        Decision::Deny(_) => assert!(!single || refused, "{rules:?} {method} {path}"),
    }
});
