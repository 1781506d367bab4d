//! The commands that answer questions about policies, run as users run them: the real binary, its
//! output and exit status.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod check;
#[path = "../desk/mod.rs"]
mod desk;
mod explain;
mod records;
mod way_out;

use std::process::{Command, Stdio};

use serde_json::json;

use desk::Desk;

const POLICY: &str = r#"{
  "network": { "deny": ["0.0.0.0/0"],
               "allow": ["api.openai.com", "*.example.com:443", "9.9.9.9", "xn--bcher-kva.test"] },
  "credentials_v2": {
    "openai": { "key": "sk-CANARY",
                "endpoints": [ { "methods": ["POST"], "paths": ["/v1/chat/completions"] },
                               { "methods": ["GET"],  "paths": ["/v1/models"] } ] },
    "asked":  { "key": { "env": "INTERCEPTOR_TEST_KEY" }, "hosts": ["asked.example.com"],
                "inject": { "query": "key" } },
    "other":  { "key": { "file": "/nonexistent/key" }, "hosts": ["asked.example.com"] }
  }
}"#;

#[test]
fn o2_text_output_contains_no_control_characters() {
    let desk = Desk::new();
    let policy = desk.file("p.json", "{}");
    let policy = policy.display().to_string();
    let output = desk
        .run(&["explain", "--policy", &policy, "GET", "https://a.test/\u{1b}[2J\u{202e}x"], None);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        !text.contains('\u{1b}') && !text.contains('\u{202e}') && text.contains("\\u{1b}"),
        "{text:?}"
    );
}

#[test]
fn profiles_and_services_list_the_catalogues() {
    let desk = Desk::new();
    let directory = desk.path("profiles.d");
    desk.file(
        "profiles.d/ours.json",
        r#"{"ours":{"description":"Ours.","allow":["a.example.com"],"groups":["registries"]}}"#,
    );
    std::fs::write(desk.path("home/.npmrc"), "registry=https://packages.example.com/\n").unwrap();
    let (seen, code) = desk.json(&["profiles", "--json", "--profiles-dir", &directory]);
    assert_eq!(code, 0);
    let names: Vec<&str> =
        seen.as_array().unwrap().iter().map(|profile| profile["name"].as_str().unwrap()).collect();
    for name in
        ["unrestricted", "locked-down", "claude-code", "openai", "data-science", "web-dev", "ours"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let (seen, _) = desk.json(&["profiles", "ours", "--json", "--profiles-dir", &directory]);
    let allow: Vec<&str> =
        seen[0]["allow"].as_array().unwrap().iter().map(|rule| rule.as_str().unwrap()).collect();
    assert!(
        allow.contains(&"a.example.com") && allow.contains(&"packages.example.com"),
        "{allow:?}"
    );
    let human = desk.run(&["profiles", "ours", "--profiles-dir", &directory], None);
    assert!(
        String::from_utf8(human.stdout)
            .unwrap()
            .contains("allow  packages.example.com  (group registries)")
    );
    let (seen, _) = desk.json(&["services", "--json"]);
    assert_eq!(seen.as_array().unwrap().len(), 21);
    let (seen, _) = desk.json(&["services", "github", "--json"]);
    assert_eq!(seen[0]["env"], json!(["GITHUB_TOKEN", "GH_TOKEN"]));
    // A policy may name a profile of profiles.d.
    let policy = desk.file("p.json", r#"{"network_profile":"ours"}"#);
    let (seen, code) = desk
        .explain(&policy, &["--profiles-dir", &directory, "GET", "https://packages.example.com/x"]);
    assert_eq!(code, 0, "{seen:#}");
}

#[test]
fn output_that_cannot_be_written_causes_no_panic() {
    let desk = Desk::new();
    let bad = desk.file("bad.json", "{\"a\":1}").display().to_string();
    let run = |arguments: &[&str], stdout: Stdio, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_interceptor"));
        command.args(arguments).env_clear().stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        command.spawn().unwrap().wait_with_output().unwrap()
    };
    let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
    let unread = || Stdio::from(std::io::pipe().unwrap().1);
    for arguments in
        [&["doctor"][..], &["doctor", "--json"], &["services", "--json"], &["check", &bad]]
    {
        let output = run(arguments, full(), Stdio::piped());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.starts_with("interceptor: ") && !said.contains("panicked"), "{said}");
        assert_eq!(run(arguments, full(), full()).status.code(), Some(2), "{arguments:?}");
    }
    // The exit status still tells the verdict if nobody reads the output.
    for (arguments, status) in
        [(&["services", "--json"][..], 0), (&["profiles"], 0), (&["check", &bad], 1)]
    {
        let output = run(arguments, unread(), Stdio::piped());
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
    let output = run(&["doctor", "--json"], unread(), Stdio::piped());
    assert!(matches!(output.status.code(), Some(0 | 1)) && output.stderr.is_empty());
}

#[test]
fn every_command_has_completions_and_a_manual_page() {
    let desk = Desk::new();
    let made = desk.path("made");
    assert!(desk.run(&["generate", "--to", &made], None).status.success());
    let page = |name: &str| std::fs::read_to_string(format!("{made}/man/{name}.1"));
    for name in [
        "interceptor",
        "interceptor-run",
        "interceptor-audit-verify",
        "interceptor-ctl-sandboxes-create",
    ] {
        assert!(
            page(name).unwrap_or_else(|error| panic!("{name}: {error}")).contains(".SH SYNOPSIS"),
            "{name}"
        );
    }
    // Internal commands have no manual page.
    assert!(page("interceptor-sandbox-init").is_err() && page("interceptor-generate").is_err());
    assert!(page("interceptor-audit-verify").unwrap().contains("\\-\\-expect\\-end"));
    for (shell, file) in
        [("bash", "interceptor.bash"), ("zsh", "_interceptor"), ("fish", "interceptor.fish")]
    {
        let output = desk.run(&["completions", shell], None);
        let written = std::fs::read(format!("{made}/completions/{file}")).unwrap();
        assert!(output.status.success() && output.stdout == written, "{shell}");
        // The script asks the program itself.
        let variable = format!("INTERCEPTOR_COMPLETE=\"{shell}\"");
        let written = String::from_utf8_lossy(&written);
        assert!(written.contains(&variable) || written.contains(&variable.replace('"', "")));
    }
    let mut asked = Command::new(env!("CARGO_BIN_EXE_interceptor"));
    asked.env("INTERCEPTOR_COMPLETE", "fish").args(["--", "interceptor", "audit", "verify", "--e"]);
    let answer = asked.output().unwrap();
    assert!(String::from_utf8_lossy(&answer.stdout).contains("--expect-end"), "{answer:?}");
    let parsed =
        Command::new("bash").arg("-n").arg(format!("{made}/completions/interceptor.bash")).status();
    assert!(parsed.unwrap().success());
}

#[test]
fn a_missing_daemon_is_reported_with_the_remedy() {
    let desk = Desk::new();
    let missing = desk.path("control.sock");
    for arguments in [
        &["ctl", "--control", &missing, "sandboxes"][..],
        &["ctl", "health", "--control", &missing],
        &["audit", "tail", "--sandbox", "web", "--control", &missing],
        &["audit", "stats", "--sandbox", "web", "--control", &missing],
    ] {
        let output = desk.run(arguments, None);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(&missing) && error.contains("interceptor serve"), "{error}");
    }
    // A socket without a listener.
    drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
    let output = desk.run(&["ctl", "--control", &missing, "health"], None);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exited"), "{output:?}");
    // A missing or invalid policy fails before the daemon is asked.
    let output = desk.run(&["ctl", "policy", "put", "web", "/nonexistent/p.json"], None);
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/p.json"), "{output:?}");
}
