//! The table of refusals (docs/refusals.md), over both protocols: status, type, header and
//! body agree, the audit file has the same request id, and the origin saw nothing.

mod origins;
mod smuggled;

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
