//! Each client finds the reason where it looks, and every response carries the refusal.

use http::{HeaderName, Version};
use interceptor_policy::Reason;
use serde_json::{Value, json};

use super::super::refuse::deny::refusal;
use super::super::refuse::envelope::{About, answer};
use super::*;
use crate::audit::RequestId;

fn said(
    asked: &[(&'static str, &'static str)],
    target: &str,
    body: &[u8],
    message: &str,
) -> Response<Bytes> {
    let deny = refusal(Reason::EndpointDenied, message.to_owned());
    let mut response = answer(&deny, About::default(), RequestId::new(), Version::HTTP_2, false);
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let headers = asked.iter().map(field).collect();
    speak(&mut response, &Asked { headers: &headers, uri: &target.parse().unwrap(), body }, &deny);
    assert_eq!(response.status(), 403);
    assert_eq!(response.headers()["x-interceptor-decision"], "deny; reason=endpoint_denied");
    response
}

fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

#[test]
fn git_and_go_are_told_in_plain_text_and_others_in_json() {
    let go = ("user-agent", "Go-http-client/2.0");
    for (agent, target) in [
        (("user-agent", "git/2.39.5"), "/o/r/info/refs"),
        (go, "/golang.org/x/text/@v/list"),
        (go, "/golang.org/x/text/@latest"),
        (go, "/golang.org/x/text?go-get=1"),
    ] {
        let plain = said(&[agent], target, b"", "no");
        assert_eq!(
            plain.headers()[CONTENT_TYPE],
            "text/plain; charset=utf-8",
            "{agent:?} {target}"
        );
        assert_eq!(body(&plain)["error"]["message"], "no");
    }
    for asked in [&[("user-agent", "curl/8"), ("content-type", "application/grpc")][..], &[go]] {
        let other = said(asked, "/v1/models", b"", "no");
        assert_eq!(other.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(body(&other)["error"]["message"], "no");
        assert!(!other.headers().contains_key("grpc-status"));
        assert_eq!(body(&other).as_object().unwrap().len(), 1);
    }
}

#[test]
fn grpc_is_told_in_its_own_fields_within_a_bound() {
    let asked = [("content-type", "application/grpc+proto"), ("te", "trailers")];
    let grpc = |message: &str| said(&asked, "/lab.Lab/Call", b"", message);
    let response = grpc("50 % of\nnaïve");
    assert_eq!(response.headers()["grpc-status"], "7");
    assert_eq!(response.headers()["grpc-message"], "50 %25 of%0Ana%C3%AFve");
    assert!(response.body().is_empty());
    assert!(grpc(&"ï".repeat(5000)).headers()["grpc-message"].len() <= 3 * LONGEST);
}

#[test]
fn node_package_managers_find_a_string() {
    for agent in [
        "npm/10.8.2 node/v20.19.2 linux x64 workspaces/false",
        "pnpm/9.1",
        "yarn/1.22.22",
        "Bun/1.1",
    ] {
        let npm = body(&said(&[("user-agent", agent)], "/lab-demo", b"", "no"));
        assert_eq!(npm["error"], "no", "{agent}");
        assert_eq!(npm["interceptor"]["type"], "endpoint_denied");
        assert_eq!(npm["interceptor"]["message"], "no");
    }
    let other = body(&said(&[("user-agent", "npmish/1")], "/lab-demo", b"", "no"));
    assert_eq!(other["error"]["message"], "no");
}

#[test]
fn graphql_cargo_and_container_engines_find_a_list_of_errors() {
    for (name, value, target) in [
        ("accept", "*/*", "/graphql"),
        ("accept", "*/*", "/api/graphql?a=b"),
        ("content-type", "application/graphql", "/q"),
        ("accept", "application/graphql-response+json", "/q"),
        ("user-agent", "cargo/1.91.0", "/api/v1/crates/new"),
        ("user-agent", "cargo 1.70.0 (ec8a8a0ca 2023-04-25)", "/lab/demo"),
        ("user-agent", "docker/20.10.24 go/go1.19", "/token"),
        ("accept", "*/*", "/v2/library/demo/manifests/latest"),
    ] {
        let said = body(&said(&[(name, value)], target, b"", "no"));
        assert_eq!(said["errors"].as_array().unwrap().len(), 1, "{value} {target}");
        let error = &said["errors"][0];
        assert_eq!((&error["message"], &error["detail"]), (&json!("no"), &json!("no")));
        assert_eq!(
            (&error["code"], &error["extensions"]["code"]),
            (&json!("DENIED"), &json!("endpoint_denied"))
        );
        assert_eq!(said["error"]["message"], "no", "beside ours");
    }
}

#[test]
fn a_json_rpc_call_is_answered_under_its_id() {
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"x"}}"#, "a".repeat(1000));
    for (call, id) in [
        (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#, json!(7)),
        (r#"{"jsonrpc":"2.0","id":"a\"\u0007b","method":"x"}"#, json!("a\"\u{7}b")),
        (r#"{"jsonrpc":"2.0","method":"notify"}"#, Value::Null),
        (
            r#"[{"jsonrpc":"2.0","id":1,"method":"x"},{"jsonrpc":"2.0","id":2,"method":"x"}]"#,
            Value::Null,
        ),
        (r#"{"jsonrpc":"2.0","id":{"a":1},"method":"x"}"#, Value::Null),
        (&long, Value::Null),
    ] {
        let said = body(&said(&[], "/mcp", call.as_bytes(), "no"));
        assert_eq!((&said["jsonrpc"], &said["id"]), (&json!("2.0"), &id), "{call}");
        let error = &said["error"];
        assert_eq!((&error["code"], &error["message"]), (&json!(-32_001), &json!("no")));
        assert_eq!(
            (&error["type"], &error["data"]["type"]),
            (&json!("endpoint_denied"), &json!("endpoint_denied"))
        );
    }
    let deep = "[".repeat(60_000);
    for other in [r#"{"jsonrpc":"1.0","id":7}"#, r#"{"id":7}"#, "[]", "7", "{", "", &deep] {
        let said = body(&said(&[], "/mcp", other.as_bytes(), "no"));
        assert_eq!(said.as_object().unwrap().len(), 1, "{said}");
    }
}

#[test]
fn only_short_json_may_be_a_call() {
    let may = |kind: &'static str, length: &'static str| {
        let headers = [("content-type", kind), ("content-length", length)];
        let field =
            |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        may_be_a_call(&headers.into_iter().map(field).collect())
    };
    assert!(may("application/json", "100") && may("Application/JSON; charset=utf-8", "65536"));
    assert!(!may("application/json", "65537") && !may("text/plain", "100"));
    assert!(!may("application/json", "-1") && !may_be_a_call(&http::HeaderMap::new()));
}
