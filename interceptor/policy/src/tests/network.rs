//! The network filter (docs/policy.md "Network rules"; attack R2, R5, R7, D3).

use super::super::Policy;
use super::{host, outcome, policy};

pub(super) fn network(allow: &[&str], deny: &[&str]) -> Policy {
    let list = |rules: &[&str]| serde_json::to_string(rules).unwrap();
    policy(&format!(r#"{{"network":{{"allow":{},"deny":{}}}}}"#, list(allow), list(deny)))
}

pub(super) fn judge(policy: &Policy, authority: &str) -> &'static str {
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
