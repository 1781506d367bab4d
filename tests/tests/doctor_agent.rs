//! `doctor --agent`: which of an agent's clients trust the certificates that a sandbox sees. The
//! clients are the machine's own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use interceptor_tests::Lab;
use interceptor_tests::people::{Account, text};
use interceptor_tests::sandbox::binary;
use serde_json::Value;

/// The checks, by name, as the person's `sudo` shows them with this directory first on PATH.
fn checks(account: &Account, agent: &str) -> (Option<i32>, Vec<Value>) {
    let script =
        "PATH=$HOME/bin:$PATH; export PATH; sudo \"$1\" doctor --agent \"$2\" --json; exit $?";
    let output = account.run(script, &[binary("interceptor").to_str().unwrap(), agent]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    (output.status.code(), report["checks"].as_array().unwrap().clone())
}

#[track_caller]
fn named<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {checks:?}"))
}

fn program(account: &Account, name: &str, text: &str) {
    let path = account.file(&format!("bin/{name}"), text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn clients_that_trust_are_told_from_one_that_does_not() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        // An agent as npm installs it.
        program(&account, "gemini", "#!/usr/bin/env node\n");
        let (status, all) = checks(&account, "gemini-cli");
        assert_eq!(status, Some(0), "{all:?}");
        assert!(named(&all, "Gemini CLI")["detail"].as_str().unwrap().contains("is run by"));
        for name in ["Node.js", "git"] {
            let check = named(&all, name);
            assert_eq!(check["ok"], true, "{check}");
            assert!(check["detail"].as_str().unwrap().contains("accepts"), "{check}");
        }
        // The same Node.js behind a wrapper that takes away what would make it trust.
        let wrapper = "#!/bin/sh\nunset NODE_EXTRA_CA_CERTS SSL_CERT_FILE NODE_OPTIONS\n\
                       exec /usr/bin/node \"$@\"\n";
        program(&account, "node", wrapper);
        let (status, all) = checks(&account, "gemini-cli");
        assert_eq!(status, Some(1), "{all:?}");
        let node = named(&all, "Node.js");
        assert_eq!(node["ok"], false, "{node}");
        let remedy = node["remedy"].as_str().unwrap();
        assert!(remedy.contains("NODE_EXTRA_CA_CERTS") && remedy.contains("/bin/node"), "{node}");
        assert_eq!(named(&all, "git")["ok"], true, "{all:?}");
    });
}

#[test]
fn a_client_that_answers_with_an_alert_is_named_with_it_and_pythons_own_roots_are_found() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        program(&account, "aider", "#!/usr/bin/python3\n");
        let (status, all) = checks(&account, "aider");
        assert_eq!(status, Some(0), "{all:?}");
        assert_eq!(named(&all, "Python's ssl")["ok"], true, "{all:?}");
        // A Python that is given roots of its own.
        fs::create_dir(account.home().join("empty")).unwrap();
        let wrapper = "#!/bin/sh\nunset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE\n\
                       SSL_CERT_FILE=/dev/null SSL_CERT_DIR=/dev/null \
                       exec /usr/bin/python3 \"$@\"\n";
        program(&account, "python3", wrapper);
        program(&account, "aider", "#!/usr/bin/env python3\n");
        let (status, all) = checks(&account, "aider");
        assert_eq!(status, Some(1), "{all:?}");
        let ssl = named(&all, "Python's ssl");
        assert_eq!(ssl["ok"], false, "{ssl}");
        assert!(ssl["detail"].as_str().unwrap().contains("(alert unknown_ca)"), "{ssl}");
        assert!(ssl["remedy"].as_str().unwrap().contains("SSL_CERT_FILE"), "{ssl}");
    });
}

#[test]
fn an_agent_that_is_not_there_and_one_that_nobody_knows_are_told() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let (status, all) = checks(&account, "codex");
        let codex = &all[0];
        assert_eq!((status, &codex["ok"]), (Some(0), &Value::from(false)), "{all:?}");
        assert!(codex["detail"].as_str().unwrap().contains("is not on the PATH of"), "{codex}");
        let script = "\"$1\" doctor --agent codx; \"$1\" doctor --agent codex; exit $?";
        let output = account.run(script, &[binary("interceptor").to_str().unwrap()]);
        let said = text(&output.stderr);
        assert!(said.contains("did you mean `codex`?"), "{said}");
        assert!(said.contains("run needs root") || said.contains("sudo"), "{said}");
    });
}
