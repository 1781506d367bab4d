//! Origins that fail, and what they send beside an answer.

use std::net::TcpListener;

use interceptor_tests::Lab;
use interceptor_tests::ca::Flaw;
use interceptor_tests::client::fetch::Plan;

use super::{HOST, PROTOCOLS, policy, refused};

#[test]
fn an_origin_that_cannot_be_reached_is_said_to_be_so() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            // Bound, then closed: nobody listens there.
            let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, nowhere);
            refused(
                sandbox,
                &Plan::https(HOST, protocol).ask("GET", "/v1/models"),
                502,
                "upstream_unreachable",
            );
        });
    }
}

#[test]
fn t4_a_certificate_that_proves_nothing_gets_no_request() {
    for (index, flaw) in Flaw::ALL.into_iter().enumerate() {
        Lab::test(|lab| {
            let origin = lab.another_origin(&["h2", "http/1.1"], vec![(HOST.to_owned(), flaw)]);
            let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
            let plan = Plan::https(HOST, PROTOCOLS[index % 2]).ask("GET", "/v1/models");
            let (reports, outcome) = sandbox.fetch_outcome(&plan);
            assert_eq!(reports[0].error, None, "{flaw:?}: {}", outcome.tail());
            let refusal = reports[0].answers[0].refusal();
            assert_eq!(
                (refusal.status, refusal.reason.as_str()),
                (502, "upstream_tls"),
                "{flaw:?}"
            );
            let expected = match flaw {
                Flaw::Expired => "expired on 2020-01-01",
                Flaw::NotYetValid => "not valid before 2999-01-01",
                Flaw::WrongHost => "is for `elsewhere.test`",
                Flaw::SelfSigned | Flaw::UntrustedRoot | Flaw::MissingIntermediate => {
                    "--upstream-ca"
                }
                Flaw::CommonNameOnly => "no host name",
                Flaw::ClientOnly => "for clients, not for servers",
                Flaw::BareWildcard | Flaw::PartialWildcard | Flaw::ShallowWildcard => "is for `",
                Flaw::NameConstraint => "may not issue any for that name",
                Flaw::IssuerIsNoAuthority => "may not issue any",
            };
            assert!(
                refusal.error["message"].as_str().is_some_and(|said| said.contains(expected)),
                "{flaw:?}: {refusal:?}"
            );
            assert_eq!(lab.seen().len(), 0, "{flaw:?}");
        });
    }
}

#[test]
fn an_origin_that_breaks_http_is_said_to_do_so() {
    let answers: [&[u8]; 8] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
          5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
    ];
    for answer in answers {
        Lab::test(|lab| {
            let origin = lab.scripted(answer);
            let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
            refused(
                sandbox,
                &Plan::https(HOST, "http/1.1").ask("GET", "/v1/models"),
                502,
                "upstream_protocol",
            );
        });
    }
}

#[test]
fn an_origin_that_closes_without_an_answer_is_said_to_do_so() {
    Lab::test(|lab| {
        let origin = lab.scripted(b"");
        let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
        let plan = Plan::https(HOST, "http/1.1").ask("GET", "/v1/models");
        let refusal = sandbox.fetch(&plan)[0].answers[0].refusal();
        assert!(refusal.status == 502 && refusal.reason.starts_with("upstream_"), "{refusal:?}");
    });
}

#[test]
fn h2_what_follows_an_answer_is_never_the_answer_to_another_request() {
    Lab::test(|lab| {
        let origin = lab.scripted(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\
              okHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        );
        let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
        let plan = (0..5).fold(Plan::https(HOST, "http/1.1"), |plan, n| {
            plan.ask("GET", &format!("/v1/models/{n}"))
        });
        let reports = sandbox.fetch(&plan);
        assert_eq!(reports[0].answers.len(), 5);
        assert!(reports[0].answers.iter().all(|answer| answer.body == "ok"), "{reports:?}");
    });
}

#[test]
fn h17_informational_answers_do_not_confuse_what_follows() {
    Lab::test(|lab| {
        let mut answer = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(20);
        answer.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let origin = lab.scripted(answer.leak());
        let sandbox = lab.sandbox(&policy(lab)).resolve(HOST, origin.address());
        let reports = sandbox.fetch(
            &Plan::https(HOST, "http/1.1").ask("GET", "/v1/models").ask("GET", "/v1/models"),
        );
        assert!(reports[0].answers.iter().all(|answer| answer.body == "ok"), "{reports:?}");
    });
}
