//! The official packages of OpenAI and Anthropic for Python and Node, as their documentation uses
//! them: the key that the environment holds is a placeholder, the answers are whole or streamed,
//! and a refusal is an exception that explains itself.

use std::ffi::OsString;

use interceptor_tests::clients::{self, NODE, PYTHON, conversation};
use interceptor_tests::{Lab, command};
use serde_json::{Value, json};

/// One of the two services.
struct Service {
    name: &'static str,
    host: &'static str,
    /// Where the placeholder and the key begin alike.
    prefix: &'static str,
    /// The permitted and the denied request of a test program.
    rules: Value,
    refused: &'static str,
}

fn openai() -> Service {
    Service {
        name: "openai",
        host: "api.openai.com",
        prefix: "sk-proxy-managed-",
        rules: json!([{ "methods": ["POST"], "paths": ["/v1/chat/completions", "/v1/responses"] }]),
        refused: "DELETE /v1/files/file-1",
    }
}

fn anthropic() -> Service {
    Service {
        name: "anthropic",
        host: "api.anthropic.com",
        prefix: "sk-ant-api03-proxy-managed-",
        rules: json!([{ "methods": ["POST"], "paths": ["/v1/messages"] }]),
        refused: "GET /v1/models",
    }
}

/// How the client reaches the service.
#[derive(Clone, Copy, PartialEq)]
enum Road {
    /// At its own host, over TLS with a certificate from the sandbox's CA.
    Trust,
    /// At the base URL in the environment, over plain HTTP without any certificate.
    BaseUrl,
}

/// Runs a program of `tests/clients` that uses a service's package; `paths` are what the origin
/// must see.
#[track_caller]
fn hold(service: &Service, road: Road, script: &str, start: &[OsString], paths: &[&str]) {
    Lab::test(|lab| {
        let policy = json!({
            "network": { "allow": [service.host] },
            "credentials_v2": {
                service.name: { "key": { "file": lab.key_file() }, "endpoints": service.rules },
            },
        });
        let mut sandbox = lab.sandbox(&policy).at_origin(service.host).with_python_packages();
        let mut command = vec![];
        if road == Road::BaseUrl {
            sandbox = sandbox.option("--base-urls");
            // Not even those who look for certificates find ours.
            command.push("env".into());
            for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "DENO_CERT"]
            {
                command.extend(command!["--unset", name]);
            }
        }
        command.extend_from_slice(start);
        command.push(clients::script(lab, script).into());
        clients::link_node_packages(lab);
        let running = sandbox.start(&command);
        // The origin holds the rest of the stream back until the first part has been seen here.
        running.wait_for("delta 'Hello '");
        lab.open_gate();
        let outcome = running.finish();
        let text = format!("{}\n--- standard error\n{}", outcome.out(), outcome.tail());
        outcome.success();
        let out = outcome.out();
        println!("{out}"); // For --nocapture: what people see.
        let shown = out.lines().find_map(|line| line.strip_prefix("key ")).unwrap_or_default();
        assert!(shown.starts_with(service.prefix), "{text}");
        assert!(out.contains("whole Hello from the origin\n"), "{text}");
        assert!(out.contains("delta 'from the '\ndelta 'origin'\n"), "{text}");
        for kind in ["async ", "response ", "streamed "] {
            let said = out.lines().find_map(|line| line.strip_prefix(kind));
            assert!(said.is_none_or(|said| said == "Hello from the origin"), "{text}");
        }
        let refused = out.lines().find_map(|line| line.strip_prefix("refused "));
        let refused = refused.unwrap_or_else(|| panic!("no refusal:\n{text}"));
        assert!(refused.starts_with("PermissionDeniedError 403 "), "{text}");
        assert!(refused.contains(service.refused), "what was refused is not named: {refused}");
        outcome.one_denied("endpoint_denied");

        let seen = lab.seen();
        assert_eq!(seen.iter().map(|request| request.path.as_str()).collect::<Vec<_>>(), paths);
        for request in seen {
            assert!(request.tls && request.sni.as_deref() == Some(service.host), "{request:#?}");
            let (bearer, header) = (request.values("authorization"), request.values("x-api-key"));
            let keys: Vec<_> = bearer
                .iter()
                .chain(&header)
                .map(|value| value.trim_start_matches("Bearer "))
                .collect();
            assert_eq!(keys, [lab.key()], "{request:#?}");
            conversation::assert_no_placeholder(&request);
        }
    });
}

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

#[test]
fn openai_for_python() {
    let paths = [CHAT, CHAT, RESPONSES, RESPONSES, CHAT];
    for road in [Road::Trust, Road::BaseUrl] {
        hold(&openai(), road, "python/openai_sdk.py", &command![PYTHON], &paths);
    }
}

#[test]
fn anthropic_for_python() {
    for road in [Road::Trust, Road::BaseUrl] {
        hold(&anthropic(), road, "python/anthropic_sdk.py", &command![PYTHON], &[MESSAGES; 3]);
    }
}

#[test]
fn openai_for_node() {
    for road in [Road::Trust, Road::BaseUrl] {
        hold(&openai(), road, "node/openai_sdk.mjs", &command![NODE], &[CHAT, CHAT, RESPONSES]);
    }
}

#[test]
fn anthropic_for_node() {
    for road in [Road::Trust, Road::BaseUrl] {
        hold(&anthropic(), road, "node/anthropic_sdk.mjs", &command![NODE], &[MESSAGES; 2]);
    }
}

#[test]
fn openai_in_bun() {
    let bun = command![clients::runtime("bun"), "run"];
    hold(&openai(), Road::Trust, "node/openai_sdk.mjs", &bun, &[CHAT, CHAT, RESPONSES]);
}

#[test]
fn openai_in_deno() {
    let deno = clients::runtime("deno");
    let deno = command![
        "env",
        "DENO_NO_UPDATE_CHECK=1",
        deno,
        "run",
        "--allow-all",
        "--node-modules-dir=manual"
    ];
    hold(&openai(), Road::Trust, "node/openai_sdk.mjs", &deno, &[CHAT, CHAT, RESPONSES]);
}
