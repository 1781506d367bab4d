//! The files of `examples/`, used as by a reader. `interceptor/tests/documents` tests the policies,
//! `containers_page.rs` the containers.

use std::fs;
use std::path::{Path, PathBuf};

use interceptor_tests::Lab;
use interceptor_tests::daemon::Cgroup;
use serde_json::{Value, json};

const HOST: &str = "api.openai.com";
/// The lab origin's answer to the agent's question.
const ANSWER: &str = "Hello from the origin\n";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn document(path: &str) -> Value {
    serde_json::from_str(&text(path)).unwrap()
}

#[test]
fn the_agent_prints_an_answer_and_where_it_is_refused_the_reason() {
    Lab::test(|lab| {
        let agent = text("examples/python-agent/agent.py");
        let mut policy = document("examples/policies/openai.json");
        policy["credentials_v2"]["openai"]["key"] = json!({ "file": lab.key_file() });
        let outcome = lab.sandbox(&policy).quiet_log().at_origin(HOST).python(&agent);
        assert_eq!(outcome.success().out(), ANSWER);
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);

        policy["credentials_v2"]["openai"]["endpoints"] = json!([]);
        let outcome = lab.sandbox(&policy).quiet_log().at_origin(HOST).python(&agent);
        assert_eq!(outcome.code(), Some(1), "{}", outcome.tail());
        assert!(
            outcome.err().contains("POST /v1/responses was refused by the endpoint rules"),
            "{}",
            outcome.tail()
        );
    });
}

/// The configuration, the policy and the key's place are those of the example; only where they are
/// on this machine differs.
#[test]
fn the_daemon_of_the_systemd_example_has_the_agents_under_its_policy() {
    Lab::test(|lab| {
        let unit = text("systemd/interceptor.service");
        assert!(unit.contains(" serve --config /etc/interceptor/config.json "), "{unit}");
        let keys = text("examples/systemd/keys.conf");
        let (name, _) = keys.split_once("LoadCredential=").unwrap().1.split_once(':').unwrap();
        let credentials = lab.directory().join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::copy(lab.key_file(), credentials.join(name)).unwrap();

        let policy = lab.secret_file("agents.json", &text("examples/systemd/agents.json"));
        let cgroup = Cgroup::new();
        let mut config = document("examples/systemd/config.json");
        let sandbox = &mut config["sandboxes"][0];
        assert_eq!(sandbox["policy"], "/etc/interceptor/agents.json");
        sandbox["policy"] = json!(policy);
        sandbox["cgroup"] = json!(cgroup.path());
        let config = lab.secret_file("config.json", &config.to_string());

        let daemon = lab.daemon().option("--config").option(config);
        let daemon = daemon.env("CREDENTIALS_DIRECTORY", &credentials).at_origin(HOST).start();
        let made = daemon.call("GET", "/v1/sandboxes/agents", "").json();
        let guest = daemon.guest_of(cgroup, &made);
        assert_eq!(guest.python(&text("examples/python-agent/agent.py")), ANSWER);
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);
        daemon.finish();
    });
}
