//! Why an answer is what it is: no, not now, and nobody knows are told apart.

use super::*;

const OTHERS: [RecordType; 8] = [
    RecordType::MX,
    RecordType::TXT,
    RecordType::SRV,
    RecordType::CAA,
    RecordType::NS,
    RecordType::CNAME,
    RecordType::HTTPS,
    RecordType::Unknown(65_280),
];

#[tokio::test]
async fn a_name_that_the_operator_points_elsewhere_exists_and_has_only_addresses() {
    // The name server outside has never heard of any of them.
    let lab = Lab::with("{}", |_, _| Says::Code(ResponseCode::NXDomain)).await;
    for name in ["here.example.com", "a.here.example", "b.c.here.example"] {
        synthetic(&lab, &lab.ask(name, RecordType::A).await, name);
        for kind in OTHERS {
            let answer = lab.ask(name, kind).await;
            assert_eq!(
                (code(&answer), answer.answers.len()),
                (ResponseCode::NoError, 0),
                "{name} {kind}"
            );
            assert_eq!(extended(&answer), None);
        }
    }
    assert_eq!(lab.outside.log(), []);
    // The name itself is not below `*.here.example`.
    assert_eq!(code(&lab.ask("here.example", RecordType::MX).await), ResponseCode::NXDomain);
}

#[tokio::test]
async fn the_sandbox_s_own_host_name_is_itself_in_both_families() {
    let lab = Lab::new(r#"{"network":{"allow":["api.example.com"]}}"#).await;
    for own in ["Build-7", "build-7.corp.example"] {
        let server = DnsServer::new(DnsOptions {
            sandbox: "s2".into(),
            names: Arc::new(Names::new()),
            rules: Arc::clone(&lab.rules) as Arc<dyn DnsRules>,
            upstream: Upstream::new(UpstreamOptions::default()),
            audit: lab.audit.clone(),
            ipv6: true,
            metrics: Arc::default(),
        });
        let Ok(Host::Name(name)) = Host::parse(own) else { panic!("{own}") };
        server.set_own_name(name);
        let labels: Vec<&[u8]> = own.split('.').map(str::as_bytes).collect();
        for (kind, want) in [(1, vec!["127.0.0.1"]), (28, vec!["::1"]), (15, vec![]), (16, vec![])]
        {
            let answer = server.answer_udp(&query(&labels, kind)).await.unwrap();
            let answer = Message::from_vec(&answer.message).unwrap();
            let want: Vec<IpAddr> = want.into_iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(
                (code(&answer), addresses(&answer)),
                (ResponseCode::NoError, want),
                "{own} {kind}"
            );
        }
    }
    assert_eq!(lab.recorded().await.len(), 0);
}

#[tokio::test]
async fn no_and_nobody_knows_are_different_answers_and_different_records() {
    let lab = Lab::with(
        r#"{"network":{"allow":["silent.example.com","broken.example.com","api.example.com"]}}"#,
        |name, kind| match name {
            "silent.example.com" => Says::Silence,
            "broken.example.com" => Says::Code(ResponseCode::ServFail),
            _ => Says::addresses(600, kind, &["192.0.2.1"]),
        },
    )
    .await;
    let table = [
        ("denied.example.com", ResponseCode::Refused, Some(15), "host_denied"),
        ("silent.example.com", ResponseCode::ServFail, Some(22), "upstream_timeout"),
        ("broken.example.com", ResponseCode::ServFail, Some(23), "upstream_unreachable"),
        ("api.example.com", ResponseCode::NoError, None, ""),
    ];
    for (name, want, error, kind) in table {
        let text = lab.ask(name, RecordType::TXT).await;
        assert_eq!(code(&text), want, "{name}");
        // It still gets an address: HTTP explains what is wrong, too.
        let address = lab.ask(name, RecordType::A).await;
        synthetic(&lab, &address, name);
        for answer in [text, address] {
            let said = extended(&answer);
            assert_eq!(said.as_ref().map(|(code, _)| *code), error, "{name}");
            assert!(said.is_none_or(|(_, text)| text.starts_with(kind)), "{name}");
        }
    }
    let recorded = lab.recorded().await;
    for (name, _, _, kind) in table {
        let own: Vec<_> = recorded.iter().filter(|record| record["host"] == name).collect();
        assert_eq!(own.len(), 1, "{name}: {own:?}");
        assert_eq!(own[0].get("type").and_then(|kind| kind.as_str()).unwrap_or(""), kind);
        let decision = if kind == "host_denied" { "deny" } else { "allow" };
        assert_eq!(own[0]["decision"], decision, "{name}");
    }
}

#[tokio::test]
async fn a_client_without_edns_gets_none() {
    let lab = Lab::with(ALLOWING, |_, _| Says::Code(ResponseCode::ServFail)).await;
    let denied: [&[u8]; 2] = [b"exfil", b"example"];
    let broken: [&[u8]; 3] = [b"api", b"example", b"com"];
    for labels in [&denied[..], &broken[..]] {
        for kind in [1, 16, 65] {
            let answer = lab.ask_raw(&query(labels, kind)).await;
            assert!(answer.edns.is_none() && answer.additionals.is_empty(), "{labels:?} {kind}");
        }
    }
}
