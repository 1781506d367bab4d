//! What is answered, what leaves, and what is recorded.

use super::*;

#[tokio::test]
async fn a_permitted_name_gets_a_synthetic_address_in_each_family_and_one_question_leaves() {
    let lab = Lab::new(ALLOWING).await;
    for _ in 0..3 {
        let four = lab.ask("ApI.eXample.com", RecordType::A).await;
        synthetic(&lab, &four, "api.example.com");
        let six = lab.ask("api.example.com", RecordType::AAAA).await;
        synthetic(&lab, &six, "api.example.com");
        assert_eq!(four.answers[0].ttl, 60);
        // 0x20: the question and the owner are spelt as they were asked for.
        assert_eq!(four.queries[0].name().to_ascii(), "ApI.eXample.com.");
        assert_eq!(four.answers[0].name.to_ascii(), "ApI.eXample.com.");
        assert!(four.metadata.recursion_available && four.metadata.recursion_desired);
        assert_eq!(four.metadata.id, 0x1234);
    }
    assert_eq!(lab.outside.log(), [("api.example.com".to_owned(), RecordType::A)]);
    let recorded = lab.recorded().await;
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(recorded[0]["kind"], "dns");
    assert_eq!(recorded[0]["decision"], "allow");
    assert_eq!(recorded[0]["host"], "api.example.com");
}

#[tokio::test]
async fn a_permitted_name_that_does_not_exist_does_not_exist() {
    let lab = Lab::new(ALLOWING).await;
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = lab.ask("missing.example.com", kind).await;
        assert_eq!(code(&answer), ResponseCode::NXDomain);
        assert!(answer.answers.is_empty());
    }
}

#[tokio::test]
async fn d1_no_question_leaves_for_a_name_that_the_policy_denies() {
    let lab = Lab::new(ALLOWING).await;
    let names = [
        "6a1f2c9d8e7b6a5f4c3d2e1f0a9b8c7d.exfil.example",
        "exfil.example",
        "example.com",
        "api.example.com.exfil.example",
        "notapi.example.com",
        "cdn.example.com",
    ];
    for name in names {
        for kind in [RecordType::A, RecordType::AAAA] {
            synthetic(&lab, &lab.ask(name, kind).await, name);
        }
        let others = [
            RecordType::TXT,
            RecordType::NULL,
            RecordType::SRV,
            RecordType::ANY,
            RecordType::PTR,
            RecordType::MX,
            RecordType::CNAME,
            RecordType::NS,
            RecordType::SOA,
            RecordType::Unknown(65_280),
        ];
        for kind in others {
            let answer = lab.ask(name, kind).await;
            assert_eq!(code(&answer), ResponseCode::Refused, "{name} {kind}");
            assert!(answer.answers.is_empty());
            let (error, text) = extended(&answer).expect("an extended error");
            assert!(error == 15 && text.starts_with("host_denied"), "{error} {text}");
        }
        let https = lab.ask(name, RecordType::HTTPS).await;
        assert_eq!((code(&https), https.answers.len()), (ResponseCode::NoError, 0));
    }
    assert_eq!(lab.outside.log(), []);
    // Each denial is recorded, once.
    let recorded = lab.recorded().await;
    assert_eq!(recorded.len(), names.len(), "{recorded:?}");
    for (record, name) in recorded.iter().zip(names) {
        assert_eq!(record["host"], name);
        assert_eq!((&record["decision"], &record["type"]), (&"deny".into(), &"host_denied".into()));
        assert_eq!((&record["kind"], &record["filter"]), (&"dns".into(), &"network".into()));
        assert!(record.get("status").is_none());
    }
}

#[tokio::test]
async fn d8_no_answer_carries_endpoints_and_only_known_types_are_asked_for() {
    let lab = Lab::new(ALLOWING).await;
    for kind in
        [RecordType::HTTPS, RecordType::SVCB, RecordType::NULL, RecordType::ANY, RecordType::HINFO]
    {
        let answer = lab.ask("api.example.com", kind).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    assert_eq!(lab.outside.log(), []);
    let answer = lab.ask("API.example.com", RecordType::MX).await;
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.answers[0].name.to_ascii(), "API.example.com.");
    assert_eq!(
        lab.ask("missing.example.com", RecordType::TXT).await.metadata.response_code,
        ResponseCode::NXDomain
    );
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(code(&lab.ask("api.example.com", kind).await), ResponseCode::Refused);
    }
}

#[tokio::test]
async fn d9_local_names_and_reverse_zones_are_answered_here() {
    let lab = Lab::new("{}").await;
    for name in ["localhost", "foo.localhost", "LOCALHOST", "a.b.localhost"] {
        assert_eq!(
            addresses(&lab.ask(name, RecordType::A).await),
            [IpAddr::V4(Ipv4Addr::LOCALHOST)],
            "{name}"
        );
        assert_eq!(
            addresses(&lab.ask(name, RecordType::AAAA).await),
            ["::1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(lab.ask(name, RecordType::TXT).await.answers.len(), 0);
    }
    for name in ["intranet", "wpad", "isatap", "com"] {
        assert_eq!(code(&lab.ask(name, RecordType::A).await), ResponseCode::NXDomain, "{name}");
    }
    for name in [
        "10.in-addr.arpa",
        "1.0.0.10.in-addr.arpa",
        "254.169.254.169.in-addr.arpa",
        "data.exfil.in-addr.arpa",
        "1.1.18.198.in-addr.arpa",
        "ipv4only.arpa",
        "arpa",
    ] {
        for kind in [RecordType::PTR, RecordType::A, RecordType::TXT] {
            assert_eq!(code(&lab.ask(name, kind).await), ResponseCode::NXDomain, "{name}");
        }
    }
    let six = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa";
    for name in ["1.0.0.127.in-addr.arpa", six] {
        assert_eq!(lab.ask(name, RecordType::PTR).await.answers[0].data.to_string(), "localhost.");
    }
    assert_eq!(lab.outside.log(), []);
    // A synthetic address has the name it stands for.
    lab.ask("api.example.com", RecordType::A).await;
    let answer = lab.ask("0.1.18.198.in-addr.arpa", RecordType::PTR).await;
    assert_eq!(answer.answers[0].data.to_string(), "api.example.com.");
}

#[tokio::test]
async fn d7_what_is_no_host_name_does_not_exist_and_is_not_asked_for() {
    let lab = Lab::new("{}").await;
    for name in ["127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "10.9", "4294967295"] {
        assert_eq!(code(&lab.ask(name, RecordType::A).await), ResponseCode::NXDomain, "{name}");
    }
    let odd: [&[&[u8]]; 7] = [
        &[b"evil.com"],
        &[b"api.example", b"com"],
        &[b"a\0b", b"example", b"com"],
        &[b"a b", b"example", b"com"],
        &[b"evil\\", b"com"],
        &["münchen".as_bytes(), b"example"],
        &[b"\xff\xfe", b"example"],
    ];
    for labels in odd {
        let answer = lab.ask_raw(&query(labels, 1)).await;
        assert_eq!(code(&answer), ResponseCode::NXDomain, "{labels:?}");
    }
    assert_eq!(lab.outside.log(), []);
}

#[tokio::test]
async fn d7_mutated_queries_get_an_answer_or_silence_and_the_resolver_lives() {
    let lab = Lab::new(r#"{"network":{"deny":["*"]}}"#).await;
    let seed = with_options(
        query(&[b"api", b"example", b"com"], 1),
        1232,
        &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
    );
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut answered = 0;
    for _ in 0..20_000 {
        let mut message = seed.clone();
        for _ in 0..=random(3) {
            let at = random(message.len());
            message[at] = random(256) as u8;
        }
        if random(4) == 0 {
            message.truncate(random(message.len() + 1));
        }
        if let Some(reply) = lab.server.answer_udp(&message).await {
            let answer = reply.message;
            answered += 1;
            assert!(answer.len() <= 1232 && answer.len() >= 12);
            assert_eq!(answer[..2], message[..2], "the id is the query's");
            assert_eq!(answer[2] & 0x80, 0x80, "an answer is a response");
        }
    }
    assert!(answered > 1000, "{answered}");
    assert_eq!(lab.outside.log(), []);
    synthetic(&lab, &lab.ask("api.example.com", RecordType::A).await, "api.example.com");
}

#[tokio::test]
async fn d7_what_is_no_question_is_answered_by_a_header_of_its_own() {
    let lab = Lab::new("{}").await;
    let plain = query(&[b"api", b"example", b"com"], 1);
    let mut update = plain.clone();
    update[2] = 5 << 3;
    let answer = lab.server.answer_udp(&update).await.unwrap().message;
    assert_eq!(answer, [0x12, 0x34, 0x80 | 5 << 3, 0x80 | 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut newer = with_options(plain, 1232, &[]);
    let version = newer.len() - 5;
    newer[version] = 1;
    let answer = lab.ask_raw(&newer).await;
    assert_eq!(answer.edns.unwrap().rcode_high(), 1, "BADVERS");
}

#[tokio::test]
async fn d4_random_labels_under_a_wildcard_are_not_a_tunnel_and_the_flood_is_reported() {
    let lab = Lab::with(ALLOWING, |_, kind| match kind {
        RecordType::TXT => {
            Says::Records(600, vec![RData::TXT(TXT::new(vec!["v=spf1 -all".to_owned()]))])
        }
        _ => Says::addresses(600, kind, &["192.0.2.1"]),
    })
    .await;
    let start = Instant::now();
    for number in 0..10_000 {
        let name = format!("x{number:032}.cdn.example.com");
        let kind = if number % 3 == 0 { RecordType::TXT } else { RecordType::A };
        let answer = lab.ask(&name, kind).await;
        if kind == RecordType::A {
            synthetic(&lab, &answer, &name);
        }
    }
    let asked = lab.outside.log().len();
    let bound = 200 + 20 * (start.elapsed().as_secs() as usize + 1);
    assert!(asked <= bound, "{asked} questions left, {bound} are the bound");
    assert!(asked >= 200, "{asked}");
    let recorded = lab.recorded().await;
    let alarms = recorded.iter().filter(|record| record["type"] == "dns_budget_exhausted").count();
    assert_eq!(alarms, 1);
}

#[tokio::test]
async fn a_name_that_carries_a_placeholder_is_refused_and_recorded() {
    let lab = Lab::new("{}").await;
    for kind in [RecordType::A, RecordType::TXT, RecordType::HTTPS] {
        let answer = lab.ask("sk-PROXY-managed-4242.api.example.com", kind).await;
        assert_eq!(code(&answer), ResponseCode::Refused);
    }
    assert_eq!(lab.outside.log(), []);
    let recorded = lab.recorded().await;
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(recorded[0]["type"], "credential_misuse");
    assert_eq!(recorded[0]["filter"], "credential");
}

#[tokio::test]
async fn a_new_policy_holds_from_the_next_question_on() {
    let lab = Lab::new(ALLOWING).await;
    let before = addresses(&lab.ask("api.example.com", RecordType::A).await);
    *lab.rules.policy.lock().unwrap() = Arc::new(policy(r#"{"network":{"deny":["*"]}}"#));
    let after = addresses(&lab.ask("api.example.com", RecordType::A).await);
    assert_eq!(before, after, "a name keeps its address");
    assert_eq!(code(&lab.ask("api.example.com", RecordType::MX).await), ResponseCode::Refused);
    assert_eq!(lab.outside.log().len(), 1);
    let recorded = lab.recorded().await;
    let decisions: Vec<_> =
        recorded.iter().map(|record| record["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions, ["allow", "deny"]);
}

#[tokio::test]
async fn a_name_server_that_is_silent_delays_an_address_but_does_not_deny_it() {
    let lab = Lab::with(ALLOWING, |_, _| Says::Silence).await;
    let start = Instant::now();
    synthetic(&lab, &lab.ask("api.example.com", RecordType::A).await, "api.example.com");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn without_ipv6_no_name_has_an_ipv6_address() {
    let lab = Lab::new("{}").await;
    let server = DnsServer::new(DnsOptions {
        sandbox: "s2".into(),
        names: Arc::new(Names::new()),
        rules: Arc::clone(&lab.rules) as Arc<dyn DnsRules>,
        upstream: Upstream::new(UpstreamOptions {
            name_servers: NameServers::These(vec![lab.outside.address]),
            ..UpstreamOptions::default()
        }),
        audit: lab.audit.clone(),
        ipv6: false,
        metrics: Arc::default(),
    });
    let answer = server.answer_udp(&query(&[b"api", b"example", b"com"], 28)).await.unwrap();
    let answer = Message::from_vec(&answer.message).unwrap();
    assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn x4_a_table_full_of_names_in_use_answers_that_it_is() {
    let lab = Lab::new(ALLOWING).await;
    let fill = |number: u32| {
        let Ok(Host::Name(name)) = Host::parse(&format!("n{number}.cdn.example.com")) else {
            panic!()
        };
        lab.names.addresses(&name, |_| true).is_some()
    };
    assert!((0..32_768).all(fill));
    let full = lab.ask("one.more.cdn.example.com", RecordType::A).await;
    assert_eq!(code(&full), ResponseCode::ServFail);
    assert!(extended(&full).unwrap().1.starts_with("limit_exceeded"));
    assert_eq!(code(&lab.ask("exfil.example", RecordType::A).await), ResponseCode::Refused);
    synthetic(&lab, &lab.ask("n17.cdn.example.com", RecordType::A).await, "n17.cdn.example.com");
    let recorded = lab.recorded().await;
    assert!(recorded.iter().any(|record| record["type"] == "limit_exceeded"), "{recorded:?}");
    assert!(recorded.iter().any(|record| record["type"] == "host_denied"), "{recorded:?}");
}

#[tokio::test]
async fn x4_denied_names_do_not_close_the_table_for_permitted_ones() {
    let lab = Lab::new(ALLOWING).await;
    let before = addresses(&lab.ask("api.example.com", RecordType::A).await);
    for number in 0..33_000 {
        let Ok(Host::Name(name)) = Host::parse(&format!("n{number}.exfil.example")) else {
            panic!()
        };
        assert!(lab.names.addresses(&name, |_| false).is_some(), "{number}");
    }
    synthetic(&lab, &lab.ask("new.cdn.example.com", RecordType::A).await, "new.cdn.example.com");
    synthetic(&lab, &lab.ask("last.exfil.example", RecordType::A).await, "last.exfil.example");
    assert_eq!(addresses(&lab.ask("api.example.com", RecordType::A).await), before);
    synthetic(&lab, &lab.ask("api.example.com", RecordType::A).await, "api.example.com");
}
