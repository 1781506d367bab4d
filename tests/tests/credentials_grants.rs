//! A key can be used only as the rules permit, however the request is made.

use std::process::Command;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

#[test]
fn c6_narrow_rules_keep_endpoints_that_mint_keys_out_of_reach() {
    let output = Command::new(binary("interceptor")).args(["services", "--json"]).output().unwrap();
    let services: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let minting: Vec<&Value> = services
        .iter()
        .filter(|service| !service["mints"].as_array().unwrap().is_empty())
        .collect();
    assert!(minting.len() >= 5, "{services:?}");
    for service in minting {
        Lab::test(|lab| {
            let name = service["name"].as_str().unwrap();
            let host = service["hosts"][0].as_str().unwrap();
            let credential = json!({
                "key": { "file": lab.key_file() },
                "endpoints": [{
                    "methods": ["GET", "POST"],
                    "paths": ["/v1/chat/completions", "/repos/mine/only/issues"],
                }],
            });
            let policy =
                json!({ "network": { "allow": [host] }, "credentials_v2": { name: credential } });
            let mints: Vec<&str> = service["mints"]
                .as_array()
                .unwrap()
                .iter()
                .map(|request| request.as_str().unwrap())
                .collect();
            let plan = mints.iter().fold(Plan::https(host, "h2"), |plan, request| {
                let (method, path) = request.split_once(' ').unwrap();
                plan.ask_with(method, path, &[("content-type", "application/json")], "{}")
            });
            let (reports, outcome) = lab.sandbox(&policy).at_origin(host).fetch_outcome(&plan);
            for (request, answer) in mints.iter().zip(&reports[0].answers) {
                assert_eq!(answer.refusal().reason, "endpoint_denied", "{name}: {request}");
            }
            assert_eq!(outcome.requests("deny").len(), mints.len());
            assert_eq!(lab.seen().len(), 0);
        });
    }
}

#[test]
fn c8_a_rule_for_one_owner_gives_nothing_of_anothers() {
    let others = [
        "/repos/other/x/issues",
        "/repos/mine/../other/x",
        "/repos/mine/%2e%2e/other/x",
        "/repos/mine/%2E./other/x",
        "/repos/mine/..%2fother/x",
        "/repos/mine%2f..%2fother/x",
        "/repos/mine/x/..;/..;/other",
        "/repos/mine/..%5cother/x",
        "/repos/mine/%252e%252e/other/x",
        "/repos/mine/%c0%ae%c0%ae/other/x",
        "/repos/MINE/x",
        "/repos/minex/x",
        "/repos/mine",
        "/repos//other/x",
        "//repos/other/x",
        "/./repos/other/x",
        "/x/../repos/other/x",
        "/gists",
        "/user/repos",
        "/repos/mine/x%00/../../other",
        "/repositories/1",
    ];
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/repos/mine/**"] }]));
        for protocol in ["h2", "http/1.1"] {
            for method in ["GET", "POST", "DELETE"] {
                let plan = others
                    .iter()
                    .fold(Plan::https(HOST, protocol), |plan, path| plan.ask(method, path));
                // A refusal may close the connection, so each HTTP/1.1 request has its own.
                let plans: Vec<Plan> = if protocol == "h2" {
                    vec![plan]
                } else if method == "GET" {
                    plan.requests
                        .iter()
                        .map(|ask| Plan { requests: vec![ask.clone()], ..plan.clone() })
                        .collect()
                } else {
                    continue;
                };
                for plan in plans {
                    let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
                    for (ask, answer) in plan.requests.iter().zip(&reports[0].answers) {
                        let refusal = answer.refusal();
                        assert!(
                            ["endpoint_denied", "path_ambiguous"]
                                .contains(&refusal.reason.as_str()),
                            "{} {}: {refusal:?}",
                            ask.method,
                            ask.path
                        );
                    }
                }
            }
        }
        assert_eq!(lab.seen().len(), 0);
        let plan = Plan::https(HOST, "h2").ask("GET", "/repos/mine/x/issues");
        assert_eq!(lab.sandbox(&policy).at_origin(HOST).fetch(&plan)[0].answers[0].status, 200);
    });
}

#[test]
fn c13_a_key_for_a_host_that_is_not_opened_stops_the_start() {
    Lab::test(|lab| {
        for (passthrough, hosts) in [
            (HOST, HOST),
            ("*.example.test", HOST),
            (HOST, "*.example.test"),
            ("*", HOST),
            (HOST, "api.example.test:8443"),
        ] {
            let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
            policy["credentials_v2"]["lab"]["hosts"] = json!([hosts]);
            policy["network"]["passthrough"] = json!([passthrough]);
            let outcome = lab.sandbox(&policy).bare().shell("echo started");
            assert_eq!(outcome.code(), Some(125), "{passthrough} {hosts}: {}", outcome.tail());
            assert!(outcome.err().contains("/network/passthrough/0"), "{}", outcome.tail());
            assert_eq!(outcome.out(), "", "no command runs, with or without the key");
        }
    });
}

#[test]
fn c15_a_key_is_used_no_faster_than_the_limit_says() {
    const ASKED: usize = 60;
    Lab::test(|lab| {
        lab.unordered();
        let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        policy["limits"] = json!({ "requests_per_second_per_host": 1 });
        let plan = (0..ASKED).fold(Plan::https(HOST, "h2"), |plan, _| plan.ask("GET", "/v1/x"));
        let (reports, outcome) = lab.sandbox(&policy).at_origin(HOST).fetch_outcome(&plan);
        let answers = &reports[0].answers;
        let refused = answers.iter().filter(|answer| answer.status == 429).count();
        for answer in answers.iter().filter(|answer| answer.status == 429) {
            assert_eq!(answer.refusal().reason, "limit_exceeded");
        }
        // All are sent at once: only if that took half a minute could this many pass.
        assert!(refused > ASKED / 2, "{refused} of {ASKED} refused");
        assert_eq!(lab.seen().len(), ASKED - refused);
        assert_eq!(outcome.requests("deny").len(), refused);
    });
    Lab::test(|lab| {
        let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        // Two bodies with their heads, which count too, but not a third.
        policy["limits"] = json!({ "bytes_up_per_host": 1400 });
        let body = "x".repeat(400);
        let plan = (0..4).fold(Plan::https(HOST, "http/1.1"), |plan, _| {
            plan.ask_with("POST", "/upload", &[], &body)
        });
        let plans =
            plan.requests.iter().map(|ask| Plan { requests: vec![ask.clone()], ..plan.clone() });
        // Each over its own connection in one sandbox, by a shell with curl.
        let script: String = plans
            .map(|_| {
                format!(
                    "curl -sS -o /dev/null -w '%{{http_code}} ' -d {body} https://{HOST}/upload; "
                )
            })
            .collect();
        let outcome = lab.sandbox(&policy).at_origin(HOST).shell(&script);
        assert!(outcome.out().starts_with("200 200 4"), "{}", outcome.out());
    });
}

#[test]
fn h8_no_method_that_echoes_a_request_carries_a_key() {
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
        for (line, status, reason) in [
            ("TRACE /v1/x", "405", "method_refused"),
            ("trace /v1/x", "405", "method_refused"),
            ("TRACK /v1/x", "405", "method_refused"),
            ("CONNECT api.example.test:443", "405", "method_refused"),
            ("OPTIONS *", "403", "endpoint_denied"),
            ("TRACE *", "405", "method_refused"),
        ] {
            let bytes = format!(
                "{line} HTTP/1.1\r\nhost: {HOST}\r\nmax-forwards: 0\r\nconnection: close\r\n\r\n"
            );
            let outcome = lab.sandbox(&policy).at_origin(HOST).send(
                &format!("{HOST}:443"),
                Some(HOST),
                bytes.as_bytes(),
            );
            assert!(
                outcome.out().starts_with(&format!("HTTP/1.1 {status} ")),
                "{line}: {}",
                outcome.out()
            );
            outcome.one_denied(reason);
        }
        let plan = Plan::https(HOST, "h2").ask("TRACE", "/v1/x").ask("TRACK", "/v1/x");
        let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
        assert!(reports[0].answers.iter().all(|answer| answer.status == 405), "{reports:?}");
        assert_eq!(lab.seen().len(), 0);
    });
}
