//! Decisions, from the request's side.

use super::{decide, host, outcome, policy};

const EXAMPLE: &str = r#"{
  "image": "python:3.12-slim",
  "network": { "deny": ["0.0.0.0/0"], "allow": ["api.openai.com", "*.example.com:443", "10.1.0.0/16", "tcp://db.example.com:5432"] },
  "credentials_v2": {
    "openai": { "key": "sk-real", "endpoints": [ { "methods": ["POST"], "paths": ["/v1/chat/completions"] },
                                                 { "methods": ["GET"],  "paths": ["/v1/models"] } ] },
    "billing": { "key": { "env": "BILLING_KEY" }, "hosts": ["billing.example.com"], "inject": { "header": "x-billing-key" },
                 "env": "BILLING_API_KEY", "endpoints": [ { "methods": [], "paths": ["/v2/invoices/*"] } ] }
  }
}"#;

#[test]
fn the_example_of_the_specification_decides_as_it_says() {
    let policy = policy(EXAMPLE);
    let table = [
        ("POST", "https://api.openai.com/v1/chat/completions", "allow"),
        ("GET", "https://api.openai.com/v1/chat/completions", "endpoint_denied"),
        ("GET", "https://api.openai.com/v1/models", "allow"),
        ("GET", "https://api.openai.com/v1/models/gpt-4", "allow"),
        ("GET", "https://api.openai.com/v1/models-admin", "endpoint_denied"),
        ("get", "https://api.openai.com/v1/models", "endpoint_denied"),
        ("GET", "https://api.openai.com/v1/%6dodels", "allow"),
        ("GET", "https://api.openai.com/v1/models/../admin", "path_ambiguous"),
        ("CONNECT", "https://api.openai.com/v1/models", "method_refused"),
        ("GET", "http://api.openai.com/v1/models", "host_denied_or_plaintext"),
        ("GET", "https://evil.example.org/", "host_denied"),
        ("DELETE", "https://billing.example.com/v2/invoices/7/lines/1", "allow"),
        ("GET", "https://billing.example.com/v2/invoices", "endpoint_denied"),
        ("GET", "https://billing.example.com/v2/invoices/", "endpoint_denied"),
        ("GET", "https://docs.example.com/", "allow"),
        ("GET", "https://example.com/", "host_denied"),
        ("GET", "https://10.1.2.3/", "allow"),
        ("GET", "https://10.2.2.3/", "host_denied"),
    ];
    for (method, url, expected) in table {
        let seen = decide(&policy, method, url);
        let expected = if expected == "host_denied_or_plaintext" { "plaintext_denied" } else { expected };
        assert_eq!(outcome(&seen), expected, "{method} {url}: {seen:?}");
    }
    assert_eq!(outcome(&policy.decide_raw(&host("db.example.com"), 5432)), "allow");
    assert_eq!(outcome(&policy.decide_raw(&host("docs.example.com"), 443)), "protocol_denied");
}
