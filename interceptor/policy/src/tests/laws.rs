//! Laws that hold for every input, tested on random ones. Each reference implementation is
//! independent of the code it checks, slow and plain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{
    CanonicalPath, Catalogue, Decision, Document, Host, JudgedPath, PathPattern, Policy, Request,
    Scheme, check,
};
use super::outcome;

/// Paths made of troublesome pieces.
fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("/"),
        Just("a"),
        Just("b"),
        Just("v1"),
        Just("models"),
        Just("."),
        Just(".."),
        Just("%2e"),
        Just("%2E"),
        Just("%252e"),
        Just("%25"),
        Just("2e"),
        Just("%2f"),
        Just("%2F"),
        Just("%5c"),
        Just(";"),
        Just("%3b"),
        Just("%c3%a9"),
        Just("%C3"),
        Just("%41"),
        Just("%7e"),
        Just("~"),
        Just("*"),
        Just("?"),
        Just("%20"),
        Just("+"),
        Just("\\"),
        Just("%00"),
        Just("%zz"),
        Just("\u{e9}"),
        Just("%ef%bc%8e"),
        Just("%c0%ae"),
        Just("%25%32%66"),
    ];
    vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// Patterns and paths over a small alphabet, so that they often match.
fn small_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => Just("/"), 3 => Just("a"), 2 => Just("b"), 1 => Just("ab"), 1 => Just("%2F"),
        1 => Just("%C3%A9"),
    ];
    vec(piece, 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}

fn small_pattern() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("/"), 3 => Just("a"), 2 => Just("b"), 2 => Just("*"), 1 => Just("**"),
        1 => Just("?"), 1 => Just("%2F"), 1 => Just("/**/"),
    ];
    let pieces = vec(piece, 0..8)
        .prop_map(|pieces| format!("/{}", pieces.concat()))
        .prop_filter("a pattern", |text| !text.contains("***"));
    prop_oneof![9 => pieces, 1 => Just("/.".to_owned())]
}

/// The characters of a canonical path. The escapes of one character count as one.
fn characters(path: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut rest = path;
    while let Some(first) = rest.chars().next() {
        let length = if first == '%' {
            match u8::from_str_radix(&rest[1..3], 16).unwrap() {
                0..0x80 => 3,
                0xc0..0xe0 => 6,
                0xe0..0xf0 => 9,
                _ => 12,
            }
        } else {
            first.len_utf8()
        };
        all.push(rest[..length].to_owned());
        rest = &rest[length..];
    }
    all
}

/// The reference for patterns: it tries every way to match, as docs/policy.md ("Endpoint rules")
/// defines it.
fn reference(pattern: &str, path: &str) -> bool {
    if pattern == "/." {
        return path == "/";
    }
    if !pattern.contains(['*', '?']) {
        return match pattern.strip_suffix('/') {
            Some(_) => path.starts_with(pattern),
            None => path == pattern || path.starts_with(&format!("{pattern}/")),
        };
    }
    glob(pattern, true, &characters(path))
}

fn glob(pattern: &str, at_segment_start: bool, path: &[String]) -> bool {
    let one = |character: &String| character != "/" && character != "%2F";
    let whole = |stars: &str| {
        at_segment_start
            && (pattern.len() == stars.len() || pattern[stars.len()..].starts_with('/'))
    };
    if let Some(rest) = pattern.strip_prefix("**") {
        if whole("**")
            && let Some(behind) = rest.strip_prefix('/')
        {
            // Zero or more whole segments.
            let ends = (0..path.len()).filter(|index| path[*index] == "/").map(|index| index + 1);
            return std::iter::once(0).chain(ends).any(|end| glob(behind, true, &path[end..]));
        }
        return (0..=path.len()).any(|end| glob(rest, false, &path[end..]));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        if whole("*") && rest.is_empty() {
            return !path.is_empty();
        }
        let least = usize::from(whole("*"));
        let most = path.iter().take_while(|character| one(character)).count();
        return (least..=most).any(|end| glob(rest, false, &path[end..]));
    }
    let Some(first) = characters(pattern).into_iter().next() else { return path.is_empty() };
    let Some((head, tail)) = path.split_first() else { return false };
    let rest = &pattern[first.len()..];
    if first == "?" {
        return one(head) && glob(rest, false, tail);
    }
    *head == first && glob(rest, first == "/", tail)
}

/// The hosts that rules and requests are drawn from.
fn name() -> impl Strategy<Value = String> {
    let label = prop_oneof![Just("a"), Just("b"), Just("good"), Just("xa")];
    vec(label, 1..5).prop_map(|labels| labels.join("."))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4, 0u8..3, any::<u8>()).prop_map(|(a, b, c)| IpAddr::V4(Ipv4Addr::new(11, a, b, c))),
        (0u16..4, 0u16..4)
            .prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::new(0x2606, a, 0, 0, 0, 0, 0, b))),
        (0u8..4, 0u8..3).prop_map(|(a, b)| IpAddr::V6(Ipv4Addr::new(11, a, b, 1).to_ipv6_mapped())),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        4 => name(),
        3 => name().prop_map(|name| format!("*.{name}")),
        1 => Just("*".to_owned()),
        3 => (0u8..4, 0u8..3, 8u8..33).prop_map(|(a, b, length)| format!("11.{a}.{b}.0/{length}")),
        1 => (0u16..4, 16u8..129).prop_map(|(a, length)| format!("[2606:{a}::/{length}]")),
        1 => Just("0.0.0.0/0".to_owned()),
    ];
    (target, prop_oneof![2 => Just(None), 1 => Just(Some(443u16)), 1 => Just(Some(80u16))])
        .prop_map(|(target, port)| match port {
            Some(port) => format!("{target}:{port}"),
            None => target.trim_matches(['[', ']']).to_owned(),
        })
}

/// The reference for network rules: one rule against one destination, by text.
fn rule_matches(rule: &str, host: &Host, port: u16) -> bool {
    let (target, rule_port) = match rule.rsplit_once(':') {
        Some((target, digits)) if target.starts_with('[') || !target.contains(':') => {
            (target, Some(digits.parse::<u16>().unwrap()))
        }
        _ => (rule, None),
    };
    if rule_port.is_some_and(|only| only != port) {
        return false;
    }
    if target == "*" {
        return true;
    }
    let target = target.trim_matches(['[', ']']);
    match host {
        Host::Name(name) => match target.strip_prefix("*.") {
            Some(parent) => name.as_str().ends_with(&format!(".{parent}")),
            None => name.as_str() == target,
        },
        Host::Ip(address) => {
            let Some((net, length)) = target.split_once('/') else { return false };
            let length: u32 = length.parse().unwrap();
            match (net.parse().unwrap(), address) {
                (IpAddr::V4(net), IpAddr::V4(address)) => {
                    let shift = 32 - length;
                    u64::from(u32::from(net)) >> shift == u64::from(u32::from(*address)) >> shift
                }
                (IpAddr::V6(net), IpAddr::V6(address)) => (0..length)
                    .all(|bit| u128::from(net) << bit >> 127 == u128::from(*address) << bit >> 127),
                _ => false,
            }
        }
    }
}

/// The four steps of docs/policy.md ("Network rules").
fn network_reference(allow: &[String], deny: &[String], host: &Host, port: u16) -> bool {
    let catch_all = |rule: &&String| matches!(rule.as_str(), "*" | "0.0.0.0/0" | "::/0");
    if deny.iter().filter(|rule| !catch_all(rule)).any(|rule| rule_matches(rule, host, port)) {
        return false;
    }
    if allow.iter().any(|rule| rule_matches(rule, host, port)) {
        return true;
    }
    allow.is_empty() && !deny.iter().any(|rule| catch_all(&rule))
}

fn network_policy(allow: &[String], deny: &[String]) -> Policy {
    let text = serde_json::json!({ "network": { "allow": allow, "deny": deny } }).to_string();
    Policy::compile(&Document::parse(&text).unwrap().document, &Catalogue::builtin()).unwrap()
}

fn endpoint_policy(rules: &[(Vec<String>, Vec<String>)]) -> Policy {
    let rules: Vec<_> = rules
        .iter()
        .map(|(methods, paths)| serde_json::json!({ "methods": methods, "paths": paths }))
        .collect();
    let credential = serde_json::json!({ "key": "k", "hosts": ["c.test"], "endpoints": rules });
    let text = serde_json::json!({ "credentials_v2": { "c": credential } }).to_string();
    Policy::compile(&Document::parse(&text).unwrap().document, &Catalogue::builtin()).unwrap()
}

fn ask(policy: &Policy, method: &str, path: &str) -> Decision {
    let host = super::host("c.test");
    policy.decide(&Request {
        scheme: Scheme::Https,
        host: &host,
        port: 443,
        method,
        path,
        overrides: &[],
        aws: None,
        presented: &[],
    })
}

fn rules() -> impl Strategy<Value = Vec<(Vec<String>, Vec<String>)>> {
    let method =
        prop_oneof![Just("GET".to_owned()), Just("POST".to_owned()), Just("PUT".to_owned())];
    let pattern = small_pattern().prop_filter("valid", |text| PathPattern::parse(text).is_ok());
    vec((vec(method, 0..3), vec(pattern, 1..4)), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn canonicalisation_is_idempotent(path in path()) {
        if let Ok(canonical) = CanonicalPath::parse(&path) {
            let again = CanonicalPath::parse(canonical.as_str());
            prop_assert_eq!(again.as_ref(), Ok(&canonical));
            prop_assert!(canonical.as_str().starts_with('/') && canonical.as_str().is_ascii());
        }
    }

    #[test]
    fn canonicalisation_takes_any_text_without_panic(
        path in "\\PC{0,40}", raw in vec(any::<u8>(), 0..40),
    ) {
        let _ = CanonicalPath::parse(&path);
        let _ = CanonicalPath::parse(&format!("/{}", String::from_utf8_lossy(&raw)));
    }

    /// However often an origin decodes, and whichever slashes it accepts, no segment escapes its
    /// parent.
    #[test]
    fn decoding_a_canonical_path_never_yields_a_segment_that_escapes(path in path()) {
        if let Ok(canonical) = CanonicalPath::parse(&path) {
            let mut text = canonical.into_string().into_bytes();
            for _ in 0..6 {
                for segment in text.split(|byte| *byte == b'/' || *byte == b'\\') {
                    let name = segment.split(|byte| *byte == b';').next().unwrap();
                    let shown = String::from_utf8_lossy(&text);
                    prop_assert!(name != b"." && name != b"..", "{:?}", shown);
                }
                text = percent_encoding::percent_decode(&text).collect();
            }
        }
    }

    #[test]
    fn the_forwarded_request_is_the_judged_request(path in path(), rules in rules()) {
        let policy = endpoint_policy(&rules);
        if let Decision::Allow(allow) = ask(&policy, "GET", &path) {
            let canonical = CanonicalPath::parse(&path).unwrap();
            prop_assert_eq!(&allow.path, &JudgedPath::Canonical(canonical.clone()));
            // Judging the forwarded request gives the same decision in every part.
            prop_assert_eq!(ask(&policy, "GET", canonical.as_str()), Decision::Allow(allow));
        }
    }

    #[test]
    fn a_pattern_matches_as_the_slow_reference_does(
        pattern in small_pattern(), path in small_path(),
    ) {
        let (compiled, path) = (PathPattern::parse(&pattern), CanonicalPath::parse(&path));
        if let (Ok(compiled), Ok(path)) = (compiled, path) {
            let expected = reference(&pattern, path.as_str());
            prop_assert_eq!(compiled.matches(&path), expected, "{} against {}", pattern, path);
        }
    }

    #[test]
    fn the_tree_of_rules_decides_as_the_first_matching_rule_does(
        rules in rules(), path in small_path(),
        method in prop_oneof![Just("GET"), Just("POST"), Just("DELETE")],
    ) {
        let policy = endpoint_policy(&rules);
        let Ok(path) = CanonicalPath::parse(&path) else { return Ok(()) };
        let matching = rules.iter().enumerate().flat_map(|(rule, (methods, paths))| {
            let admits = methods.is_empty() || methods.iter().any(|one| one == method);
            let admitted = paths.iter().enumerate().filter(move |_| admits);
            admitted.map(move |(index, pattern)| (rule, index, pattern))
        }).find(|(_, _, pattern)| reference(pattern, path.as_str()));
        match (ask(&policy, method, path.as_str()), matching) {
            (Decision::Allow(allow), Some((rule, index, _))) => {
                let expected = format!("/credentials_v2/c/endpoints/{rule}/paths/{index}");
                prop_assert_eq!(&allow.rule.unwrap().pointer, &expected);
            }
            (Decision::Deny(deny), None) => {
                prop_assert_eq!(deny.reason.as_str(), "endpoint_denied");
            }
            (seen, expected) => prop_assert!(false, "{:?}, not {:?}", seen, expected),
        }
    }

    #[test]
    fn adding_an_endpoint_rule_never_denies_what_was_permitted(
        mut rules in rules(), more in rules(), path in small_path(),
    ) {
        let before = ask(&endpoint_policy(&rules), "GET", &path);
        rules.extend(more);
        let after = ask(&endpoint_policy(&rules), "GET", &path);
        prop_assert!(outcome(&before) != "allow" || outcome(&after) == "allow");
    }

    #[test]
    fn hosts_match_as_the_slow_reference_does(
        allow in vec(rule(), 0..5),
        deny in vec(rule(), 0..5),
        host in prop_oneof![name(), address().prop_map(|address| address.to_string())],
        port in prop_oneof![Just(443u16), Just(80), Just(8080)],
    ) {
        let policy = network_policy(&allow, &deny);
        let host = Host::parse(&host).unwrap();
        let expected = network_reference(&allow, &deny, &host, port);
        let seen = policy.decide_host(&host, port);
        prop_assert_eq!(
            outcome(&seen) == "allow", expected,
            "allow {:?} deny {:?}: {} port {}: {:?}", allow, deny, host, port, seen
        );
        if let (Host::Name(name), true) = (&host, expected) {
            prop_assert!(policy.may_resolve(name));
        }
    }

    #[test]
    fn a_name_may_be_resolved_only_if_some_port_is_permitted(
        allow in vec(rule(), 0..5), deny in vec(rule(), 0..5), name in name(),
    ) {
        let policy = network_policy(&allow, &deny);
        let host = Host::parse(&name).unwrap();
        let reference = |port| network_reference(&allow, &deny, &host, port);
        let permitted = [443, 80, 8080].into_iter().any(reference);
        prop_assert_eq!(policy.may_resolve(host.name().unwrap()), permitted);
    }

    #[test]
    fn adding_an_allow_rule_never_denies_what_was_permitted(
        allow in vec(rule(), 1..5),
        deny in vec(rule(), 0..5),
        more in rule(),
        host in prop_oneof![name(), address().prop_map(|address| address.to_string())],
    ) {
        let host = Host::parse(&host).unwrap();
        let before = network_policy(&allow, &deny).decide_host(&host, 443);
        let mut allow = allow;
        allow.push(more);
        let after = network_policy(&allow, &deny).decide_host(&host, 443);
        prop_assert!(outcome(&before) != "allow" || outcome(&after) == "allow");
    }

    #[test]
    fn adding_a_deny_rule_never_permits_what_was_denied(
        allow in vec(rule(), 0..5), deny in vec(rule(), 0..5), more in rule(), name in name(),
    ) {
        let host = Host::parse(&name).unwrap();
        let before = network_policy(&allow, &deny).decide_host(&host, 443);
        let mut deny = deny;
        deny.push(more);
        let after = network_policy(&allow, &deny).decide_host(&host, 443);
        prop_assert!(outcome(&before) == "allow" || outcome(&after) != "allow");
    }

    /// Spelling does not matter: case, a trailing dot and the form of an address change no verdict
    /// (attack R5).
    #[test]
    fn r5_a_host_in_another_spelling_is_the_same_host(
        name in name(), upper in any::<bool>(), dot in any::<bool>(), bits in any::<u32>(),
    ) {
        let mut spelt = if upper { name.to_ascii_uppercase() } else { name.clone() };
        if dot {
            spelt.push('.');
        }
        prop_assert_eq!(Host::parse(&spelt), Host::parse(&name));
        let address = Ipv4Addr::from(bits);
        let [a, b, c, d] = address.octets();
        let tail = u32::from(b) << 16 | u32::from(c) << 8 | u32::from(d);
        for spelt in [
            format!("{a}.{b}.{c}.{d}."),
            format!("{bits}"),
            format!("{bits:#x}"),
            format!("0{bits:o}"),
            format!("{a:#x}.{b:#o}.{c}.{d}").replace("0o", "0"),
            format!("{a}.{tail}"),
            format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
            format!("[::ffff:{a}.{b}.{c}.{d}]"),
            format!("[::ffff:{:x}:{:x}]", bits >> 16, bits & 0xffff),
        ] {
            prop_assert_eq!(Host::parse(&spelt), Ok(Host::Ip(IpAddr::V4(address))), "{}", spelt);
        }
    }

    #[test]
    fn a_host_takes_any_text_without_panic_and_prints_as_itself(
        text in "\\PC{0,30}", bytes in vec(any::<u8>(), 0..30),
    ) {
        for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
            }
            let _ = Host::parse_rule(&text);
            let _ = super::super::Authority::parse(&text);
            let _ = super::super::NetworkRule::parse(&text);
            let _ = PathPattern::parse(&text);
        }
    }

    /// The document reader agrees with serde_json on what is JSON, and never accepts an invalid
    /// text.
    #[test]
    fn a_document_takes_any_text_without_panic(
        text in "[\\[\\]{}\":,a-z0-9 \\\\nulltruefalse.-]{0,60}",
    ) {
        let report = check(&text, &Catalogue::builtin());
        let json = serde_json::from_str::<serde_json::Value>(&text);
        prop_assert!(json.is_ok() || !report.errors.is_empty());
        prop_assert_eq!(report.policy.is_some(), report.errors.is_empty());
    }
}
