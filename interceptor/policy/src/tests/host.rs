//! Hosts, as requests and rules write them (attack R5 and R7).

use super::super::{Authority, Host, HostError, NetworkRule, Target};

/// The host that a request's text means, or the name of the error.
fn seen(text: &str) -> String {
    match Host::parse(text) {
        Ok(Host::Name(name)) => format!("name {name}"),
        Ok(Host::Ip(address)) => format!("ip {address}"),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn r5_a_host_has_one_form_or_none() {
    let long_label = "a".repeat(63);
    let too_long_label = "a".repeat(64);
    let long_name =
        format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
    let too_long_name = format!("{long_name}e");
    let table: &[(&str, &str)] = &[
        ("good.test", "name good.test"),
        ("GOOD.Test", "name good.test"),
        ("good.test.", "name good.test"),
        ("good.test..", "EmptyLabel"),
        (".good.test", "EmptyLabel"),
        ("good..test", "EmptyLabel"),
        (".", "Empty"),
        ("", "Empty"),
        ("evil-good.test", "name evil-good.test"),
        ("good.test.evil.test", "name good.test.evil.test"),
        ("localhost", "name localhost"),
        ("a_b.test", "name a_b.test"),
        ("_dmarc.good.test", "name _dmarc.good.test"),
        ("-a.test", "Hyphen"),
        ("a-.test", "Hyphen"),
        ("r3---sn-abc.test", "name r3---sn-abc.test"),
        ("good.test\0.evil.test", "Character"),
        ("good.test%00.evil.test", "Character"),
        ("good%2etest", "Character"),
        ("user@good.test", "Character"),
        ("user:word@good.test", "Ipv6"),
        ("good test", "Character"),
        (" good.test", "Character"),
        ("good.test ", "Character"),
        ("good.test\r\n", "Character"),
        ("good.test/", "Character"),
        ("good.test\\evil", "Character"),
        ("good.test#", "Character"),
        ("good.test?", "Character"),
        ("*.good.test", "Character"),
        ("*", "Character"),
        ("[good.test]", "Ipv6"),
        ("good.test:443", "Ipv6"),
        ("b\u{fc}cher.test", "Character"),
        ("good\u{3002}test", "Character"),
        ("good\u{ad}.test", "Character"),
        ("g\u{43e}\u{43e}d.test", "Character"),
        ("\u{ff47}ood.test", "Character"),
        ("xn--bcher-kva.test", "name xn--bcher-kva.test"),
        ("XN--BCHER-KVA.test", "name xn--bcher-kva.test"),
        ("xn--good-.test", "Hyphen"),
        ("xn--abc-.test", "Hyphen"),
        ("xn--good-test", "Idna"),
        ("xn--.test", "Hyphen"),
        ("xn--a.test", "Idna"),
        ("xn--80ak6aa92e.test", "name xn--80ak6aa92e.test"),
        ("xn--bcher-kva_.test", "Idna"),
        ("xn--0.test", "Idna"),
        (&long_label, &format!("name {long_label}")),
        (&too_long_label, "TooLong"),
        (&long_name, &format!("name {long_name}")),
        (&too_long_name, "TooLong"),
    ];
    for (text, expected) in table {
        assert_eq!(seen(text), *expected, "{text:?}");
    }
}

#[test]
fn r7_every_spelling_of_an_address_is_the_address_it_means() {
    let table: &[(&str, &str)] = &[
        ("127.0.0.1", "ip 127.0.0.1"),
        ("127.0.0.1.", "ip 127.0.0.1"),
        ("169.254.169.254.", "ip 169.254.169.254"),
        ("2130706433", "ip 127.0.0.1"),
        ("0x7f000001", "ip 127.0.0.1"),
        ("0X7F000001", "ip 127.0.0.1"),
        ("017700000001", "ip 127.0.0.1"),
        ("0177.1", "ip 127.0.0.1"),
        ("0177.0.0.01", "ip 127.0.0.1"),
        ("0x7f.1", "ip 127.0.0.1"),
        ("0x7f.0x0.0x0.0x1", "ip 127.0.0.1"),
        ("127.1", "ip 127.0.0.1"),
        ("127.0.1", "ip 127.0.0.1"),
        ("127.65535", "ip 127.0.255.255"),
        ("10.65536", "ip 10.1.0.0"),
        ("1.2.3", "ip 1.2.0.3"),
        ("0", "ip 0.0.0.0"),
        ("0x", "Ipv4"),
        ("1", "ip 0.0.0.1"),
        ("4294967295", "ip 255.255.255.255"),
        ("4294967296", "Ipv4"),
        ("0xffffffff", "ip 255.255.255.255"),
        ("0x1ffffffff", "Ipv4"),
        ("00000000000000000000000000177.1", "ip 127.0.0.1"),
        ("256.0.0.1", "Ipv4"),
        ("1.2.3.256", "Ipv4"),
        ("1.2.3.4.5", "Ipv4"),
        ("1..3", "EmptyLabel"),
        ("08.1.1.1", "Ipv4"),
        ("09", "Ipv4"),
        ("0x7g.1", "Ipv4"),
        ("good.test.1", "Ipv4"),
        ("good.0x1", "Ipv4"),
        ("a.127", "Ipv4"),
        ("+127.0.0.1", "Ipv4"),
        ("-1", "Hyphen"),
        ("1e3", "name 1e3"),
        ("127.0.0.1a", "name 127.0.0.1a"),
        ("0xg", "name 0xg"),
        ("1.2.3.4.example", "name 1.2.3.4.example"),
        ("[::1]", "ip ::1"),
        ("::1", "ip ::1"),
        ("[::1].", "Ipv6"),
        ("[::1", "Ipv6"),
        ("::1]", "Ipv6"),
        ("[::]", "ip ::"),
        ("[::ffff:127.0.0.1]", "ip 127.0.0.1"),
        ("[::ffff:7f00:1]", "ip 127.0.0.1"),
        ("[0:0:0:0:0:ffff:a9fe:a9fe]", "ip 169.254.169.254"),
        ("[::127.0.0.1]", "ip ::7f00:1"),
        ("[64:ff9b::7f00:1]", "ip 64:ff9b::7f00:1"),
        ("[2002:7f00:1::]", "ip 2002:7f00:1::"),
        ("[fe80::1%eth0]", "Ipv6"),
        ("[fe80::1%25eth0]", "Ipv6"),
        ("[2001:DB8::1]", "ip 2001:db8::1"),
        ("[127.0.0.1]", "Ipv6"),
        ("[]", "Ipv6"),
        ("[1::2::3]", "Ipv6"),
    ];
    for (text, expected) in table {
        let seen = seen(text);
        let two = *text == "1..3" && seen == "Ipv4";
        assert!(seen == *expected || two, "{text:?}: {seen}, not {expected}");
    }
}

#[test]
fn an_authority_is_a_host_and_a_port() {
    type Seen<'a> = Result<(&'a str, Option<u16>), HostError>;
    let table: &[(&str, Seen<'_>)] = &[
        ("good.test", Ok(("good.test", None))),
        ("good.test:443", Ok(("good.test", Some(443)))),
        ("GOOD.test.:8443", Ok(("good.test", Some(8443)))),
        ("127.1:80", Ok(("127.0.0.1", Some(80)))),
        ("[::1]", Ok(("::1", None))),
        ("[::1]:80", Ok(("::1", Some(80)))),
        ("[::ffff:1.2.3.4]:80", Ok(("1.2.3.4", Some(80)))),
        ("good.test:", Err(HostError::Port)),
        ("good.test:0", Err(HostError::Port)),
        ("good.test:65535", Ok(("good.test", Some(65535)))),
        ("good.test:65536", Err(HostError::Port)),
        ("good.test:+80", Err(HostError::Port)),
        ("good.test:80 ", Err(HostError::Port)),
        ("good.test:80:90", Err(HostError::Ipv6)),
        ("good.test:0x50", Err(HostError::Port)),
        ("good.test:00443", Ok(("good.test", Some(443)))),
        ("good.test:000443", Err(HostError::Port)),
        ("::1", Err(HostError::Ipv6)),
        ("::1:80", Err(HostError::Ipv6)),
        ("[::1]80", Err(HostError::Ipv6)),
        ("[::1]:", Err(HostError::Port)),
        ("user@good.test", Err(HostError::UserInfo)),
        ("user:word@good.test:443", Err(HostError::UserInfo)),
        ("good.test@", Err(HostError::UserInfo)),
        ("", Err(HostError::Empty)),
        (":443", Err(HostError::Empty)),
        ("good.test,evil.test", Err(HostError::Character)),
        ("good.test, evil.test", Err(HostError::Character)),
        ("b\u{fc}cher.test", Err(HostError::Character)),
    ];
    for (text, expected) in table {
        let seen =
            Authority::parse(text).map(|authority| (authority.host.to_string(), authority.port));
        assert_eq!(seen, expected.map(|(host, port)| (host.to_owned(), port)), "{text:?}");
    }
}

#[test]
fn r5_a_rule_may_be_written_in_unicode_and_compares_as_a_labels() {
    let table = [
        ("b\u{fc}cher.test", "xn--bcher-kva.test"),
        ("B\u{dc}CHER.test", "xn--bcher-kva.test"),
        ("b\u{fc}cher\u{3002}test", "xn--bcher-kva.test"),
        ("*.b\u{fc}cher.test", "*.xn--bcher-kva.test"),
        ("fa\u{df}.test", "xn--fa-hia.test"),
        ("Good.Test.", "good.test"),
        ("*.GOOD.test", "*.good.test"),
        ("0x7f.1", "127.0.0.1/32"),
        ("\u{ff11}\u{ff12}\u{ff17}.0.0.1", "127.0.0.1/32"),
        ("::ffff:1.2.3.4", "1.2.3.4/32"),
    ];
    for (text, expected) in table {
        let (rule, _) = NetworkRule::parse(text).unwrap();
        let seen = match rule.target {
            Target::Any => "*".to_owned(),
            Target::Name(name) => name.to_string(),
            Target::Below(name) => format!("*.{name}"),
            Target::Net(net) => net.to_string(),
        };
        assert_eq!(seen, expected, "{text:?}");
    }
}

#[test]
fn a_host_prints_as_what_it_parses_from() {
    for text in ["good.test", "127.0.0.1", "::1", "2001:db8::1", "xn--bcher-kva.test"] {
        let host = Host::parse(text).unwrap();
        assert_eq!(host.to_string(), text);
        assert_eq!(Host::parse(&host.to_string()), Ok(host));
    }
}
