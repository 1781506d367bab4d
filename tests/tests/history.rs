//! What `run` remembers for its user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::sandbox::{Sandbox, binary};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/models"] }]))
}

/// A request that is permitted and one that is not.
fn ask(sandbox: Sandbox<'_>) -> interceptor_tests::Outcome {
    let plan = Plan::https(HOST, "http/1.1").ask("GET", "/v1/models").ask("POST", "/v1/models");
    sandbox.at_origin(HOST).fetch_outcome(&plan).1
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(directory).map(|entries| {
        entries.map(|entry| entry.expect("a directory of the test").path()).collect()
    });
    listed.unwrap_or_default()
}

/// Runs another command of the product as the person whose state is in `state`.
fn command(state: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary("interceptor"));
    let output = command.args(arguments).env_clear().env("XDG_STATE_HOME", state).output();
    let output = output.expect("the product runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn every_run_keeps_its_records_and_later_commands_read_them_without_a_path() {
    Lab::test(|lab| {
        let state = lab.directory().join("state");
        let outcome = ask(lab.sandbox(&policy(lab)).option("--name").option("first-run"));
        let (code, shown) = command(&state, &["audit", "last", "--json"]);
        assert_eq!(code, Some(0), "{shown}");
        let kept: Vec<Value> =
            shown.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
        assert_eq!(kept.len(), outcome.audit.len());
        assert!(kept.iter().all(|record| record["sandbox"] == "first-run"), "{shown}");
        let refused = kept.iter().find(|record| record["type"] == "endpoint_denied");
        let id = refused.expect("a refusal")["id"].as_str().expect("an id").to_owned();
        let (code, shown) = command(&state, &["explain", "--last", &id]);
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains("to permit   add \"POST\""), "{shown}");

        // The oracles look for keys in what the sandbox reads; here in what is kept.
        for file in files(&state.join("interceptor/runs"))
            .iter()
            .chain(&files(&state.join("interceptor/run-policies")))
        {
            let text = fs::read_to_string(file).expect("a file of the history");
            assert!(!text.contains(lab.key()), "{}: {text}", file.display());
            let mode = fs::metadata(file).expect("a file").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
        }
    });
}

#[test]
fn a_run_without_a_history_leaves_none() {
    Lab::test(|lab| {
        let state = lab.directory().join("state");
        ask(lab.sandbox(&policy(lab)).option("--no-history"));
        assert_eq!(files(&state.join("interceptor/runs")), Vec::<PathBuf>::new());
        let (code, shown) = command(&state, &["audit", "last"]);
        assert_eq!(code, Some(2));
        assert!(shown.contains("no records of a run are kept"), "{shown}");
    });
}

#[test]
fn the_history_is_out_of_the_sandboxs_reach_and_so_is_its_place() {
    Lab::test(|lab| {
        // A home of the sandbox's user, as when that user started the run.
        let home = lab.work().join("home");
        let state = home.join("state");
        fs::create_dir_all(state.join("interceptor/runs")).expect("own directory");
        fs::write(state.join("interceptor/runs/secret"), "secret").expect("own directory");
        for path in [&home, &state] {
            chown(path, Some(65534), Some(65534)).expect("root may");
        }
        let script = format!(
            "cd {}; cat state/interceptor/runs/secret; ls state/interceptor; \
             mv state moved && echo MOVED; mv state/interceptor state/other && echo MOVED; \
             rm -rf state; mkdir -p state/interceptor/runs && echo MADE; \
             echo forged > state/interceptor/trusted && echo FORGED; echo done",
            home.display()
        );
        let sandbox =
            lab.sandbox(&json!({})).bare().env("XDG_STATE_HOME", &state).option("--no-history");
        let outcome = sandbox.shell(&script);
        assert_eq!(outcome.out(), "done\n", "{}", outcome.tail());
        assert_eq!(
            fs::read_to_string(state.join("interceptor/runs/secret")).ok().as_deref(),
            Some("secret")
        );
        assert!(!state.join("interceptor/trusted").exists() && !home.join("moved").exists());
    });
}

#[test]
fn under_sudo_history_and_audit_file_belong_to_whoever_called_it() {
    const USER: u32 = 54321;
    Lab::test(|lab| {
        let home = lab.work().join("person");
        fs::create_dir(&home).expect("own directory");
        chown(&home, Some(USER), Some(USER)).expect("root may");
        let audit = home.join("audit.jsonl");
        let sandbox = || {
            let sandbox = lab.sandbox(&json!({})).bare().audit_to(audit.to_str().expect("text"));
            let sandbox = sandbox.env("SUDO_UID", USER.to_string()).env("SUDO_GID", "54322");
            sandbox.env("XDG_STATE_HOME", home.join("state"))
        };
        sandbox().shell("true").success();
        sandbox().shell("true").success();
        let mut found = files(&home.join("state/interceptor/runs"));
        assert_eq!(found.len(), 2);
        found.push(audit);
        for file in &found {
            let about = fs::metadata(file).expect("a file");
            assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (USER, 54322, 0o600));
        }
    });
}
