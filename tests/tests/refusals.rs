//! The table of refusals (docs/refusals.md), over both protocols: status, type, header and
//! body agree, the audit file has the same request id, and the origin saw nothing.

use std::net::TcpListener;

use interceptor_tests::ca::Flaw;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::outcome::Refusal;
use interceptor_tests::sandbox::Sandbox;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/models"] }]))
}

/// Whether the origin may have received the request before it was refused for this reason.
fn may_be_received(reason: &str) -> bool {
    matches!(reason, "upstream_protocol" | "upstream_timeout")
}

/// Runs a plan of one request that must be refused, and checks what holds for every refusal.
#[track_caller]
fn refused(sandbox: Sandbox<'_>, plan: &Plan, status: u16, reason: &str) -> (Refusal, Outcome) {
    let (reports, outcome) = sandbox.fetch_outcome(plan);
    assert_eq!(reports[0].error, None, "{}", outcome.tail());
    let refusal = reports[0].answers[0].refusal();
    assert_eq!((refusal.status, refusal.reason.as_str()), (status, reason), "{refusal:?}");
    let record = outcome.one_with(reason);
    let received = may_be_received(reason);
    assert!(received || record.decision.as_deref() == Some("deny"), "{record:?}");
    assert_eq!(record.id.as_deref(), refusal.error["request_id"].as_str(), "{record:?}");
    assert_eq!(record.status, Some(status), "{record:?}");
    assert_eq!(record.host.as_deref(), refusal.error["host"].as_str(), "{record:?}");
    (refusal, outcome)
}

#[test]
fn a_denied_host_is_explained_over_http_and_never_dialled() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let sandbox = lab.sandbox(&policy(lab)).at_forbidden("evil.test");
            let (refusal, outcome) = refused(
                sandbox,
                &Plan::https("evil.test", protocol).ask("GET", "/loot"),
                403,
                "host_denied",
            );
            assert_eq!(
                (&refusal.error["host"], &refusal.error["method"]),
                (&json!("evil.test"), &json!("GET"))
            );
            assert_eq!(refusal.error["path"], "/loot");
            assert_eq!(outcome.one_denied("host_denied").filter.as_deref(), Some("network"));
        });
    }
    Lab::test(|lab| {
        let sandbox = lab.sandbox(&policy(lab)).at_forbidden("evil.test");
        refused(sandbox, &Plan::http("evil.test").ask("GET", "/loot"), 403, "host_denied");
    });
}

#[test]
fn a_denied_method_and_a_denied_path_never_reach_the_origin() {
    for protocol in PROTOCOLS {
        for (method, path) in [
            ("DELETE", "/v1/models"),
            ("get", "/v1/models"),
            ("HEAD", "/v1/models"),
            ("GET", "/admin"),
        ] {
            Lab::test(|lab| {
                let plan = Plan::https(HOST, protocol).ask(method, path);
                if method == "HEAD" {
                    // No body tells why; the header does.
                    let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
                    let answer = &reports[0].answers[0];
                    let decision = answer.header("x-interceptor-decision");
                    assert_eq!(
                        (answer.status, decision),
                        (403, Some("deny; reason=endpoint_denied"))
                    );
                    assert_eq!(lab.seen().len(), 0);
                    return;
                }
                let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST);
                let (refusal, outcome) = refused(sandbox, &plan, 403, "endpoint_denied");
                assert_eq!(refusal.error["credential"], "lab");
                assert_eq!(refusal.error["path"], path);
                assert_eq!(
                    outcome.one_denied("endpoint_denied").filter.as_deref(),
                    Some("endpoint")
                );
                assert_eq!(lab.seen().len(), 0);
            });
        }
    }
}

#[test]
fn a_path_on_a_segment_boundary_only() {
    Lab::test(|lab| {
        let plan = Plan::https(HOST, "http/1.1")
            .ask("GET", "/v1/models")
            .ask("GET", "/v1/models/gpt-4")
            .ask("GET", "/v1/models-admin")
            .ask("GET", "/V1/models")
            .ask("GET", "/v1/models?x=/admin")
            .ask("GET", "/v1/%6dodels");
        let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
        let statuses: Vec<u16> = reports[0].answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 200, 403, 403, 200, 200]);
        assert_eq!(
            lab.seen().last().unwrap().path,
            "/v1/models",
            "the canonical path is what is forwarded"
        );
    });
}

#[test]
fn r1_a_path_with_two_readings_is_refused_before_any_rule() {
    let paths = [
        "/v1/models/../../admin",
        "/v1/models/%2e%2e/%2e%2e/admin",
        "/v1/models/.%2e/x",
        "/v1/models/%252e%252e/x",
        "/v1/models/./x",
        "/v1/models/..;x/y",
        "/v1/models/..%2fadmin",
        "/v1/models/..%5cadmin",
        "/v1/models%5c..%5cadmin",
        "/v1/models/%00",
        "/v1/models/%0d%0a",
        "/v1/models/%c0%ae%c0%ae/x",
        "/v1/models/%ff",
        "/v1/models/%zz",
        "/v1/models/%",
        "/v1/models/%u002e",
    ];
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let plan =
                paths.iter().fold(Plan::https(HOST, protocol), |plan, path| plan.ask("GET", path));
            let (reports, outcome) = lab.sandbox(&policy(lab)).at_origin(HOST).fetch_outcome(&plan);
            for (answer, path) in reports[0].answers.iter().zip(paths) {
                assert_eq!(answer.status, 400, "{path}: {answer:?}");
                assert_eq!(answer.refusal().reason, "path_ambiguous", "{path}");
            }
            assert_eq!(outcome.requests("deny").len(), paths.len());
            assert_eq!(lab.seen().len(), 0);
        });
    }
}

#[test]
fn trace_and_connect_are_refused() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST);
            refused(
                sandbox,
                &Plan::https(HOST, protocol).ask("TRACE", "/v1/models"),
                405,
                "method_refused",
            );
            assert_eq!(lab.seen().len(), 0);
        });
    }
    Lab::test(|lab| {
        let head = format!("CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n");
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).send(
            &format!("{HOST}:443"),
            Some(HOST),
            head.as_bytes(),
        );
        assert!(outcome.out().starts_with("HTTP/1.1 405 "), "{}", outcome.out());
        outcome.one_denied("method_refused");
    });
}

#[test]
fn r3_an_override_header_cannot_name_a_method_that_the_rules_deny() {
    for protocol in PROTOCOLS {
        for name in ["x-http-method-override", "x-http-method", "method-override"] {
            Lab::test(|lab| {
                let plan = Plan::https(HOST, protocol).ask_with(
                    "GET",
                    "/v1/models",
                    &[(name, "DELETE")],
                    "",
                );
                let (reports, _) = lab.sandbox(&policy(lab)).at_origin(HOST).fetch_outcome(&plan);
                assert_eq!(reports[0].answers[0].status, 403, "{:?}", reports[0].answers);
                assert_eq!(lab.seen().len(), 0);
            });
        }
    }
}

#[test]
fn r3_a_parameter_cannot_name_a_method_that_the_rules_deny() {
    for query in ["_method=DELETE", "a=1&%5fmethod=delete"] {
        Lab::test(|lab| {
            let target = format!("/v1/models?{query}");
            let plan = Plan::https(HOST, PROTOCOLS[0]).ask("GET", &target);
            let (reports, _) = lab.sandbox(&policy(lab)).at_origin(HOST).fetch_outcome(&plan);
            assert_eq!(reports[0].answers[0].status, 403, "{:?}", reports[0].answers);
            assert_eq!(lab.seen().len(), 0);
        });
    }
}

#[test]
fn t1_every_name_that_is_present_must_be_the_same_host() {
    for protocol in PROTOCOLS {
        // SNI and connection say one host, the request another: allowed or not.
        for other in ["evil.test", "other.example.test"] {
            Lab::test(|lab| {
                let mut policy = policy(lab);
                policy["network"]["allow"] = json!([HOST, "other.example.test"]);
                let sandbox = lab.sandbox(&policy).at_origin(HOST).at_forbidden(other);
                let mut plan = Plan::https(HOST, protocol).ask("GET", "/v1/models");
                plan.requests[0].host = other.to_owned();
                refused(sandbox, &plan, 421, "authority_mismatch");
                assert_eq!(lab.seen().len(), 0);
            });
        }
        // The connection was for a looked-up name, and the SNI says another.
        Lab::test(|lab| {
            let mut policy = policy(lab);
            policy["network"]["allow"] = json!([HOST, "other.example.test"]);
            let sandbox = lab.sandbox(&policy).at_origin(HOST).at_forbidden("other.example.test");
            let mut plan = Plan::https(HOST, protocol).ask("GET", "/v1/models");
            plan.connect = "other.example.test:443".to_owned();
            let (reports, outcome) = sandbox.fetch_outcome(&plan);
            match &reports[0].error {
                None => assert_eq!(reports[0].answers[0].refusal().reason, "authority_mismatch"),
                Some(error) => assert!(error.contains("TLS"), "{error}"),
            }
            assert!(outcome.requests("allow").is_empty());
            assert_eq!(lab.seen().len(), 0);
        });
    }
}

#[test]
fn c2_plain_http_to_a_governed_host_is_refused() {
    Lab::test(|lab| {
        let sandbox = lab.sandbox(&policy(lab)).at_origin(HOST);
        let (_, outcome) =
            refused(sandbox, &Plan::http(HOST).ask("GET", "/v1/models"), 403, "plaintext_denied");
        assert_eq!(outcome.one_denied("plaintext_denied").credential.as_deref(), Some("lab"));
        assert_eq!(lab.seen().len(), 0);
    });
    Lab::test(|lab| {
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["allow_plaintext"] = json!(true);
        let reports =
            lab.sandbox(&policy).at_origin(HOST).fetch(&Plan::http(HOST).ask("GET", "/v1/models"));
        assert_eq!(reports[0].answers[0].status, 200, "{:?}", reports[0]);
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);
    });
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let long = "x".repeat(200_000);
            let plan =
                Plan::https(HOST, protocol).ask_with("GET", "/v1/models", &[("x-long", &long)], "");
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
            let answer = &reports[0].answers[0];
            assert!(
                answer.status == 431 || (answer.status == 0 && answer.error.is_some()),
                "{answer:?}"
            );
            assert_eq!(lab.seen().len(), 0);
        });
    }
}

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
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
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
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
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

#[test]
fn h1_h3_h6_requests_with_two_readings_are_refused_and_the_connection_closed() {
    let cases: &[(&str, &str)] = &[
        (
            "CL and TE",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 4\r\ntransfer-encoding: \
             chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: H\r\n\r\n",
        ),
        (
            "TE and CL",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ntransfer-encoding: chunked\r\ncontent-length: \
             4\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nhost: H\r\n\r\n",
        ),
        (
            "two lengths",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 4\r\ncontent-length: \
             5\r\n\r\nabcde",
        ),
        (
            "a list of lengths",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 4, 5\r\n\r\nabcde",
        ),
        (
            "a signed length",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: +4\r\n\r\nabcd",
        ),
        ("a hex length", "POST /v1/models HTTP/1.1\r\nhost: H\r\ncontent-length: 0x4\r\n\r\nabcd"),
        (
            "an unknown coding",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked not last",
            "POST /v1/models HTTP/1.1\r\nhost: H\r\ntransfer-encoding: chunked, \
             identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "TE in HTTP/1.0",
            "POST /v1/models HTTP/1.0\r\nhost: H\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("no host", "GET /v1/models HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET /v1/models HTTP/1.1\r\nhost: H\r\nhost: evil.test\r\n\r\n"),
        ("the same host twice", "GET /v1/models HTTP/1.1\r\nhost: H\r\nhost: H\r\n\r\n"),
        ("a list of hosts", "GET /v1/models HTTP/1.1\r\nhost: H, evil.test\r\n\r\n"),
        ("userinfo in host", "GET /v1/models HTTP/1.1\r\nhost: evil.test@H\r\n\r\n"),
        ("a space before the colon", "GET /v1/models HTTP/1.1\r\nhost : H\r\n\r\n"),
        ("a folded line", "GET /v1/models HTTP/1.1\r\nhost: H\r\nx-a: b\r\n c\r\n\r\n"),
        ("an empty name", "GET /v1/models HTTP/1.1\r\nhost: H\r\n: x\r\n\r\n"),
        ("NUL in a value", "GET /v1/models HTTP/1.1\r\nhost: H\r\nx-a: b\0c\r\n\r\n"),
        ("a bare CR in a value", "GET /v1/models HTTP/1.1\r\nhost: H\r\nx-a: b\rc\r\n\r\n"),
        ("an unknown version", "GET /v1/models HTTP/1.9\r\nhost: H\r\n\r\n"),
    ];
    for &(name, case) in cases {
        Lab::test(|lab| {
            let bytes = case
                .replace("host: H", &format!("host: {HOST}"))
                .replace("@H", &format!("@{HOST}"));
            let bytes = bytes.replace(" : H", &format!(" : {HOST}"));
            let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).send(
                &format!("{HOST}:443"),
                Some(HOST),
                bytes.as_bytes(),
            );
            let text = outcome.out();
            assert!(
                text.starts_with("HTTP/1.1 400 ")
                    || text.starts_with("HTTP/1.0 400 ")
                    || text.starts_with("HTTP/1.1 421 "),
                "{name}: {text:?}"
            );
            // Where the host alone is wrong, it is still clear where the next request begins.
            assert!(
                outcome.code() == Some(0) || name.contains("host"),
                "{name}: the connection was left open"
            );
            assert_eq!(
                text.lines().filter(|line| line.starts_with("HTTP/1.")).count(),
                1,
                "{name}: more than one answer: {text}"
            );
            assert_eq!(lab.seen().len(), 0, "{name}");
        });
    }
}

#[test]
fn o2_what_a_request_says_cannot_break_a_record() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": [HOST] } });
        let path = "/a%0A%7B%22decision%22:%22allow%22%7D/\"quoted\"\u{7f}";
        let bytes = format!(
            "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nuser-agent: \x1b[2J\r\nconnection: \
             close\r\n\r\n"
        );
        let outcome = lab.sandbox(&policy).at_origin(HOST).send(
            &format!("{HOST}:443"),
            Some(HOST),
            bytes.as_bytes(),
        );
        // Whatever the decision, each line of the audit file is one object with known fields, and
        // exactly one is about this request.
        let requests = outcome.audit.iter().filter(|record| record.kind == "request").count();
        assert_eq!(requests, 1, "{:#?}", outcome.audit);
    });
}
