//! Other protocols, names to resolve, the kernel's networks, and passthrough.

use super::super::{Catalogue, Document, Policy};
use super::network::network;
use super::{host, outcome, policy};

#[test]
fn another_protocol_needs_a_tcp_rule_and_no_credential() {
    let policy = policy(
        r#"{"network":{"allow":["tcp://db.test:5432","plain.test","tcp://api.test",
                                "tcp://10.0.0.0/8","*.test:443"],"deny":["bad.test"]},
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
            r#"{{"network":{{"passthrough":["{passthrough}"]}},
                "credentials_v2":{{"c":{{"key":"k","hosts":["{hosts}"]}}}}}}"#
        );
        let document = Document::parse(&text).unwrap().document;
        let seen = Policy::compile(&document, &Catalogue::builtin());
        assert_eq!(seen.is_err(), wrong, "{passthrough} and {hosts}");
        if let Err(problems) = seen {
            assert_eq!(problems[0].pointer, "/network/passthrough/0");
        }
    }
}
