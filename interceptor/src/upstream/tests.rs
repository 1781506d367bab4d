use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData};
use interceptor_policy::Reason;
use tokio::net::TcpListener;

use super::test_support::{Says, TestNameServer, policy, road};
use super::*;

fn unrestricted() -> Policy {
    policy("{}")
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn asking(server: &TestNameServer) -> Upstream {
    Upstream::new(UpstreamOptions {
        name_servers: NameServers::These(vec![server.address]),
        ..UpstreamOptions::default()
    })
}

fn overriding(overrides: &[&str], server: &TestNameServer) -> Upstream {
    Upstream::new(UpstreamOptions {
        overrides: overrides.iter().map(|text| text.parse::<Override>().unwrap()).collect(),
        name_servers: NameServers::These(vec![server.address]),
        ..UpstreamOptions::default()
    })
}

/// Connects directly.
async fn connect(
    upstream: &Upstream,
    policy: &Policy,
    host: &Host,
    port: u16,
) -> Result<Dialed, UpstreamError> {
    upstream.connect(Terms { policy, road: &road() }, Scheme::Https, host, port).await
}

/// The same port on two loopback addresses.
async fn two_listeners() -> (TcpListener, TcpListener, u16) {
    for _ in 0..50 {
        let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = one.local_addr().unwrap().port();
        if let Ok(two) = TcpListener::bind(("127.0.0.2", port)).await {
            return (one, two, port);
        }
    }
    panic!("no port is free on both addresses");
}

/// Whether somebody has connected.
async fn was_reached(listener: &TcpListener) -> bool {
    tokio::time::timeout(Duration::from_millis(100), listener.accept()).await.is_ok()
}

#[tokio::test]
async fn a_permitted_name_is_resolved_and_dialled_and_the_answer_is_kept_for_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server =
        TestNameServer::start(|_, kind| Says::addresses(60, kind, &["127.0.0.1", "2001:db8::1"]))
            .await;
    let upstream = asking(&server);
    let policy = policy(r#"{"network":{"allow":["api.example.com","127.0.0.1"]}}"#);
    let port = listener.local_addr().unwrap().port();
    for _ in 0..3 {
        let dialed = connect(&upstream, &policy, &host("API.example.com"), port).await.unwrap();
        assert_eq!(dialed.address, listener.local_addr().ok());
        let Wire::Tcp(stream) = &dialed.stream else { panic!("{dialed:?}") };
        assert_eq!(stream.peer_addr().ok(), dialed.address);
    }
    assert_eq!(upstream.exists(host("api.example.com").name().unwrap()).await, Existence::Yes);
    let mut log = server.log();
    log.sort();
    let asked = "api.example.com".to_owned();
    assert_eq!(log, [(asked.clone(), RecordType::A), (asked, RecordType::AAAA)]);
}

#[tokio::test]
async fn d3_a_name_that_points_inside_is_refused_whatever_the_spelling() {
    for address in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "10.9.9.9",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.1",
        "192.168.1.1",
        "198.18.1.0",
        "198.19.255.254",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::10.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:2::100",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
    ] {
        let server =
            TestNameServer::start(move |_, kind| Says::addresses(60, kind, &[address])).await;
        let upstream = asking(&server);
        let evil = host("evil.example.com");
        let error = connect(&upstream, &unrestricted(), &evil, 80).await.unwrap_err();
        assert_eq!(error.reason(), Reason::HostDenied, "{address}: {error}");
        let text = error.to_string();
        assert!(text.contains("evil.example.com"), "{text}");
        // r7: the same as a literal.
        let literal = Host::Ip(address.parse().unwrap());
        let error = connect(&asking(&server), &unrestricted(), &literal, 80).await.unwrap_err();
        assert_eq!(error.reason(), Reason::HostDenied, "{address} as a literal: {error}");
    }
}

#[tokio::test]
async fn d3_of_a_mixed_answer_only_the_permitted_addresses_are_dialled() {
    let (forbidden, permitted, port) = two_listeners().await;
    let server = TestNameServer::start(|_, kind| {
        let mut all = vec!["127.0.0.1", "10.9.9.9", "169.254.169.254", "::1", "fd00::1"];
        all.extend(["127.0.0.1"; 10]);
        all.push("127.0.0.2");
        Says::addresses(0, kind, &all)
    })
    .await;
    let upstream = asking(&server);
    let policy = policy(r#"{"network":{"allow":["mixed.example.com","127.0.0.2"]}}"#);
    for _ in 0..20 {
        let dialed = connect(&upstream, &policy, &host("mixed.example.com"), port).await.unwrap();
        assert_eq!(dialed.address.unwrap().ip(), "127.0.0.2".parse::<IpAddr>().unwrap());
    }
    assert!(was_reached(&permitted).await);
    assert!(!was_reached(&forbidden).await);
}

#[tokio::test]
async fn d3_a_name_that_changes_between_lookups_is_judged_anew_at_each_dial() {
    let (forbidden, permitted, port) = two_listeners().await;
    let turn = AtomicUsize::new(0);
    let server = TestNameServer::start(move |_, kind| {
        if kind != RecordType::A {
            return Says::Records(0, Vec::new());
        }
        let inside = turn.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        Says::addresses(0, kind, if inside { &["127.0.0.1"] } else { &["127.0.0.2"] })
    })
    .await;
    let upstream = asking(&server);
    let policy = policy(r#"{"network":{"allow":["rebind.example.com","127.0.0.2"]}}"#);
    let accepting = tokio::spawn(async move { while permitted.accept().await.is_ok() {} });
    let (mut dialled, mut refused) = (0, 0);
    for _ in 0..1000 {
        match connect(&upstream, &policy, &host("rebind.example.com"), port).await {
            Ok(dialed) => {
                assert_eq!(dialed.address.unwrap().ip(), "127.0.0.2".parse::<IpAddr>().unwrap());
                dialled += 1;
            }
            Err(error) => {
                assert_eq!(error.reason(), Reason::HostDenied, "{error}");
                refused += 1;
            }
        }
    }
    accepting.abort();
    assert!(
        dialled > 100 && refused > 100,
        "{dialled} dialled, {refused} refused: the answer did not alternate"
    );
    assert!(!was_reached(&forbidden).await);
}

#[tokio::test]
async fn d3_a_chain_of_aliases_into_the_intranet_is_refused() {
    let server = TestNameServer::start(|name, _| {
        let (owner, next) =
            (Name::from_ascii(name).unwrap(), Name::from_ascii("intranet.example.net").unwrap());
        let (mut owner, mut next) = (owner, next);
        owner.set_fqdn(true);
        next.set_fqdn(true);
        if name == "intranet.example.net" {
            return Says::Records(
                60,
                vec![RData::A("10.9.9.9".parse::<Ipv4Addr>().unwrap().into())],
            );
        }
        Says::Whole(vec![
            Record::from_rdata(owner, 60, RData::CNAME(CNAME(next.clone()))),
            Record::from_rdata(next, 60, RData::A("10.9.9.9".parse::<Ipv4Addr>().unwrap().into())),
        ])
    })
    .await;
    let error = connect(&asking(&server), &unrestricted(), &host("alias.example.com"), 80)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::HostDenied, "{error}");
    assert!(error.to_string().contains("10.9.9.9"), "{error}");
}

#[tokio::test]
async fn an_override_is_dialled_without_a_lookup_and_without_the_guard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestNameServer::start(|_, _| Says::Code(ResponseCode::NXDomain)).await;
    let upstream = overriding(&[&format!("*.example.com:443:{address}")], &server);
    let dialed = connect(&upstream, &unrestricted(), &host("api.example.com"), 443).await.unwrap();
    assert_eq!(dialed.address, Some(address));
    assert_eq!(upstream.exists(host("api.example.com").name().unwrap()).await, Existence::Yes);
    assert_eq!(server.log(), []);
    // Another port of the name is not overridden.
    let error =
        connect(&upstream, &unrestricted(), &host("api.example.com"), 80).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NoSuchName { .. }), "{error}");
}

#[tokio::test]
async fn an_override_is_not_exempt_from_a_deny_rule_that_names_the_address() {
    let server = TestNameServer::start(|_, _| Says::Code(ResponseCode::NXDomain)).await;
    let upstream = overriding(&["api.example.com:127.0.0.1"], &server);
    for (rules, denied) in [
        (r#"{"network":{"deny":["127.0.0.0/8"]}}"#, true),
        (r#"{"network":{"deny":["0.0.0.0/0"],"allow":["api.example.com"]}}"#, false),
        (r#"{"network":{"deny":["127.0.0.0/8:1"]}}"#, true),
        (r#"{"network":{"deny":["127.0.0.0/8:2"]}}"#, false),
    ] {
        // Nobody listens on port 1: where it is dialled, it is refused.
        let error =
            connect(&upstream, &policy(rules), &host("api.example.com"), 1).await.unwrap_err();
        assert_eq!(error.reason() == Reason::HostDenied, denied, "{rules}: {error}");
    }
}

#[tokio::test]
async fn p1_the_host_s_own_addresses_are_refused_unless_a_rule_names_them() {
    for interface in nix::ifaddrs::getifaddrs().unwrap() {
        let Some(address) = interface.address else { continue };
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(four), _) => IpAddr::V4(four.ip()),
            (_, Some(six)) if six.scope_id() == 0 => IpAddr::V6(six.ip()),
            _ => continue,
        };
        assert!(guard::is_own(address), "{address}");
    }
    assert!(!guard::is_own("192.0.2.1".parse().unwrap()));
    let own = "127.0.0.1".parse().unwrap();
    let deny = guard::not_own(&unrestricted(), &host("own.example.com"), own, 80).unwrap_err();
    assert_eq!(deny.reason, Reason::HostDenied);
    assert!(deny.message.contains("127.0.0.1"), "{}", deny.message);
    guard::not_own(
        &policy(r#"{"network":{"allow":["127.0.0.1:80"]}}"#),
        &host("own.example.com"),
        own,
        80,
    )
    .unwrap();
}

#[tokio::test]
async fn what_cannot_be_found_or_reached_says_so() {
    let server = TestNameServer::start(|name, kind| match name {
        "nothing.example.com" => Says::Records(60, Vec::new()),
        "broken.example.com" => Says::Code(ResponseCode::ServFail),
        "refusing.example.com" => Says::addresses(60, kind, &["127.0.0.1"]),
        "silent.example.com" => Says::Silence,
        _ => Says::Code(ResponseCode::NXDomain),
    })
    .await;
    let upstream = Upstream::new(UpstreamOptions {
        name_servers: NameServers::These(vec![server.address]),
        connect_timeout: Duration::from_secs(1),
        ..UpstreamOptions::default()
    });
    let policy = policy(r#"{"network":{"allow":["*.example.com","127.0.0.1"]}}"#);
    for (name, reason, text) in [
        ("missing.example.com", Reason::UpstreamUnreachable, "missing.example.com does not exist"),
        ("nothing.example.com", Reason::UpstreamUnreachable, "nothing.example.com has no address"),
        ("broken.example.com", Reason::UpstreamUnreachable, "cannot look up broken.example.com"),
        ("refusing.example.com", Reason::UpstreamUnreachable, "127.0.0.1:1: Connection refused"),
        (
            "silent.example.com",
            Reason::UpstreamTimeout,
            "no name server answered for silent.example.com",
        ),
    ] {
        let start = Instant::now();
        let error = connect(&upstream, &policy, &host(name), 1).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "{name} took {:?}", start.elapsed());
    }
    let name = |text| host(text).name().unwrap().clone();
    assert_eq!(upstream.exists(&name("missing.example.com")).await, Existence::No);
    assert_eq!(upstream.exists(&name("nothing.example.com")).await, Existence::Yes);
    assert_eq!(
        upstream.exists(&name("broken.example.com")).await,
        Existence::Unknown(LookupFailure::Failed)
    );
}

#[tokio::test]
async fn without_a_name_server_lookups_fail_and_say_so() {
    let options = UpstreamOptions {
        name_servers: NameServers::These(Vec::new()),
        ..UpstreamOptions::default()
    };
    let upstream = Upstream::new(options);
    let error =
        connect(&upstream, &unrestricted(), &host("api.example.com"), 443).await.unwrap_err();
    assert_eq!(error.reason(), Reason::UpstreamUnreachable);
    assert!(error.to_string().contains("no usable name server"), "{error}");
    assert_eq!(
        upstream.exists(host("api.example.com").name().unwrap()).await,
        Existence::Unknown(LookupFailure::Failed)
    );
}

#[tokio::test]
async fn a_name_server_that_never_answers_for_ipv6_does_not_delay_ipv4() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = TestNameServer::start(|_, kind| match kind {
        RecordType::A => Says::addresses(60, kind, &["127.0.0.1"]),
        _ => Says::Silence,
    })
    .await;
    let policy = policy(r#"{"network":{"allow":["api.example.com","127.0.0.1"]}}"#);
    let start = Instant::now();
    let port = listener.local_addr().unwrap().port();
    connect(&asking(&server), &policy, &host("api.example.com"), port).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(1900), "{:?}", start.elapsed());
}

#[tokio::test]
async fn d9_a_single_label_is_never_asked_for_outside() {
    let server = TestNameServer::start(|_, kind| Says::addresses(60, kind, &["192.0.2.1"])).await;
    let upstream = asking(&server);
    for name in ["intranet", "wpad", "com"] {
        let error = connect(&upstream, &unrestricted(), &host(name), 80).await.unwrap_err();
        assert!(matches!(error, UpstreamError::NoSuchName { .. }), "{error}");
        assert_eq!(upstream.exists(host(name).name().unwrap()).await, Existence::No);
    }
    assert_eq!(server.log(), []);
    // The host's own hosts file is read, and what it says is judged like anything else.
    let system = Upstream::new(UpstreamOptions::default());
    let error = connect(&system, &unrestricted(), &host("localhost"), 80).await.unwrap_err();
    assert_eq!(error.reason(), Reason::HostDenied, "{error}");
}

#[tokio::test]
async fn k23_what_one_sandbox_looked_up_another_does_not_find_in_its_cache() {
    let server = TestNameServer::start(|_, kind| Says::addresses(300, kind, &["127.0.0.1"])).await;
    let name_servers = NameServers::These(vec![server.address]);
    let first = Upstream::new(UpstreamOptions { name_servers, ..UpstreamOptions::default() });
    let second = first.separate();
    let Host::Name(name) = Host::parse("api.example.com").unwrap() else { panic!("a name") };
    assert_eq!(first.exists(&name).await, Existence::Yes);
    assert_eq!(first.exists(&name).await, Existence::Yes);
    assert_eq!(server.log().len(), 1, "the first keeps it");
    assert_eq!(second.exists(&name).await, Existence::Yes);
    assert_eq!(server.log().len(), 2, "the second asks for itself");
}

#[tokio::test]
async fn the_host_itself_is_loopback_whatever_name_servers_and_patterns_say() {
    let server = TestNameServer::start(|_, kind| Says::addresses(60, kind, &["192.0.2.1"])).await;
    let upstream = overriding(&["*:192.0.2.7", "*.internal:192.0.2.8"], &server);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for name in ["host.interceptor.internal", "HOST.docker.internal.", "host.containers.internal"] {
        let bare = name.trim_end_matches('.');
        let policy = policy(&format!(r#"{{"network":{{"allow":["{bare}:{port}"]}}}}"#));
        let dialed = connect(&upstream, &policy, &host(name), port).await.unwrap();
        assert_eq!(dialed.address, listener.local_addr().ok());
        assert_eq!(upstream.exists(host(name).name().unwrap()).await, Existence::Yes);
    }
    assert!(server.log().is_empty());
}

#[tokio::test]
async fn the_host_itself_is_tried_at_both_loopback_addresses_and_refused_by_a_deny_rule() {
    let server = TestNameServer::start(|_, kind| Says::addresses(60, kind, &[])).await;
    let upstream = asking(&server);
    let own = host("host.interceptor.internal");
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let permits = |deny: &str| {
        let allow = format!("host.interceptor.internal:{port}");
        policy(&format!(r#"{{"network":{{"allow":["{allow}"],"deny":[{deny}]}}}}"#))
    };
    let dialed = connect(&upstream, &permits(""), &own, port).await.unwrap();
    assert_eq!(dialed.address, listener.local_addr().ok());
    let denied = permits(r#""127.0.0.0/8","::1""#);
    let error = connect(&upstream, &denied, &own, port).await.unwrap_err();
    assert_eq!(error.reason(), Reason::HostDenied);
    drop(listener);
    let error = connect(&upstream, &permits(""), &own, port).await.unwrap_err();
    assert_eq!(error.reason(), Reason::UpstreamUnreachable);
    let both = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    assert!(both.iter().all(|address| error.to_string().contains(address)), "{error}");
    // The operator may name another address.
    let elsewhere = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let upstream = overriding(&["host.interceptor.internal:127.0.0.2"], &server);
    let policy =
        policy(&format!(r#"{{"network":{{"allow":["host.interceptor.internal:{port}"]}}}}"#));
    let dialed = connect(&upstream, &policy, &own, port).await.unwrap();
    assert_eq!(dialed.address, elsewhere.local_addr().ok());
}
