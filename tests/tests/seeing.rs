//! What `run` says of itself, and what is learnt from it.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::sandbox::{Sandbox, binary};
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
const DENIED: &str = "denied.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/models"] }]))
}

/// Two requests that are permitted, and three that are not, one of them twice.
fn ask(sandbox: Sandbox<'_>) -> Outcome {
    let plan = Plan::https(HOST, "http/1.1")
        .ask("GET", "/v1/models")
        .ask("GET", "/v1/models/17")
        .ask("POST", "/v1/models")
        .ask("POST", "/v1/models");
    let sandbox = sandbox.at_origin(HOST);
    sandbox.fetch_outcome(&plan).1
}

/// Runs another command of the product as the person who started the lab's runs.
fn command(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(binary("interceptor"));
    command.args(arguments).env_clear().env("XDG_STATE_HOME", lab.directory().join("state"));
    let output = command.current_dir(lab.directory()).output().expect("the product runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

#[test]
fn a_run_says_what_it_is_and_what_was_refused_with_the_edit_that_permits_it() {
    Lab::test(|lab| {
        let sandbox =
            lab.sandbox(&policy(lab)).user("nobody").bare().quiet_log().env("GH_TOKEN", "secret");
        let outcome = ask(sandbox.option("--summary").option("always").option("--name=mine"));
        let said = outcome.err();
        let (before, after) = said
            .split_once("\ninterceptor: 2 requests allowed, 2 refused\n")
            .unwrap_or_else(|| panic!("{said}"));
        let before = before.replace("\n    ", " ");
        assert!(before.contains("interceptor: sandbox mine, user nobody, policy /"), "{said}");
        assert!(before.contains("not passed in") && before.contains("GH_TOKEN"), "{said}");
        assert_eq!(before.lines().count(), 1, "{said}");
        let refused = format!("    2x POST {HOST}/v1/models\n");
        assert!(after.starts_with(&refused), "{said}");
        let edit = "       to permit: add \"POST\" to /credentials_v2/";
        assert!(after.contains(edit) && after.contains("/endpoints/0/methods\n"), "{said}");
        assert!(!said.contains('\u{1b}'), "{said}");
    });
}

#[test]
fn without_a_terminal_nothing_is_said_but_warnings() {
    Lab::test(|lab| {
        for when in ["auto", "never"] {
            let sandbox = lab
                .sandbox(&policy(lab))
                .user("nobody")
                .bare()
                .quiet_log()
                .env("GH_TOKEN", "secret");
            let said = ask(sandbox.option("--summary").option(when)).err();
            assert!(said.contains("not passed in") && said.contains("GH_TOKEN"), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    });
}

#[test]
fn the_last_refusal_of_a_real_run_is_explained() {
    Lab::test(|lab| {
        ask(lab.sandbox(&policy(lab)));
        let (code, shown) = command(lab, &["why"]);
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.starts_with(&format!("refused  POST {HOST}/v1/models\n")), "{shown}");
        assert!(shown.contains("to permit   add \"POST\" to /credentials_v2/"), "{shown}");
    });
}

#[test]
fn a_policy_learnt_from_a_real_run_permits_it_and_no_more() {
    Lab::test(|lab| {
        let wide = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/"] }]));
        let mut open = wide.clone();
        open["network"] = json!({ "allow": ["*"] });
        ask(lab.sandbox(&open).option("--name").option("teacher"));
        let (code, said) = command(lab, &["learn", "last", "-o", "learnt.jsonc"]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = command(lab, &["replay", "--policy", "learnt.jsonc", "--last"]);
        assert_eq!(code, Some(0), "{said}");
        let learnt = fs::read_to_string(lab.directory().join("learnt.jsonc")).expect("written");
        assert!(learnt.contains(HOST) && !learnt.contains(lab.key()), "{learnt}");
        assert!(!learnt.contains('*'), "{learnt}");

        // The same again under what was learnt, and something else, which it does not permit.
        let (_, json) = command(lab, &["learn", "last", "--json"]);
        let mut learnt: Value = serde_json::from_str(&json).expect("a policy");
        for (name, credential) in learnt["credentials_v2"].as_object_mut().expect("credentials") {
            credential["key"] = wide["credentials_v2"][name]["key"].clone();
        }
        let plan = Plan::https(HOST, "http/1.1")
            .ask("GET", "/v1/models")
            .ask("GET", "/v1/models/17")
            .ask("GET", "/v1/files");
        let (reports, _) = lab.sandbox(&learnt).at_origin(HOST).fetch_outcome(&plan);
        let statuses: Vec<u16> = reports[0].answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 200, 403]);
        let plan = Plan::https(DENIED, "http/1.1").ask("GET", "/");
        let reports = lab.sandbox(&learnt).at_origin(DENIED).fetch(&plan);
        assert_eq!(reports[0].answers[0].status, 403);
    });
}

#[test]
fn a_learning_run_writes_the_policy_that_its_command_needed() {
    Lab::test(|lab| {
        let policy = lab.directory().join("made.jsonc");
        // The run is not one of the lab's, which knows no audit file of it.
        lab.tunnelled("free.example.test");
        let plan = Plan::https("free.example.test", "http/1.1").ask("GET", "/x");
        let client = interceptor_tests::sandbox::client();
        lab.permits(&json!({ "network": { "allow": ["free.example.test"] } }).to_string());
        let run = || {
            let mut run = Command::new(binary("interceptor"));
            run.args(["run", "--learn", "-o"]).arg(&policy).arg("--resolve");
            run.arg(format!("free.example.test:443:{}", lab.origin())).arg("--upstream-ca");
            run.arg(lab.directory().join("upstream-ca.pem")).arg("--").arg(&client).arg("fetch");
            run.env_clear().env("XDG_STATE_HOME", lab.directory().join("state"));
            run.env("PATH", "/usr/bin:/bin").env("OPENAI_API_KEY", lab.key());
            run.current_dir(lab.work()).stdin(Stdio::piped());
            run.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = run.spawn().expect("the product starts");
            let plan = serde_json::to_string(&plan).expect("a plan is plain data");
            let mut input = child.stdin.take().expect("piped");
            // A run that is refused reads nothing.
            let _ = input.write_all(plan.as_bytes());
            drop(input);
            child.wait_with_output().expect("the product ends")
        };
        let output = run();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("interceptor: wrote ") && said.contains("made.jsonc"), "{said}");
        let learnt = fs::read_to_string(&policy).expect("written");
        assert!(
            learnt.contains("// once, 2") && learnt.contains("\"free.example.test\""),
            "{learnt}"
        );
        assert!(!learnt.contains(lab.key()) && !learnt.contains("openai"), "{learnt}");
        // Never over a file.
        let output = run();
        assert_eq!(output.status.code(), Some(125));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("--force"), "{said}");
    });
}
