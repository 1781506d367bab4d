//! `interceptor serve` and its control API, used over the real socket: a sandbox's life, every kind
//! of error, keys that no answer shows, policies replaced under load, and cleaning up.

mod configuration;
mod refused;

use std::fs;
use std::path::Path;

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Cgroup, Guest, until};
use interceptor_tests::outcome::Refusal;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

const OTHER: &str = "other.example.test";

/// Everything on the host is permitted.
fn open(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

fn closed() -> Value {
    json!({ "network": { "deny": ["*"] } })
}

/// The result of one HTTP/1.1 request: its status, and the refusal if it is one.
fn get(guest: &Guest<'_>, host: &str, path: &str) -> (u16, Option<Refusal>) {
    let reports = guest.fetch(&Plan::https(host, "http/1.1").ask("GET", path));
    let answer = &reports[0].answers[0];
    (answer.status, (answer.status >= 400).then(|| answer.refusal()))
}

/// Asserts that no trace of enforcement is left on this cgroup.
fn assert_gone(cgroup: u64) {
    for kept in ["/sys/fs/bpf/interceptor", "/run/interceptor-trust"] {
        assert!(!Path::new(kept).join(cgroup.to_string()).exists(), "{kept}/{cgroup}");
    }
}

#[test]
fn a_sandbox_is_made_used_shown_changed_and_removed() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).start();
        assert_eq!(daemon.call("GET", "/healthz", "").json()["status"], "ok");
        let cgroup = Cgroup::new();
        let mut body = open(lab);
        body["cgroup"] = json!(cgroup.path());
        body["id"] = json!("first_1");
        body["image"] = json!("agent:1");
        let made = daemon.call("POST", "/v1/sandboxes", &body.to_string());
        assert_eq!(
            (made.status, made.headers["location"].as_str()),
            (201, "/v1/sandboxes/first_1"),
            "{made:?}"
        );
        let made = made.json();
        assert!(made["ca_pem"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        let guest = daemon.guest_of(cgroup, &made);
        for variable in ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"] {
            let text = fs::read_to_string(&guest.env[variable]).unwrap();
            assert!(text.contains(guest.ca_pem.trim()), "{variable}");
        }
        assert!(guest.env["LAB_API_KEY"].contains("proxy-managed"), "{:?}", guest.env);

        let presented = format!("Bearer {}", guest.env["LAB_API_KEY"]);
        let plan =
            Plan::https(HOST, "h2").ask_with("GET", "/echo", &[("authorization", &presented)], "");
        assert_eq!(guest.fetch(&plan)[0].answers[0].status, 200);
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);

        assert_eq!(daemon.ids(), ["first_1"]);
        let shown = daemon.call("GET", "/v1/sandboxes/first_1", "").json();
        assert_eq!(shown["image"], "agent:1");
        assert_eq!(shown["policy"]["credentials_v2"]["lab"]["hosts"][0], HOST);
        assert_eq!(shown["limits"]["connections"], 1024);
        assert!(until(|| daemon.call("GET", "/v1/sandboxes/first_1", "").json()["allowed"] == 1));

        let changed = daemon.replace(&guest, &closed(), false);
        assert_eq!((changed.status, &changed.json()["policy"]), (200, &closed()));
        assert_eq!(get(&guest, HOST, "/x").1.unwrap().reason, "host_denied");
        // The placeholder is the same when the credential comes back.
        assert_eq!(
            daemon.replace(&guest, &open(lab), false).json()["env"]["LAB_API_KEY"],
            guest.env["LAB_API_KEY"]
        );
        assert_eq!(get(&guest, HOST, "/y").0, 200);

        daemon.remove(&guest);
        daemon.call("DELETE", "/v1/sandboxes/first_1", "").problem(404);
        daemon.call("GET", "/v1/sandboxes/first_1", "").problem(404);
        assert_eq!(daemon.ids(), [""; 0]);
        assert_gone(guest.cgroup.id());
        let control = daemon.control().to_owned();
        let outcome = daemon.finish();
        assert!(!control.exists());
        let events: Vec<_> =
            outcome.audit.iter().filter(|record| record.kind == "lifecycle").collect();
        let events: Vec<_> = events
            .iter()
            .map(|record| (record.sandbox.as_str(), record.reason.as_deref()))
            .collect();
        assert_eq!(
            events,
            [("first_1", Some("sandbox_started")), ("first_1", Some("sandbox_stopped"))]
        );
    });
}

/// The canary oracle reads every answer, every log line at trace level and the audit file.
#[test]
fn no_answer_and_no_log_holds_a_key() {
    Lab::test(|lab| {
        let (key, second) = (lab.key(), lab.another_key());
        let daemon = lab.daemon().at_origin(HOST).start();
        let policy = json!({
            "image": format!("label {key}"), "network": { "allow": [HOST, "api.openai.com"] },
            "credentials": { "openai": second },
            "credentials_v2": { "lab": { "key": key, "hosts": [HOST], "env": "LAB_API_KEY" } },
        });
        let guest = daemon.guest(&policy);
        assert_eq!(get(&guest, HOST, "/echo").0, 200);
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {key}")]);
        daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "");
        daemon.call("GET", "/v1/sandboxes", "");
        assert_eq!(daemon.replace(&guest, &policy, false).status, 200);

        let cgroup = Cgroup::new();
        let wrong = [
            json!({ "cgroup": key, "credentials": { "openai": key } }),
            json!({ "cgroup": cgroup.path(), "credentials": { key: key } }),
            json!({ "cgroup": cgroup.path(), key: 1 }),
            json!({ "cgroup": cgroup.path(), "id": format!("{key}/"), "network_profile": key }),
            json!({ "cgroup": cgroup.path(), "credentials_v2": { "lab": {
                "key": key, "hosts": [key, "a b"],
                "inject": { "header": format!("{key} x") } } } }),
            json!({ "cgroup": cgroup.path(), "credentials_v2": { "lab": {
                "key": { "env": key, "file": key }, "env": format!("{key} x") } } }),
            json!({ "cgroup": cgroup.path(), "limits": { "requests": key },
                    "network": { "allow": [key, 7], "deny": key } }),
            json!({ "cgroup": cgroup.path(), "pid": key, "netns": [key] }),
        ];
        for body in wrong {
            let path = format!("/v1/sandboxes/{}/policy", guest.id);
            let answers = [
                daemon.call("POST", "/v1/sandboxes", &body.to_string()),
                daemon.call("PUT", &path, &body.to_string()),
            ];
            answers.iter().for_each(|answer| drop(answer.problem(422)));
            // Cut off in the middle of the key.
            let text = body.to_string();
            let cut = text.find(key).unwrap() + key.len();
            daemon.call("POST", "/v1/sandboxes", &text[..cut]).problem(400);
        }
        daemon.call("GET", &format!("/v1/sandboxes/{key}"), "").problem(404);
        daemon
            .call("GET", &format!("/v1/sandboxes/{}/audit?host={key}%20", guest.id), "")
            .problem(400);
        daemon.call("GET", &format!("/{key}?{key}={key}"), "").problem(404);
        daemon.finish();
    });
}

#[test]
fn the_description_and_the_catalogues_are_served() {
    Lab::test(|lab| {
        let daemon = lab.daemon().start();
        let description = daemon.call("GET", "/openapi.json", "").json();
        assert!(description["openapi"].as_str().unwrap().starts_with("3.1"), "{description}");
        assert!(description["paths"]["/v1/sandboxes/{id}/policy"]["put"].is_object());
        let services = daemon.call("GET", "/v1/services", "").json();
        assert!(services.as_array().unwrap().iter().any(|service| service["name"] == "openai"));
        let profiles = daemon.call("GET", "/v1/network-profiles", "").json();
        assert!(
            profiles.as_array().unwrap().iter().any(|profile| profile["name"] == "locked-down")
        );
        let _guest = daemon.guest(&closed());
        let metrics = daemon.call("GET", "/metrics", "");
        assert!(
            metrics.headers["content-type"].starts_with("text/plain")
                && metrics.body.contains("# TYPE interceptor_audit_dropped_total counter\n"),
            "{metrics:?}"
        );
        daemon.finish();
    });
}

#[test]
fn p2_a_second_daemon_is_refused_and_a_dead_ones_socket_replaced() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let path = lab.directory().join("control/c.sock");
        let first = lab.daemon().control(path.clone()).start();
        let second = lab.daemon().control(path.clone()).fail();
        assert!(second.tail().contains("another daemon listens"), "{}", second.tail());
        let guest = first.guest(&closed());
        first.kill();
        assert!(path.exists());
        // The wall stands without a daemon: nothing answers, and nothing gets out.
        let program = format!(
            "import socket\ntry: socket.create_connection({:?}, 3); print('out')\nexcept OSError: \
             print('refused')",
            (lab.plain().ip().to_string(), lab.plain().port())
        );
        let program = program.replace("(\"", "('").replace("\", ", "', ");
        assert_eq!(guest.python(&program), "refused\n");
        // The next daemon takes the cgroup over.
        let third = lab.daemon().control(path).start();
        let mut body = closed();
        body["cgroup"] = json!(guest.cgroup.path());
        assert_eq!(third.call("POST", "/v1/sandboxes", &body.to_string()).status, 201);
        assert_eq!(guest.python(&program), "refused\n");
        third.finish();
        assert_gone(guest.cgroup.id());
    });
}

#[test]
fn o7_a_cgroup_that_goes_takes_its_sandbox_along_and_its_successor_inherits_nothing() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).start();
        let guest = daemon.guest(&open(lab));
        assert_eq!(get(&guest, HOST, "/x").0, 200);
        let (id, cgroup) = (guest.id.clone(), guest.cgroup.id());
        let path = guest.cgroup.path().to_owned();
        guest.cgroup.remove();
        // Immediately recreated, the cgroup does not belong to the sandbox.
        let successor = Cgroup::at(path);
        assert!(until(|| daemon.ids().is_empty()));
        assert!(until(|| daemon
            .records()
            .iter()
            .any(|record| record.reason.as_deref() == Some("cgroup_removed"))));
        assert!(until(|| !Path::new("/run/interceptor-trust").join(cgroup.to_string()).exists()));
        assert_gone(cgroup);
        let mut body = closed();
        (body["cgroup"], body["id"]) = (json!(successor.path()), json!(id));
        let made = daemon.call("POST", "/v1/sandboxes", &body.to_string());
        assert_eq!(made.status, 201, "{made:?}");
        let next = daemon.guest_of(successor, &made.json());
        assert_eq!(get(&next, HOST, "/x").1.unwrap().reason, "host_denied");
        daemon.finish();
    });
}

#[test]
fn o7_alternating_policies_on_cgroups_made_again_never_cross() {
    Lab::test(|lab| {
        let daemon = lab.daemon().quiet_log().at_origin(HOST).start();
        let path = Cgroup::new().path().to_owned();
        for round in 0..12 {
            let cgroup = Cgroup::at(path.clone());
            let permits = round % 2 == 0;
            let mut body = if permits { open(lab) } else { closed() };
            body["cgroup"] = json!(cgroup.path());
            let made = daemon.call("POST", "/v1/sandboxes", &body.to_string());
            assert_eq!(made.status, 201, "{made:?}");
            let guest = daemon.guest_of(cgroup, &made.json());
            assert_eq!(get(&guest, HOST, "/x").0, if permits { 200 } else { 403 }, "round {round}");
            daemon.remove(&guest);
        }
        assert_eq!(lab.seen().len(), 6);
        daemon.finish();
    });
}
