//! Which variable carries trust to which client, as the table of docs/clients.md says: each with
//! all the others unset, and with none.

use std::time::Duration;

use interceptor_tests::clients::conversation::{self, HOST, ORIGIN};
use interceptor_tests::clients::{go_program, java_classes, runtime, script};
use interceptor_tests::{Lab, command};

/// Client, the variable that is enough for it, and whether it works with none, by the system's own
/// files or those that its package brings; `None` where that depends on the machine: npm may be set
/// up for a bundle.
const TABLE: [(&str, &str, Option<bool>); 19] = [
    ("curl", "CURL_CA_BUNDLE", Some(true)),
    ("wget", "-", Some(true)),
    ("openssl", "SSL_CERT_FILE", Some(true)),
    ("git", "GIT_SSL_CAINFO", Some(true)),
    ("urllib", "SSL_CERT_FILE", Some(true)),
    ("requests", "REQUESTS_CA_BUNDLE", Some(true)),
    ("httpx", "SSL_CERT_FILE", Some(true)),
    ("aiohttp", "SSL_CERT_FILE", Some(true)),
    ("websockets", "SSL_CERT_FILE", Some(true)),
    ("openai", "SSL_CERT_FILE", Some(true)),
    ("anthropic", "SSL_CERT_FILE", Some(true)),
    ("grpcio", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Some(true)),
    ("pip", "PIP_CERT", Some(true)),
    ("npm", "npm_config_cafile", None),
    ("node", "NODE_EXTRA_CA_CERTS", Some(false)),
    ("bun", "NODE_EXTRA_CA_CERTS", Some(false)),
    ("deno", "DENO_CERT", Some(false)),
    ("go", "SSL_CERT_FILE", Some(true)),
    ("java", "JAVA_TOOL_OPTIONS", Some(true)),
];

#[test]
fn the_variable_that_the_readme_names_is_enough() {
    Lab::test(|lab| {
        // What the clients say to the origin is not the subject here, nor in which order it
        // arrives.
        lab.unordered();
        let sandbox = lab.sandbox(&conversation::policy(lab)).at_origin(HOST).quiet_log();
        let sandbox = sandbox.with_python_packages().limit(Duration::from_secs(180));
        let sandbox = sandbox.env("CLASSES", java_classes()).env("GO", go_program());
        let sandbox = sandbox.env("DENO", runtime("deno")).env("BUN", runtime("bun"));
        let sandbox = sandbox.env("FETCH", script(lab, "node/fetch.mjs"));
        let outcome = sandbox.run(&command!["sh", script(lab, "trust.sh"), ORIGIN]);
        outcome.success();
        let out = outcome.out();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), TABLE.len(), "{out}\n{}", outcome.tail());
        for (line, (client, variable, without)) in lines.into_iter().zip(TABLE) {
            let start = format!("{client} {variable}: with yes, without ");
            let said = line.strip_prefix(&start).unwrap_or_else(|| panic!("{line:?} in\n{out}"));
            let expected = without.map(|works| if works { "yes" } else { "no" });
            assert!(expected.is_none_or(|expected| said == expected), "{line:?} in\n{out}");
        }
    });
}
