//! What is asked and decided by the page.

use std::fs;
use std::process::{Child, Output};

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Cgroup, Guest, until};
use interceptor_tests::lab::Lab;
use interceptor_tests::visitor::{Followed, Visitor};
use serde_json::{Value, json};

use super::{HOST, NEW, PAGE, daemon, policy};

/// Starts curl, which prints the status.
fn curl(guest: &Guest<'_>, url: &str) -> Child {
    let mut command = guest.command("curl");
    command.args(["-sS", "--max-time", "120", "-o", "/dev/null", "-w", "%{http_code}", url]);
    command.spawn().expect("curl")
}

#[track_caller]
fn status(child: Child) -> String {
    let Output { stdout, .. } = child.wait_with_output().expect("curl");
    String::from_utf8_lossy(&stdout).into_owned()
}

/// The question about a path, once it is there.
#[track_caller]
fn question(events: &Followed, path: &str) -> Value {
    let find = || {
        let told = events.data("question").into_iter().map(|event| event["question"].clone());
        told.rev().find(|question| question["path"] == path)
    };
    assert!(until(|| find().is_some()), "{}", events.text());
    find().unwrap()
}

fn id(question: &Value) -> &str {
    question["id"].as_str().unwrap()
}

#[test]
fn questions_appear_as_they_are_asked_and_are_decided_by_the_page() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let visitor = Visitor::of(&daemon);
        let events = visitor.follow();
        events.wait_for("event: questions");
        assert_eq!(events.data("sandboxes")[0]["sandboxes"][0]["id"], guest.id.as_str());

        let held = curl(&guest, &format!("https://{NEW}/one"));
        let asked = question(&events, "/one");
        let said = visitor.post(
            &format!("/v1/approvals/{}", id(&asked)),
            &json!({
                "decision": "allow", "patch": asked["patches"][0]["patch"], "seconds": 3600,
            }),
        );
        assert_eq!((said.status, &said.json()["lease"]["by"]), (200, &json!("page")), "{said:?}");
        assert_eq!(status(held), "200");
        assert_eq!(status(curl(&guest, &format!("https://{NEW}/more"))), "200", "for an hour");
        events.wait_for("\"event\":\"approved\"");
        assert!(until(|| events.data("leases").last().is_some_and(|all| all[0]["by"] == "page")));

        let held = curl(&guest, &format!("https://{HOST}/v1/jobs"));
        let asked = question(&events, "/v1/jobs");
        let refuse = json!({ "decision": "deny" });
        let path = format!("/v1/approvals/{}", id(&asked));
        assert_eq!(visitor.post(&path, &refuse).status, 200);
        assert_eq!(status(held), "403");
        assert_eq!(visitor.post(&path, &refuse).status, 409, "it is decided already");
        let no_file = visitor.post(&format!("{path}/always"), &json!({ "patch": [] }));
        assert_eq!(no_file.status, 409, "{no_file:?}");

        let by_page = || {
            let records = daemon.records();
            let decided = records.iter().filter(|record| record.by.as_deref() == Some("page"));
            decided.filter_map(|record| record.reason.clone()).collect::<Vec<_>>()
        };
        assert!(until(|| by_page() == ["approved", "refused"]), "{:?}", by_page());
        // The records came to the page too, without a key.
        events.wait_for("\"path\":\"/more\"");
        events.wait_for("approval_refused");
        assert!(!events.text().contains(lab.key()));
        let lease = daemon.call("GET", &format!("/v1/sandboxes/{}/leases", guest.id), "").json();
        let lease = lease[0]["id"].as_str().unwrap();
        let revoke = format!("/v1/sandboxes/{}/leases/{lease}", guest.id);
        let fields = ["x-interceptor-request: 1"];
        assert_eq!(visitor.ask("DELETE", &revoke, &[], "").status, 403);
        assert_eq!(visitor.ask("DELETE", &revoke, &fields, "").status, 204);
        assert!(until(|| events.data("leases").last() == Some(&json!([]))));
        daemon.finish();
    });
}

#[test]
fn the_story_of_a_refusal_has_the_edit_that_permits_it() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let mut policy = policy(lab);
        policy.as_object_mut().unwrap().remove("ask");
        let guest = daemon.guest(&policy);
        let visitor = Visitor::of(&daemon);
        let events = visitor.follow();
        let url = format!("https://{NEW}/x");
        assert_eq!(status(curl(&guest, &url)), "403");
        let records = || {
            events
                .data("records")
                .into_iter()
                .flat_map(|part| part.as_array().cloned().unwrap())
                .collect::<Vec<Value>>()
        };
        let refused = |record: &Value| record["kind"] == "request" && record["decision"] == "deny";
        assert!(until(|| records().iter().any(refused)), "{}", events.text());
        let record = records().into_iter().find(refused).unwrap();
        let told = visitor.post(&format!("/v1/sandboxes/{}/story", guest.id), &record).json();
        assert_eq!(told["edit"], format!("add \"{NEW}\" to /network/allow"));
        let patch = &told["patches"][0]["patch"];
        assert_eq!(patch[0]["value"], format!("{NEW}:443"));
        let give = json!({ "patch": patch, "seconds": 3600 });
        let given = visitor.post(&format!("/v1/sandboxes/{}/leases", guest.id), &give);
        assert_eq!(given.status, 201, "{given:?}");
        assert_eq!(status(curl(&guest, &url)), "200");
        let unknown = visitor.post("/v1/sandboxes/none/story", &record);
        assert_eq!(unknown.status, 404);
        for wrong in [json!([]), json!({}), json!("x")] {
            let said = visitor.post(&format!("/v1/sandboxes/{}/story", guest.id), &wrong);
            assert_eq!(said.status, 422, "{said:?}");
        }
        // A page that comes later is told of what was.
        let later = visitor.follow();
        later.wait_for("host_denied");
        daemon.finish();
    });
}

#[test]
fn always_writes_the_edit_into_the_file_that_the_daemon_was_started_with() {
    Lab::test(|lab| {
        lab.unordered();
        let file = lab.directory().join("policy.jsonc");
        let text = format!(
            "{{\n  // what the agent needs\n  \"ask\": {{}},\n  \"network\": {{\n    \
             \"allow\": [\n      \"{HOST}\", // its API\n    ],\n    \"deny\": [\"*\"]\n  }}\n}}\n"
        );
        fs::write(&file, &text).unwrap();
        lab.permits(&json!({ "network": { "allow": [HOST, NEW] } }).to_string());
        let daemon = lab
            .daemon()
            .at_origin(HOST)
            .at_origin(NEW)
            .option(PAGE)
            .option("--policy")
            .option(&file)
            .quiet_log()
            .start();
        let cgroup = Cgroup::new();
        let body = json!({ "cgroup": cgroup.path() }).to_string();
        let made = daemon.call("POST", "/v1/sandboxes", &body).json();
        let guest = daemon.guest_of(cgroup, &made);
        let visitor = Visitor::of(&daemon);
        let events = visitor.follow();
        let url = format!("https://{NEW}/x");
        let held = curl(&guest, &url);
        let asked = question(&events, "/x");
        let path = format!("/v1/approvals/{}/always", id(&asked));
        let wider = json!([{ "op": "add", "path": "/network/allow/-", "value": "*" }]);
        let refused = visitor.post(&path, &json!({ "patch": wider }));
        assert_eq!(refused.status, 422, "{refused:?}");
        // Somebody has changed the file since: nothing is decided and nothing written.
        fs::write(&file, text.replace(HOST, "other.example.test")).unwrap();
        let patch = json!({ "patch": asked["patches"][0]["patch"] });
        let refused = visitor.post(&path, &patch);
        assert_eq!(refused.status, 409, "{refused:?}");
        fs::write(&file, &text).unwrap();
        let said = visitor.post(&path, &patch);
        assert_eq!(said.status, 200, "{said:?}");
        assert_eq!(said.json()["policy_file"], file.display().to_string());
        assert_eq!(status(held), "200");
        let line = format!("      \"{HOST}\", // its API\n      \"{NEW}:443\",\n");
        let expected = text.replace(&format!("      \"{HOST}\", // its API\n"), &line);
        assert_eq!(fs::read_to_string(&file).unwrap(), expected);
        assert_eq!(status(curl(&guest, &url)), "200", "the daemon has read it again");
        assert!(until(|| daemon.records().iter().any(|one| one.by.as_deref() == Some("page"))));
        daemon.finish();
    });
}

#[test]
fn p9_a_flood_of_questions_is_bounded_and_another_sandboxes_is_seen() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let (loud, quiet) = (daemon.guest(&policy(lab)), daemon.guest(&policy(lab)));
        let visitor = Visitor::of(&daemon);
        let events = visitor.follow();
        events.wait_for("event: questions");
        let own = curl(&quiet, &format!("https://{NEW}/own"));
        let asked = question(&events, "/own");
        let mut plan = Plan::https(NEW, "h2");
        for number in 0..80 {
            plan = plan.ask("GET", &format!("/flood-{number}-end"));
        }
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| loud.fetch(&plan));
            let waiting = || {
                let all = daemon.call("GET", "/v1/approvals", "").json();
                all.as_array().unwrap().len()
            };
            assert!(until(|| waiting() == 65), "{}", waiting());
            // A page that comes now sees them all, and the first of all is the other sandbox's.
            let later = visitor.follow();
            later.wait_for("event: questions");
            assert!(until(|| !later.data("questions").is_empty()));
            let all = &later.data("questions")[0];
            assert_eq!((all.as_array().unwrap().len(), &all[0]["id"]), (65, &asked["id"]));
            let path = format!("/v1/approvals/{}", id(&asked));
            let allowed = visitor.post(&path, &json!({ "decision": "allow" }));
            assert_eq!(allowed.status, 200);
            assert_eq!(status(own), "200");
            for question in all.as_array().unwrap().iter().skip(1) {
                let path = format!("/v1/approvals/{}", id(question));
                assert_eq!(visitor.post(&path, &json!({ "decision": "deny" })).status, 200);
            }
            let answers = &flood.join().unwrap()[0].answers;
            let of = |wanted: u16| answers.iter().filter(|one| one.status == wanted).count();
            assert_eq!((of(403), of(429)), (64, 16));
        });
        daemon.finish();
    });
}
