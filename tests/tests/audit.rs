//! The audit file: one record per decision, with the fields of docs/audit.md and without secrets.

use std::path::Path;
use std::process::Command;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::sandbox::binary;
use serde_json::json;

const HOST: &str = "api.example.test";

#[test]
fn a_request_has_one_record_that_tells_its_whole_story() {
    for (protocol, short) in [("http/1.1", "h1"), ("h2", "h2")] {
        Lab::test(|lab| {
            let policy =
                lab.governed(HOST, json!([{ "methods": ["GET", "POST"], "paths": ["/v1/*"] }]));
            let body = "x".repeat(5000);
            let plan = Plan::https(HOST, protocol).ask_with(
                "POST",
                "/v1/lab/upload?secret=query",
                &[],
                &body,
            );
            let (_, outcome) = lab.sandbox(&policy).at_origin(HOST).fetch_outcome(&plan);
            let requests: Vec<_> =
                outcome.audit.iter().filter(|record| record.kind == "request").collect();
            assert_eq!(requests.len(), 1, "{:#?}", outcome.audit);
            let record = requests[0];
            assert_eq!(record.decision.as_deref(), Some("allow"));
            assert_eq!((record.host.as_deref(), record.port), (Some(HOST), Some(443)));
            assert_eq!(
                (record.method.as_deref(), record.path.as_deref()),
                (Some("POST"), Some("/v1/lab/upload"))
            );
            assert_eq!((record.protocol.as_deref(), record.status), (Some(short), Some(200)));
            assert_eq!(
                (record.credential.as_deref(), record.filter.as_deref()),
                (Some("lab"), Some("endpoint"))
            );
            assert!(
                record.rule.as_deref().is_some_and(|rule| rule.contains("/v1/*")),
                "{record:?}"
            );
            assert!(record.bytes_up.is_some_and(|bytes| bytes >= 5000), "{record:?}");
            assert!(record.bytes_down.is_some_and(|bytes| bytes >= 60), "{record:?}");
            assert!(record.duration_ms.is_some(), "{record:?}");
            assert!(record.reason.is_none(), "{record:?}");
        });
    }
}

#[test]
fn the_start_and_the_end_are_recorded_and_every_record_names_the_sandbox() {
    Lab::test(|lab| {
        let outcome = lab.sandbox(&json!({ "network": {} })).run(&["true"]);
        let lifecycle = outcome.audit.iter().filter(|record| record.kind == "lifecycle").count();
        assert!(lifecycle >= 2, "{:#?}", outcome.audit);
        let sandbox = &outcome.audit[0].sandbox;
        assert!(
            !sandbox.is_empty() && outcome.audit.iter().all(|record| record.sandbox == *sandbox)
        );
    });
}

#[test]
fn a_lookup_is_recorded_with_its_decision() {
    Lab::test(|lab| {
        let policy = json!({ "network": { "allow": [HOST] } });
        let script = format!("getent hosts {HOST}; getent hosts evil.test; true");
        let outcome = lab.sandbox(&policy).at_origin(HOST).at_forbidden("evil.test").shell(&script);
        for (host, decision) in [(HOST, "allow"), ("evil.test", "deny")] {
            let record =
                outcome.audit.iter().find(|r| r.kind == "dns" && r.host.as_deref() == Some(host));
            let record =
                record.unwrap_or_else(|| panic!("no record of {host}: {:#?}", outcome.audit));
            assert_eq!(record.decision.as_deref(), Some(decision));
        }
    });
}

#[test]
fn standard_error_takes_the_records_when_asked() {
    Lab::test(|lab| {
        let sandbox =
            lab.sandbox(&json!({ "network": { "deny": ["*"] } })).quiet_log().audit_to("-");
        let outcome = sandbox.shell("curl -s http://evil.test/ >/dev/null; true");
        let denied =
            outcome.err().lines().filter(|line| line.contains(r#""decision":"deny""#)).count();
        assert!(denied >= 1, "{}", outcome.err());
    });
}

#[test]
fn a_path_that_is_not_an_appendable_file_is_refused_before_the_start() {
    let home = tempfile::tempdir().unwrap();
    let pipe = home.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for audit in [pipe.as_path(), Path::new("/dev/zero"), home.path()] {
        let mut command = Command::new(binary("interceptor"));
        command
            .args(["run", "--profile", "unrestricted", "--audit"])
            .arg(audit)
            .args(["--", "echo", "it began"]);
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(125), 0), "{error}");
        assert!(error.contains(&audit.display().to_string()), "{error}");
    }
}

#[test]
fn x7_a_full_disk_does_not_stop_traffic() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let policy = json!({ "network": { "allow": [HOST] } });
        let sandbox = lab.sandbox(&policy).at_origin(HOST).audit_to("/dev/full");
        let script = format!(
            "for i in 1 2 3; do curl -sS -o /dev/null -w '%{{http_code}}\\n' https://{HOST}/$i; \
             done"
        );
        assert_eq!(sandbox.shell(&script).out(), "200\n200\n200\n");
    });
}
