//! The network filter (docs/policy.md "Network rules"; attack R2, R5, R7, D3).

use super::super::{Catalogue, Decision, Document, Policy};
use super::{host, outcome, policy};

fn network(allow: &[&str], deny: &[&str]) -> Policy {
    let list = |rules: &[&str]| serde_json::to_string(rules).unwrap();
    policy(&format!(r#"{{"network":{{"allow":{},"deny":{}}}}}"#, list(allow), list(deny)))
}

fn judge(policy: &Policy, authority: &str) -> &'static str {
    let authority = super::super::Authority::parse(authority).unwrap();
    outcome(&policy.decide_host(&authority.host, authority.port.unwrap_or(443)))
}

/// `allow | deny | destination | verdict`; rules are separated by commas, `y` is allow and `n` is
/// deny.
const TRUTH: &str = "
 | | good.test | y
 | | good.test:8443 | y
 | | 1.1.1.1 | y
good.test | | good.test | y
good.test | | GOOD.test. | y
good.test | | good.test:8443 | y
good.test | | evil.test | n
good.test | | a.good.test | n
good.test | | evil-good.test | n
good.test | | good.test.evil.test | n
good.test | | 1.1.1.1 | n
good.test. | | good.test | y
GOOD.Test | | good.test | y
good.test:443 | | good.test:443 | y
good.test:443 | | good.test:80 | n
good.test:443, good.test:80 | | good.test:80 | y
*.good.test | | a.good.test | y
*.good.test | | a.b.c.good.test | y
*.good.test | | good.test | n
*.good.test | | evilgood.test | n
*.good.test | | a.good.test.evil.test | n
*.good.test:8443 | | a.good.test:8443 | y
*.good.test:8443 | | a.good.test | n
* | | good.test | y
* | | 1.1.1.1 | y
* | | 127.0.0.1 | n
*:443 | | good.test | y
*:443 | | good.test:80 | n
1.1.1.1 | | 1.1.1.1 | y
1.1.1.1 | | 1.1.1.2 | n
1.1.1.1 | | good.test | n
1.1.1.1:53 | | 1.1.1.1:53 | y
1.1.1.1:53 | | 1.1.1.1 | n
1.1.1.0/24 | | 1.1.1.9 | y
1.1.1.0/24 | | 1.1.2.9 | n
1.1.1.0/24:53 | | 1.1.1.9:53 | y
1.1.1.0/24:53 | | 1.1.1.9 | n
1.1.1.9/24 | | 1.1.1.200 | y
10.1.0.0/16 | | 10.1.2.3 | y
10.1.0.0/16 | | 10.2.2.3 | n
10.1.0.0/16 | | good.test | n
0.0.0.0/0 | | 1.1.1.1 | y
0.0.0.0/0 | | good.test | n
0.0.0.0/0 | | [2606:4700::1] | n
::/0 | | [2606:4700::1] | y
::/0 | | 1.1.1.1 | n
2606:4700::/32 | | [2606:4700::1] | y
[2606:4700::/32]:443 | | [2606:4700::1] | y
[2606:4700::/32]:443 | | [2606:4700::1]:80 | n
[2606:4700::]/32:443 | | [2606:4700::1] | y
[2606:4700::1] | | [2606:4700::1]:80 | y
[2606:4700::1]:80 | | [2606:4700::1] | n
2606:4700::1 | | [2606:4700::1] | y
::ffff:1.1.1.0/120 | | 1.1.1.7 | y
::ffff:1.1.1.7 | | 1.1.1.7 | y
1.1.1.7 | | [::ffff:1.1.1.7] | y
0x01010107 | | 1.1.1.7 | y
 | good.test | good.test | n
 | good.test | a.good.test | y
 | good.test | evil.test | y
 | good.test:443 | good.test | n
 | good.test:443 | good.test:80 | y
 | *.good.test | a.good.test | n
 | *.good.test | good.test | y
 | 1.1.1.0/24 | 1.1.1.1 | n
 | 1.1.1.0/24 | 1.1.2.1 | y
 | 1.1.1.0/24 | [::ffff:1.1.1.1] | n
 | 1.1.1.0/24 | [64:ff9b::101:101] | n
 | 0.0.0.0/0 | good.test | n
 | 0.0.0.0/0 | 1.1.1.1 | n
 | 0.0.0.0/0 | [2606:4700::1] | n
 | ::/0 | good.test | n
 | ::/0 | 1.1.1.1 | n
 | * | good.test | n
 | * | 1.1.1.1 | n
 | *:25 | good.test:25 | n
 | *:25 | good.test | y
 | *:25 | 1.1.1.1:25 | n
 | 0.0.0.0/0:25 | 1.1.1.1:25 | n
 | 0.0.0.0/0:25 | 1.1.1.1 | y
 | tcp://good.test | good.test | n
good.test | good.test | good.test | n
good.test | *.test | good.test | n
*.good.test | a.good.test | a.good.test | n
*.good.test | a.good.test | b.good.test | y
1.1.1.1 | 1.1.0.0/16 | 1.1.1.1 | n
1.1.0.0/16 | 1.1.1.1 | 1.1.1.1 | n
1.1.0.0/16 | 1.1.1.1 | 1.1.1.2 | y
good.test | 0.0.0.0/0 | good.test | y
good.test | * | good.test | y
good.test | ::/0 | evil.test | n
good.test | *:443 | good.test | n
good.test | *:443 | good.test:80 | y
* | * | good.test | y
* | evil.test | evil.test | n
* | evil.test | good.test | y
tcp://db.test:5432 | | db.test:5432 | y
tcp://db.test:5432 | | db.test | n
tcp://* | | good.test | y
b\u{fc}cher.test | | xn--bcher-kva.test | y
xn--bcher-kva.test | | xn--bcher-kva.test | y
*.b\u{fc}cher.test | | a.xn--bcher-kva.test | y
good.test | | 127.0.0.1 | n
127.0.0.1 | | 127.0.0.1 | y
127.0.0.1 | | 2130706433 | y
127.0.0.1 | | 0x7f.1 | y
127.0.0.1:5432 | | 127.0.0.1:5432 | y
127.0.0.1:5432 | | 127.0.0.1 | n
 | 169.254.0.0/16 | 2852039166 | n
";

#[test]
fn r2_the_four_steps_decide_and_the_first_match_wins() {
    let mut cases = 0;
    for line in TRUTH.lines().filter(|line| !line.trim().is_empty()) {
        let [allow, deny, destination, verdict] =
            line.split('|').map(str::trim).collect::<Vec<_>>().try_into().unwrap();
        let rules = |text: &'static str| {
            text.split(',').map(str::trim).filter(|rule| !rule.is_empty()).collect::<Vec<_>>()
        };
        let policy = network(&rules(allow), &rules(deny));
        let expected = if verdict == "y" { "allow" } else { "host_denied" };
        assert_eq!(judge(&policy, destination), expected, "{line}");
        cases += 1;
    }
    assert!(cases > 100, "{cases}");
}

#[test]
fn r7_addresses_that_are_no_public_host_are_refused_unless_an_address_rule_covers_them() {
    let special = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "169.254.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "198.19.255.254",
        "198.51.100.66",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:0:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "100::1",
        "100:0:0:1::1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "2001:2::1",
        "2001:10::1",
        "2001:db8::10",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:101:101::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "4000::1",
        "1::1",
        "2606:4700::5efe:7f00:1",
        "2606:4700::200:5efe:a00:1",
    ];
    let open = network(&[], &[]);
    let any = network(&["*"], &[]);
    for text in special {
        let address = host(text);
        let super::super::Host::Ip(ip) = address else { panic!("{text} is no address") };
        assert_eq!(outcome(&open.decide_host(&address, 443)), "host_denied", "{text}");
        assert_eq!(
            outcome(&any.decide_host(&address, 443)),
            "host_denied",
            "{text}, with `*` allowed"
        );
        let deny = any.decide_address(&host("good.test"), ip, 443).unwrap_err();
        assert_eq!(
            (deny.reason.as_str(), deny.status),
            ("host_denied", 403),
            "{text} as an answer"
        );
        assert!(deny.message.contains("special-purpose"), "{}", deny.message);
    }
    let public = [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.0.9",
        "192.0.0.10",
        "192.0.1.0",
        "192.0.3.0",
        "192.31.196.1",
        "192.52.193.1",
        "192.175.48.1",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:1::1",
        "2001:1::2",
        "2001:3::1",
        "2001:4:112::1",
        "2001:20::1",
        "2001:30::1",
        "2001:200::1",
        "2620:4f:8000::1",
        "2a00::1",
        "64:ff9b::808:808",
        "3ffe::1",
    ];
    for text in public {
        let address = host(text);
        let super::super::Host::Ip(ip) = address else { panic!("{text} is no address") };
        assert_eq!(outcome(&open.decide_host(&address, 443)), "allow", "{text}");
        assert!(open.decide_address(&host("good.test"), ip, 443).is_ok(), "{text} as an answer");
    }
}

#[test]
fn d3_an_address_that_a_name_resolves_to_is_judged_too() {
    // allow | deny | address | port | permitted
    let table = [
        ("good.test", "", "1.1.1.1", 443, true),
        ("good.test", "1.1.1.0/24", "1.1.1.1", 443, false),
        ("good.test", "1.1.1.0/24", "::ffff:1.1.1.1", 443, false),
        ("good.test", "1.1.1.0/24", "64:ff9b::101:101", 443, false),
        ("good.test", "1.1.1.0/24:25", "1.1.1.1", 443, true),
        ("good.test", "1.1.1.0/24:25", "1.1.1.1", 25, false),
        ("good.test", "0.0.0.0/0", "1.1.1.1", 443, true),
        ("good.test", "0.0.0.0/0", "10.0.0.1", 443, false),
        ("good.test", "*", "1.1.1.1", 443, true),
        ("good.test", "evil.test", "1.1.1.1", 443, true),
        ("good.test", "", "10.0.0.1", 443, false),
        ("good.test,10.0.0.0/8", "", "10.0.0.1", 443, true),
        ("good.test,10.0.0.0/8", "10.0.0.1", "10.0.0.1", 443, false),
        ("good.test,10.0.0.0/8:5432", "", "10.0.0.1", 443, false),
        ("good.test,10.0.0.0/8:5432", "", "10.0.0.1", 5432, true),
        ("good.test,10.0.0.0/8", "", "64:ff9b::a00:1", 443, true),
        ("good.test,64:ff9b::/96", "", "64:ff9b::a00:1", 443, false),
        ("good.test,127.0.0.1", "", "127.0.0.1", 443, true),
        ("good.test,127.0.0.1", "", "127.0.0.2", 443, false),
        ("good.test,127.0.0.1", "", "::1", 443, false),
        ("good.test,0.0.0.0/0", "", "127.0.0.1", 443, true),
        ("good.test,fd00::/8", "", "fd00::1", 443, true),
        ("good.test,fd00::/8", "", "fe80::1", 443, false),
        ("good.test,169.254.169.254", "", "169.254.169.254", 80, true),
    ];
    for (allow, deny, address, port, permitted) in table {
        let rules = |text: &'static str| {
            text.split(',').filter(|rule| !rule.is_empty()).collect::<Vec<_>>()
        };
        let policy = network(&rules(allow), &rules(deny));
        let seen = policy.decide_address(&host("good.test"), address.parse().unwrap(), port);
        assert_eq!(
            seen.is_ok(),
            permitted,
            "allow {allow}, deny {deny}: {address} port {port}: {seen:?}"
        );
    }
}

#[test]
fn a_name_is_never_permitted_by_an_address_rule_nor_an_address_by_a_name_rule() {
    let addresses = network(&["10.1.0.0/16"], &[]);
    assert_eq!(judge(&addresses, "intranet.test"), "host_denied");
    assert_eq!(judge(&addresses, "10.1.0.7"), "allow");
    let names = network(&["*.test"], &[]);
    assert_eq!(judge(&names, "10.1.0.7"), "host_denied");
}

#[test]
fn another_protocol_needs_a_tcp_rule_and_no_credential() {
    let policy = policy(
        r#"{"network":{"allow":["tcp://db.test:5432","plain.test","tcp://api.test","tcp://10.0.0.0/8","*.test:443"],"deny":["bad.test"]},
            "credentials_v2":{"c":{"key":"k","hosts":["api.test"]}}}"#,
    );
    let table = [
        ("db.test", 5432, "allow"),
        ("db.test", 5433, "host_denied"),
        ("plain.test", 22, "protocol_denied"),
        ("bad.test", 443, "host_denied"),
        ("api.test", 22, "protocol_denied"),
        ("api.test", 443, "protocol_denied"),
        ("a.test", 443, "protocol_denied"),
        ("10.1.2.3", 22, "allow"),
        ("11.1.2.3", 22, "host_denied"),
    ];
    for (name, port, expected) in table {
        let seen = policy.decide_raw(&host(name), port);
        assert_eq!(outcome(&seen), expected, "{name}:{port}: {seen:?}");
    }
    // Without a list, HTTP and TLS to any public host are permitted and nothing else.
    let open = network(&[], &[]);
    assert_eq!(outcome(&open.decide_raw(&host("db.test"), 5432)), "protocol_denied");
}

#[test]
fn d1_only_names_that_some_port_permits_may_be_resolved() {
    let table = [
        ("", "", "good.test", true),
        ("", "*", "good.test", false),
        ("", "good.test", "good.test", false),
        ("", "good.test:25", "good.test", true),
        ("good.test", "", "good.test", true),
        ("good.test", "", "evil.test", false),
        ("good.test:8443", "", "good.test", true),
        ("good.test:8443", "good.test:8443", "good.test", false),
        ("good.test:8443", "*:8443", "good.test", false),
        ("good.test:8443,good.test:80", "good.test:80", "good.test", true),
        ("*.good.test", "", "x.good.test", true),
        ("*.good.test", "", "good.test", false),
        ("*", "", "anything.test", true),
        ("*", "*.evil.test", "x.evil.test", false),
        ("10.0.0.0/8", "", "good.test", false),
        ("tcp://db.test:5432", "", "db.test", true),
        ("good.test", "0.0.0.0/0", "good.test", true),
    ];
    for (allow, deny, name, expected) in table {
        let rules = |text: &'static str| {
            text.split(',').filter(|rule| !rule.is_empty()).collect::<Vec<_>>()
        };
        let policy = network(&rules(allow), &rules(deny));
        assert_eq!(
            policy.may_resolve(host(name).name().unwrap()),
            expected,
            "allow {allow}, deny {deny}: {name}"
        );
    }
}

#[test]
fn the_kernel_gets_denied_networks_and_allowed_loopback() {
    let policy = network(
        &["127.0.0.1:5432", "::1", "127.0.0.0/24", "10.0.0.0/8", "good.test"],
        &[
            "0.0.0.0/0",
            "::/0",
            "*",
            "1.1.1.0/24",
            "2.2.2.2",
            "3.3.3.3:25",
            "::ffff:4.4.4.4",
            "fd00::/8",
            "evil.test",
        ],
    );
    let text = |nets: Vec<ipnet::IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        text(policy.denied_networks()),
        ["1.1.1.0/24", "2.2.2.2/32", "4.4.4.4/32", "fd00::/8"]
    );
    assert_eq!(text(policy.allowed_loopback()), ["127.0.0.0/24", "127.0.0.1/32", "::1/128"]);
    assert_eq!(text(network(&["0.0.0.0/0"], &[]).allowed_loopback()), ["127.0.0.0/8"]);
    assert!(network(&["*"], &[]).allowed_loopback().is_empty());
}

#[test]
fn passthrough_names_hosts_and_ports() {
    let policy = policy(r#"{"network":{"passthrough":["pinned.test","*.pinned.test:8443"]}}"#);
    let table = [
        ("pinned.test", 443, true),
        ("pinned.test", 8443, true),
        ("a.pinned.test", 8443, true),
        ("a.pinned.test", 443, false),
        ("other.test", 443, false),
    ];
    for (name, port, expected) in table {
        assert_eq!(
            policy.is_passthrough(host(name).name().unwrap(), port),
            expected,
            "{name}:{port}"
        );
    }
}

#[test]
fn r5_t10_passthrough_of_a_governed_host_is_an_error() {
    for (passthrough, hosts, wrong) in [
        ("api.test", "api.test", true),
        ("*.test", "api.test", true),
        ("*", "api.test", true),
        ("api.test", "*.test", true),
        ("*.a.test", "*.test", true),
        ("api.test:8443", "api.test", true),
        ("other.test", "api.test", false),
        ("*.api.test", "api.test", false),
    ] {
        let text = format!(
            r#"{{"network":{{"passthrough":["{passthrough}"]}},"credentials_v2":{{"c":{{"key":"k","hosts":["{hosts}"]}}}}}}"#
        );
        let document = Document::parse(&text).unwrap().document;
        let seen = Policy::compile(&document, &Catalogue::builtin());
        assert_eq!(seen.is_err(), wrong, "{passthrough} and {hosts}");
        if let Err(problems) = seen {
            assert_eq!(problems[0].pointer, "/network/passthrough/0");
        }
    }
}

#[test]
fn profiles_decide_like_networks() {
    let decide = |name: &str, destination: &str| {
        let policy = policy(&format!(r#"{{"network_profile":"{name}"}}"#));
        judge(&policy, destination)
    };
    assert_eq!(decide("unrestricted", "anything.test"), "allow");
    assert_eq!(decide("unrestricted", "169.254.169.254"), "host_denied");
    assert_eq!(decide("locked-down", "anything.test"), "host_denied");
    assert_eq!(decide("locked-down", "1.1.1.1"), "host_denied");
    assert_eq!(decide("openai", "api.openai.com"), "allow");
    assert_eq!(decide("openai", "api.anthropic.com"), "host_denied");
    assert_eq!(decide("claude-code", "api.anthropic.com"), "allow");
    assert_eq!(decide("data-science", "huggingface.co"), "allow");
    assert_eq!(decide("web-dev", "github.com"), "allow");
    assert_eq!(judge(&policy("{}"), "anything.test"), "allow");
    assert_eq!(judge(&policy("{}"), "10.0.0.1"), "host_denied");
    assert_eq!(judge(&policy(r#"{"network":{}}"#), "anything.test"), "allow");
}

#[test]
fn profiles_and_network_are_joined_every_allow_and_every_deny_of_either() {
    let judged = |text: &str, destinations: [&str; 3]| {
        let policy = policy(text);
        destinations.map(|destination| judge(&policy, destination))
    };
    let hosts = ["api.openai.com", "api.anthropic.com", "own.test"];
    for (text, expected) in [
        (r#"{"network_profile":["openai","claude-code"]}"#, ["allow", "allow", "host_denied"]),
        (
            r#"{"network_profile":"openai","network":{"allow":["own.test"]}}"#,
            ["allow", "host_denied", "allow"],
        ),
        (
            r#"{"network_profile":["openai","claude-code"],"network":{"deny":["api.openai.com"]}}"#,
            ["host_denied", "allow", "host_denied"],
        ),
        (
            r#"{"network_profile":"locked-down","network":{"allow":["own.test"]}}"#,
            ["host_denied", "host_denied", "allow"],
        ),
        // It has no rules of its own: what the other lists say holds.
        (
            r#"{"network_profile":["unrestricted","openai"]}"#,
            ["allow", "host_denied", "host_denied"],
        ),
        (r#"{"network_profile":"unrestricted","network":{}}"#, ["allow", "allow", "allow"]),
    ] {
        assert_eq!(judged(text, hosts), expected, "{text}");
    }
    let policy = policy(r#"{"network_profile":["openai","claude-code"]}"#);
    let Decision::Allow(allow) = policy.decide_host(&host("api.anthropic.com"), 443) else {
        panic!("it is refused")
    };
    assert_eq!(allow.rule.unwrap().pointer, "/network_profile/1");
}

#[test]
fn a_profile_includes_its_groups_and_refuses_the_rest_even_when_they_are_empty() {
    let mut catalogue = Catalogue::builtin();
    catalogue.add_profiles(r#"{"mine":{"description":"d","groups":["registries"]}}"#).unwrap();
    let document = Document::parse(r#"{"network_profile":"mine"}"#).unwrap().document;
    let empty = Policy::compile(&document, &catalogue).unwrap();
    assert_eq!(judge(&empty, "packages.test"), "host_denied");
    catalogue.set_group("registries", vec!["packages.test".to_owned()]);
    catalogue.add_profiles(r#"{"registries":{"description":"d","allow":["more.test"]}}"#).unwrap();
    let filled = Policy::compile(&document, &catalogue).unwrap();
    assert_eq!(judge(&filled, "packages.test"), "allow");
    assert_eq!(judge(&filled, "more.test"), "allow");
    assert_eq!(judge(&filled, "other.test"), "host_denied");
}

#[test]
fn a_refused_host_gets_the_nearest_rule_and_the_edit() {
    let policy = network(&["api.good.test:443", "*.deep.test", "login.test"], &["*"]);
    let table = [
        ("api.good.test", 80, "api.good.test:443", "port"),
        ("deep.test", 443, "*.deep.test", "host"),
        ("loginn.test", 443, "login.test", "host"),
    ];
    for (name, port, rule, failed) in table {
        let Decision::Deny(deny) = policy.decide_host(&host(name), port) else {
            panic!("{name} is permitted")
        };
        let near = deny.nearest.unwrap();
        assert_eq!((near.rule.text.as_str(), near.failed), (rule, failed), "{name}");
        assert!(
            deny.message.contains(&near.edit) && deny.message.contains("network policy"),
            "{}",
            deny.message
        );
    }
    let Decision::Deny(deny) = policy.decide_host(&host("unrelated.org"), 443) else { panic!() };
    assert_eq!(deny.nearest, None);
    assert!(deny.message.contains("add \"unrelated.org\" to /network/allow"), "{}", deny.message);
    assert_eq!(deny.rule.unwrap().text, "*");
}
