//! Keys: the real key goes only to its own host, in its own place; the sandbox has a placeholder.

mod echoes;
mod placeholders;

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

const OTHER: &str = "other.example.test";

const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

fn policy(lab: &Lab) -> Value {
    let mut policy = lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]));
    policy["network"]["allow"] = json!([HOST, OTHER]);
    policy
}

/// Only the sandbox knows the placeholder, so a shell script sends the plan's requests with curl.
fn curl(lab: &Lab, policy: &Value, arguments: &str) -> Outcome {
    let script =
        format!("curl -sS -w '\\n%{{http_code}} %header{{x-interceptor-decision}}\\n' {arguments}");
    lab.sandbox(policy).at_origin(HOST).at_origin(OTHER).shell(&script)
}

#[test]
fn the_sandbox_holds_a_placeholder_of_its_own() {
    Lab::test(|lab| {
        let first = lab.sandbox(&policy(lab)).shell("echo $LAB_API_KEY");
        let second = lab.sandbox(&policy(lab)).shell("echo $LAB_API_KEY");
        assert!(first.out().contains("proxy-managed"), "{}", first.out());
        assert_ne!(first.out(), second.out(), "c12: a placeholder is drawn for each sandbox");
    });
}

#[test]
fn the_real_key_is_nowhere_in_the_sandbox() {
    Lab::test(|lab| {
        // The key may come from a file, the environment, or the policy, which the sandbox cannot
        // see.
        for key in
            [json!({ "file": lab.key_file() }), json!({ "env": "REAL_KEY" }), json!(lab.key())]
        {
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["key"] = key;
            let script = "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; cat \
                          /proc/1/environ /proc/1/mem 2>&1 | head -c 1000; ls -la /proc/1/root \
                          /proc/1/fd 2>&1; mount; cat /etc/resolv.conf; true";
            let outcome = lab.sandbox(&policy).env("REAL_KEY", lab.key()).shell(script);
            // The canary oracle reads this output and the wrapper's sweep.
            assert!(outcome.success().out().contains("LAB_API_KEY="));
        }
    });
}

#[test]
fn a_key_file_is_not_readable_from_inside() {
    Lab::test(|lab| {
        let file = lab.key_file();
        // The policy may contain a key too, so the lab writes it like a key file.
        let policy_like = lab.secret_file("policy.json", lab.key());
        let script =
            format!("id -u; cat {} 2>&1; cat {} 2>&1; true", file.display(), policy_like.display());
        let outcome = lab.sandbox(&policy(lab)).shell(&script);
        assert_eq!(
            outcome.success().out().matches("Permission denied").count(),
            2,
            "{}",
            outcome.out()
        );
        assert_ne!(outcome.out().lines().next(), Some("0"), "the command runs unprivileged");
    });
}

#[test]
fn c7_c9_whatever_authentication_the_client_sends_the_origin_gets_the_real_one_alone() {
    let own = [
        vec![("authorization", "Bearer sk-attacker")],
        vec![("authorization", "Bearer sk-attacker"), ("authorization", "Bearer sk-second")],
        vec![("Authorization", "Basic YTpi")],
        vec![
            ("x-api-key", "sk-attacker"),
            ("api-key", "sk-attacker"),
            ("x-goog-api-key", "sk-attacker"),
        ],
        vec![("proxy-authorization", "Basic YTpi")],
        vec![],
    ];
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            if protocol == "h2" {
                lab.unordered();
            }
            let plan = own.iter().fold(Plan::https(HOST, protocol), |plan, headers| {
                plan.ask_with("GET", "/v1/x", headers, "")
            });
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
            assert!(reports[0].answers.iter().all(|answer| answer.status == 200), "{reports:?}");
            for seen in lab.seen() {
                assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
                for name in ["x-api-key", "api-key", "x-goog-api-key", "proxy-authorization"] {
                    assert_eq!(seen.values(name), Vec::<&str>::new(), "{name}");
                }
                assert!(!format!("{seen:?}").contains("attacker"), "{seen:?}");
            }
        });
    }
}

#[test]
fn h9_a_connection_header_cannot_strip_the_key() {
    Lab::test(|lab| {
        let plan = Plan::https(HOST, "http/1.1").ask_with(
            "GET",
            "/v1/x",
            &[
                ("connection", "authorization, host, x-hop"),
                ("x-hop", "1"),
                ("authorization", "Bearer own"),
            ],
            "",
        );
        let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
        let answer = &reports[0].answers[0];
        match answer.status {
            200 => {
                let seen = &lab.seen()[0];
                assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
                assert_eq!(seen.values("x-hop"), Vec::<&str>::new());
            }
            status => assert_eq!((status, lab.seen().len()), (400, 0), "{answer:?}"),
        }
    });
}

#[test]
fn other_places_for_the_key() {
    Lab::test(|lab| {
        let shapes = [
            (json!({ "header": "x-billing-key", "format": "{key}" }), "x-billing-key", "{key}"),
            (
                json!({ "header": "authorization", "format": "token {key}" }),
                "authorization",
                "token {key}",
            ),
        ];
        for (index, (inject, header, value)) in shapes.into_iter().enumerate() {
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["inject"] = inject;
            let reports = lab
                .sandbox(&policy)
                .at_origin(HOST)
                .fetch(&Plan::https(HOST, "h2").ask("GET", "/v1/x"));
            assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
            assert_eq!(lab.seen()[index].values(header), [value.replace("{key}", lab.key())]);
        }
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["inject"] = json!({ "query": "key" });
        let plan = Plan::https(HOST, "h2").ask("GET", "/v1/x?a=1&key=own&b=2");
        let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
        assert_eq!(reports[0].answers[0].status, 200, "{reports:?}");
        let query = lab.seen()[2].query.clone().unwrap();
        assert!(query.contains(&format!("key={}", lab.key())) && !query.contains("own"), "{query}");
        assert!(query.contains("a=1") && query.contains("b=2"), "{query}");
    });
}

#[test]
fn c10_a_key_that_cannot_be_used_stops_the_start_and_is_not_printed() {
    Lab::test(|lab| {
        let bad = [
            format!("{}\r\nx-evil: 1", lab.key()),
            format!("{}\u{e9}", lab.key()),
            String::new(),
            "\n".into(),
        ];
        for (index, key) in bad.iter().enumerate() {
            let mut policy = policy(lab);
            policy["credentials_v2"]["lab"]["key"] =
                json!({ "file": lab.secret_file(&format!("bad-{index}"), key) });
            let outcome = lab.sandbox(&policy).bare().run(&["true"]);
            assert_eq!(outcome.code(), Some(125), "{}", outcome.tail());
            assert!(outcome.err().contains("lab"), "{}", outcome.tail());
        }
        let mut policy = policy(lab);
        for source in [json!({ "env": "NOT_SET_ANYWHERE" }), json!({ "file": "/nonexistent/key" })]
        {
            policy["credentials_v2"]["lab"]["key"] = source;
            let outcome = lab.sandbox(&policy).bare().run(&["true"]);
            assert_eq!(outcome.code(), Some(125), "{}", outcome.tail());
        }
    });
}
