//! The HTTP clients of each language as usually used: no flags, no proxy, no certificate settings.

use interceptor_tests::clients::conversation::{self, ORIGIN};
use interceptor_tests::clients::{self, NODE, PYTHON};
use interceptor_tests::{Lab, command};

#[track_caller]
fn python(library: &str, protocol: &str) {
    Lab::test(|lab| {
        let script = clients::script(lab, "python/client.py");
        let sandbox = lab.sandbox(&conversation::policy(lab)).at_origin(conversation::HOST);
        let outcome =
            sandbox.with_python_packages().run(&command![PYTHON, script, library, ORIGIN]);
        conversation::hold(lab, &outcome, protocol);
    });
}

#[track_caller]
fn program(script: &str, protocol: &str, start: &[&str]) {
    Lab::test(|lab| {
        let mut command: Vec<_> = start.iter().map(std::ffi::OsString::from).collect();
        command.push(clients::script(lab, script).into());
        command.push(ORIGIN.into());
        let outcome =
            lab.sandbox(&conversation::policy(lab)).at_origin(conversation::HOST).run(&command);
        conversation::hold(lab, &outcome, protocol);
    });
}

#[test]
fn python_requests() {
    python("requests", "h1");
}

#[test]
fn python_httpx_over_http1_and_http2() {
    python("httpx", "h1");
    python("httpx2", "h2");
}

#[test]
fn python_aiohttp() {
    python("aiohttp", "h1");
}

#[test]
fn python_urllib() {
    python("urllib", "h1");
}

#[test]
fn node_fetch() {
    program("node/fetch.mjs", "h1", &[NODE]);
}

#[test]
fn node_https() {
    program("node/https.mjs", "h1", &[NODE]);
}

#[test]
fn node_http2() {
    program("node/http2.mjs", "h2", &[NODE]);
}

#[test]
fn deno_fetch() {
    let deno = clients::runtime("deno");
    let deno = deno.to_str().expect("a path in UTF-8");
    // It would ask its maker's host for news of itself, be refused, and leave a record that is not
    // the subject.
    let quiet = "DENO_NO_UPDATE_CHECK=1";
    program(
        "node/fetch.mjs",
        "h2",
        &["env", quiet, deno, "run", "--no-config", "--allow-net", "--allow-env"],
    );
}

#[test]
fn bun_fetch() {
    let bun = clients::runtime("bun");
    program("node/fetch.mjs", "h1", &[bun.to_str().expect("a path in UTF-8"), "run"]);
}

#[test]
fn go_net_http() {
    Lab::test(|lab| {
        let sandbox = lab.sandbox(&conversation::policy(lab)).at_origin(conversation::HOST);
        let outcome = sandbox.run(&command![clients::go_program(), ORIGIN]);
        conversation::hold(lab, &outcome, "h2");
    });
}

#[test]
fn java_http_client_and_https_url_connection() {
    for (which, protocol) in [("new", "h2"), ("old", "h1")] {
        Lab::test(|lab| {
            let sandbox = lab.sandbox(&conversation::policy(lab)).at_origin(conversation::HOST);
            let classes = clients::java_classes();
            let outcome = sandbox.run(&command!["java", "-cp", classes, "Client", which, ORIGIN]);
            conversation::hold(lab, &outcome, protocol);
        });
    }
}
