//! Clients as people use them, unmodified, with the placeholder as their key: each gets its answer,
//! and the origin gets the real key.

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": ["GET", "POST", "HEAD"], "paths": ["/v1/"] }]))
}

/// Asserts that the origin got exactly `count` requests over TLS, each with the real key.
#[track_caller]
fn assert_injected(lab: &Lab, count: usize, protocol: Option<&str>) {
    let seen = lab.seen();
    assert_eq!(seen.len(), count, "{seen:#?}");
    for request in seen {
        assert_eq!(
            request.values("authorization"),
            [format!("Bearer {}", lab.key())],
            "{request:#?}"
        );
        assert!(request.tls && request.sni.as_deref() == Some(HOST), "{request:#?}");
        assert_eq!(request.host, HOST);
        assert!(protocol.is_none_or(|protocol| protocol == request.protocol), "{request:#?}");
    }
}

#[track_caller]
fn assert_answered(outcome: &Outcome) {
    outcome.success();
    assert!(
        outcome.out().contains("\"origin\":\"saw it\""),
        "{}\n{}",
        outcome.out(),
        outcome.tail()
    );
}

#[test]
fn curl_over_http1_and_http2() {
    for (option, version, protocol) in [("--http1.1", "1.1", "h1"), ("--http2", "2", "h2")] {
        Lab::test(|lab| {
            let command = format!(
                "curl -sS {option} -w '%{{http_version}}' \
                 -H \"authorization: Bearer $LAB_API_KEY\" https://{HOST}/v1/models?limit=2"
            );
            let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&command);
            assert_answered(&outcome);
            assert!(outcome.out().ends_with(version), "{}", outcome.out());
            assert_injected(lab, 1, Some(protocol));
            assert_eq!(lab.seen()[0].query.as_deref(), Some("limit=2"));
        });
    }
}

#[test]
fn curl_uploads_a_body_with_and_without_a_length() {
    Lab::test(|lab| {
        let script = format!(
            "head -c 3000000 /dev/zero > body; \
             for option in '--http1.1' '--http2' '--http1.1 -H transfer-encoding:chunked' \
                           '--http1.1 -H expect:100-continue'; do \
               curl -sS $option --data-binary @body https://{HOST}/v1/lab/upload || exit; \
             done"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
        outcome.success();
        assert_eq!(outcome.out().lines().count(), 4, "{}", outcome.out());
        for line in outcome.out().lines() {
            assert!(line.starts_with("3000000 "), "{line}");
        }
        assert_injected(lab, 4, None);
        let hashes: Vec<_> =
            lab.seen().iter().map(|seen| (seen.body_bytes, seen.body_sha256.clone())).collect();
        assert!(
            hashes.iter().all(|hash| *hash == hashes[0] && hash.0 == Some(3_000_000)),
            "{hashes:?}"
        );
    });
}

#[test]
fn curl_asks_for_a_head_and_gets_no_body() {
    Lab::test(|lab| {
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).run(&[
            "curl",
            "-sSI",
            &format!("https://{HOST}/v1/x"),
        ]);
        outcome.success();
        assert!(outcome.out().starts_with("HTTP/2 200"), "{}", outcome.out());
        assert_injected(lab, 1, None);
    });
}

#[test]
fn python_urllib_trusts_the_sandbox_and_sends_the_placeholder() {
    Lab::test(|lab| {
        let program = format!(
            "import os, urllib.request as u\n\
             headers = {{'authorization': 'Bearer ' + os.environ['LAB_API_KEY']}}\n\
             for body in (None, b'{{\"a\": 1}}'):\n\
             \x20   r = u.Request('https://{HOST}/v1/models', data=body, headers=headers)\n\
             \x20   print(u.urlopen(r).read().decode())\n"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).python(&program);
        assert_answered(&outcome);
        assert_injected(lab, 2, None);
    });
}

#[test]
fn node_fetch_and_https_trust_the_sandbox() {
    Lab::test(|lab| {
        let program = format!(
            "const headers = {{authorization: 'Bearer ' + process.env.LAB_API_KEY}};\n\
             (async () => {{\n\
               const r = await fetch('https://{HOST}/v1/models', {{headers}});\n\
               console.log(r.status, await r.text());\n\
               require('https').get('https://{HOST}/v1/other', {{headers}}, r => {{\n\
                 console.log(r.statusCode); r.pipe(process.stdout);\n\
               }});\n\
             }})().catch(e => {{ console.error(e); process.exit(1); }});"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).run(&["node", "-e", &program]);
        assert_answered(&outcome);
        assert_injected(lab, 2, None);
    });
}

#[test]
fn openssl_verifies_the_chain_and_speaks_tls_1_2_and_1_3() {
    Lab::test(|lab| {
        for version in ["-tls1_2", "-tls1_3"] {
            let script = format!(
                "printf 'GET /v1/models HTTP/1.1\\r\\nhost: {HOST}\\r\\nconnection: \
                 close\\r\\n\\r\\n' | openssl s_client {version} -ign_eof -connect {HOST}:443 \
                 -servername {HOST} -verify_return_error -verify_hostname {HOST}"
            );
            let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
            assert_answered(&outcome);
            assert!(outcome.out().contains("Verify return code: 0 (ok)"), "{}", outcome.out());
        }
        assert_injected(lab, 2, None);
    });
}

#[test]
fn a_catalogue_service_works_with_its_own_variable_and_header() {
    Lab::test(|lab| {
        let policy = json!({
            "network": { "allow": ["api.openai.com"] },
            "credentials_v2": { "openai": {
                "key": { "env": "REAL_OPENAI_KEY" },
                "endpoints": [{ "methods": ["POST"], "paths": ["/v1/chat/completions"] }],
            } },
        });
        let script = "case $OPENAI_API_KEY in sk-*proxy-managed*) ;; \
                      *) echo \"odd placeholder\"; exit 1;; esac; \
                      curl -sS -H \"authorization: Bearer $OPENAI_API_KEY\" -d '{}' \
                      https://api.openai.com/v1/chat/completions";
        let sandbox =
            lab.sandbox(&policy).at_origin("api.openai.com").env("REAL_OPENAI_KEY", lab.key());
        let outcome = sandbox.shell(script);
        assert_answered(&outcome);
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);
    });
}

#[test]
fn a_host_without_a_credential_is_forwarded_as_it_was_asked() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": ["free.example.test"] } });
        let plan = |protocol| {
            let headers =
                [("authorization", "Bearer own"), ("x-custom", "a, b"), ("cookie", "c=1")];
            Plan::https("free.example.test", protocol).ask_with(
                "PATCH",
                "/a//b/%7Ec?d=e%20f",
                &headers,
                "body",
            )
        };
        for protocol in ["h2", "http/1.1"] {
            let reports =
                lab.sandbox(&policy).at_origin("free.example.test").fetch(&plan(protocol));
            assert_eq!(
                (reports[0].error.as_deref(), reports[0].answers[0].status),
                (None, 200),
                "{reports:?}"
            );
        }
        lab.sandbox(&policy)
            .at_origin("free.example.test")
            .run(&["curl", "-sS", "http://free.example.test/clear"])
            .success();
        let seen = lab.seen();
        for request in &seen[..2] {
            assert_eq!(
                (request.path.as_str(), request.query.as_deref()),
                ("/a//b/%7Ec", Some("d=e%20f"))
            );
            assert_eq!(request.values("authorization"), ["Bearer own"]);
            assert_eq!(
                (request.values("x-custom"), request.values("cookie")),
                (vec!["a, b"], vec!["c=1"])
            );
            assert_eq!(request.body_bytes, Some(4));
        }
        assert!(!seen[2].tls && seen[2].path == "/clear", "{seen:?}");
    });
}

#[test]
fn each_of_a_thousand_requests_of_one_connection_is_judged_by_itself() {
    // attack H12.
    for protocol in ["http/1.1", "h2"] {
        Lab::test(|lab| {
            if protocol == "h2" {
                lab.unordered();
            }
            let mut plan = Plan::https(HOST, protocol);
            let count = if protocol == "h2" { 100 } else { 1000 };
            for index in 0..count {
                let (method, path) = match index % 5 {
                    0 | 3 => ("GET", format!("/v1/models/{index}")),
                    1 => ("DELETE", format!("/v1/models/{index}")),
                    2 => ("GET", format!("/admin/{index}")),
                    _ => ("POST", format!("/v1/chat/{index}")),
                };
                plan = plan.ask(method, &path);
            }
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).quiet_log().fetch(&plan);
            assert_eq!(reports[0].error, None);
            for (index, answer) in reports[0].answers.iter().enumerate() {
                let expected = if matches!(index % 5, 1 | 2) { 403 } else { 200 };
                assert_eq!(answer.status, expected, "request {index}: {answer:?}");
            }
            assert_injected(lab, count * 3 / 5, None);
        });
    }
}
