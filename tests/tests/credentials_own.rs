//! A sandbox's own authentication, and headers that give the origin another target than was judged,
//! never arrive: over HTTP/1.1, HTTP/2, a WebSocket handshake and a base URL alike.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const MARK: &str = "brought-along";
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

const HEADERS: [&str; 44] = [
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "x_api_key",
    "api-key",
    "apikey",
    "x-goog-api-key",
    "private-token",
    "private_token",
    "job-token",
    "deploy-token",
    "x-auth-token",
    "x-access-token",
    "x-amz-security-token",
    "x-vault-token",
    "dpop",
    "x-forwarded-client-cert",
    "remote-user",
    "remote_user",
    "x-remote-user",
    "x-auth-request-email",
    "x-shopify-access-token",
    "dd-api-key",
    "dd-application-key",
    "circle-token",
    "x-goog-iam-authorization-token",
    "x-goog-authenticated-user-email",
    "cf-access-client-secret",
    "ocp-apim-subscription-key",
    "ssl-client-cert",
    "impersonate-user",
    "some-vendors-api-key",
    "x-original-url",
    "x_original_url",
    "x-rewrite-url",
    "x-original-uri",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-forwarded-host",
    "forwarded",
    "x-envoy-original-path",
    "cookie",
    "x-http-host-override",
];
const PARAMETERS: [&str; 12] = [
    "access_token",
    "private_token",
    "api_key",
    "API-KEY",
    "key",
    "token",
    "sig",
    "X-Amz-Signature",
    "X-Amz-Credential",
    "%6Bey",
    "client_secret",
    "jwt",
];

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// Header by header and parameter by parameter, then all at once.
fn plan(protocol: &str) -> Plan {
    let all: Vec<(&str, &str)> = HEADERS.iter().map(|name| (*name, MARK)).collect();
    let mut plan = Plan::https(HOST, protocol);
    for pair in &all {
        plan = plan.ask_with("GET", "/v1/x?page=2", &[*pair, ("x-note", "kept")], "");
    }
    for name in PARAMETERS {
        plan =
            plan.ask_with("GET", &format!("/v1/x?page=2&{name}={MARK}"), &[("x-note", "kept")], "");
    }
    plan.ask_with("POST", "/v1/x?page=2", &[&all[..], &[("x-note", "kept")]].concat(), "body")
}

#[test]
fn c7_no_authentication_and_no_other_address_of_the_clients_own_arrives() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            lab.unordered();
            let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan(protocol));
            assert!(reports[0].answers.iter().all(|answer| answer.status == 200), "{reports:?}");
            let seen = lab.seen();
            assert_eq!(seen.len(), HEADERS.len() + PARAMETERS.len() + 1);
            for seen in &seen {
                let text = format!("{:?} {:?}", seen.headers, seen.query);
                assert!(!text.contains(MARK), "{protocol}: {text}");
                assert_eq!(seen.query.as_deref(), Some("page=2"));
                assert_eq!(seen.values("x-note"), ["kept"]);
                assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
            }
        });
    }
}

#[test]
fn c7_nor_by_a_websocket_or_a_base_url() {
    Lab::test(|lab| {
        let lines: String = HEADERS.iter().map(|name| format!("-H '{name}: {MARK}' ")).collect();
        let query = format!("page=2&token={MARK}&sig={MARK}");
        let handshake = "-H 'connection: upgrade' -H 'upgrade: websocket' -H \
                         'sec-websocket-version: 13' -H 'sec-websocket-key: \
                         dGhlIHNhbXBsZSBub25jZQ=='";
        let script = format!(
            "curl -sS -o /dev/null {lines} 'http://169.254.169.254/proxy/lab/v1/x?{query}'; \
             curl -sS -o /dev/null -m 5 --http1.1 {lines} {handshake} \
             'https://{HOST}/v1/ws?{query}'; true"
        );
        let outcome = lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script);
        outcome.success();
        let seen = lab.seen();
        assert_eq!(seen.len(), 2, "{seen:?}");
        for seen in &seen {
            let text = format!("{:?} {:?}", seen.headers, seen.query);
            assert!(!text.contains(MARK) && seen.query.as_deref() == Some("page=2"), "{text}");
        }
        assert_eq!(seen[1].values("upgrade"), ["websocket"]);
    });
}

#[test]
fn c7_cookies_pass_both_ways_only_where_the_credential_says_so() {
    for protocol in PROTOCOLS {
        for (cookies, arrives) in [(None, false), (Some(false), false), (Some(true), true)] {
            Lab::test(|lab| {
                let mut policy = policy(lab);
                if let Some(cookies) = cookies {
                    policy["credentials_v2"]["lab"]["cookies"] = json!(cookies);
                }
                let plan = Plan::https(HOST, protocol).ask_with(
                    "GET",
                    "/set?set-cookie=session%3Dgiven",
                    &[("cookie", "session=brought")],
                    "",
                );
                let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
                let answer = &reports[0].answers[0];
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.header("set-cookie"), arrives.then_some("session=given"));
                let brought = lab.seen()[0].values("cookie").join("");
                assert_eq!(brought, if arrives { "session=brought" } else { "" });
            });
        }
    }
}

#[test]
fn c7_on_other_hosts_what_the_client_brings_is_its_own_affair() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let policy = json!({ "network": { "allow": [HOST] } });
            let headers = [
                ("x-api-key", MARK),
                ("x-original-url", "/x"),
                ("cookie", "a=b"),
                ("content_length", "5"),
            ];
            let plan = Plan::https(HOST, protocol).ask_with(
                "GET",
                "/set?set-cookie=a%3Db&token=t",
                &headers,
                "",
            );
            let reports = lab.sandbox(&policy).at_origin(HOST).fetch(&plan);
            assert_eq!(reports[0].answers[0].header("set-cookie"), Some("a=b"), "{reports:?}");
            let seen = &lab.seen()[0];
            for (name, value) in headers {
                assert_eq!(seen.values(name), [value]);
            }
            assert_eq!(seen.query.as_deref(), Some("set-cookie=a%3Db&token=t"));
        });
    }
}

#[test]
fn h4_names_that_a_server_may_take_for_framing_are_refused() {
    for protocol in PROTOCOLS {
        Lab::test(|lab| {
            let names = [
                "content_length",
                "transfer_encoding",
                "keep_alive",
                "proxy_connection",
                "connection_",
            ];
            for name in names {
                let plan = Plan::https(HOST, protocol).ask_with("GET", "/v1/x", &[(name, "5")], "");
                let reports = lab.sandbox(&policy(lab)).at_origin(HOST).fetch(&plan);
                let refusal = reports[0].answers[0].refusal();
                assert_eq!(
                    (refusal.status, refusal.reason.as_str()),
                    (400, "request_malformed"),
                    "{name}"
                );
                assert!(
                    refusal.error["message"].as_str().unwrap().contains("some servers read as")
                );
            }
            assert_eq!(lab.seen().len(), 0);
        });
    }
}

#[test]
fn explain_shows_what_is_taken_out() {
    Lab::test(|lab| {
        let policy = lab.secret_file("explained.json", &policy(lab).to_string());
        let binary = interceptor_tests::sandbox::binary("interceptor");
        let ask = |arguments: &[&str]| {
            let mut command = std::process::Command::new(&binary);
            command.args(["explain", "--policy"]).arg(&policy).args(arguments);
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        let url = format!("https://{HOST}/v1/x?page=2&token=t&api_key=k");
        let arguments = ["-H", "X_Api_Key: k", "-H", "cookie: a=b", "-H", "x-note: n", "GET", &url];
        let text = ask(&arguments);
        assert!(text.contains("removed     x_api_key, cookie, ?token, ?api_key\n"), "{text}");
        assert!(text.contains(&format!("https://{HOST}/v1/x?page=2\n")), "{text}");
        let json: Value =
            serde_json::from_str(&ask(&[&["--json"], &arguments[..]].concat())).unwrap();
        assert_eq!(json["removed"], json!(["x_api_key", "cookie", "?token", "?api_key"]));
        let text = ask(&["-H", "content_length: 5", "GET", &url]);
        assert!(text.contains("request_malformed"), "{text}");
    });
}
