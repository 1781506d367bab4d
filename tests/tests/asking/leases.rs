//! Leases: given, ended by time, by uses, by hand, and through a hand-over.

use interceptor_tests::daemon::{Daemon, Guest, until};
use interceptor_tests::lab::Lab;
use serde_json::{Value, json};

use super::{HOST, NEW, allow, answer, curl, daemon, decide, get, policy, questions};

/// A policy without `ask`, so that what is not permitted is refused.
fn closed(lab: &Lab) -> Value {
    let mut policy = policy(lab);
    policy.as_object_mut().unwrap().remove("ask");
    policy
}

fn path(guest: &Guest<'_>) -> String {
    format!("/v1/sandboxes/{}/leases", guest.id)
}

#[track_caller]
fn lease(daemon: &Daemon<'_>, guest: &Guest<'_>, mut terms: Value) -> Value {
    terms["patch"] = json!([{ "op": "add", "path": "/network/allow/-", "value": NEW }]);
    let given = daemon.call("POST", &path(guest), &terms.to_string());
    assert_eq!(given.status, 201, "{given:?}");
    given.json()
}

fn status(guest: &Guest<'_>) -> String {
    get(guest, &format!("https://{NEW}/x")).1
}

#[test]
fn a_lease_permits_beside_the_policy_until_it_ends() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&closed(lab));
        assert_eq!(status(&guest), "403");
        let hour = lease(&daemon, &guest, json!({ "seconds": 3600 }));
        assert_eq!(status(&guest), "200");
        let listed = daemon.call("GET", &path(&guest), "").json();
        assert_eq!(listed, json!([hour]));
        let one = format!("{}/{}", path(&guest), hour["id"].as_str().unwrap());
        assert_eq!(daemon.call("DELETE", &one, "").status, 204);
        assert_eq!(status(&guest), "403", "revoked for the next request");
        daemon.call("DELETE", &one, "").problem(404);

        lease(&daemon, &guest, json!({ "uses": 2 }));
        let statuses = [(); 3].map(|()| status(&guest));
        assert_eq!(statuses, ["200", "200", "403"]);
        assert_eq!(daemon.call("GET", &path(&guest), "").json(), json!([]));

        lease(&daemon, &guest, json!({ "seconds": 1 }));
        assert!(until(|| status(&guest) == "403"), "it ends by itself");
        let allowing = |rule: &str| {
            let add = json!({ "op": "add", "path": "/network/allow/-", "value": rule });
            json!({ "patch": [add], "uses": 1 })
        };
        for wrong in [
            json!({ "patch": [] }),
            json!({ "patch": [{ "op": "add", "path": "/limits", "value": {} }], "seconds": 1 }),
            json!({ "patch": [{ "op": "remove", "path": "/nothing" }], "seconds": 1 }),
            allowing("a b"),
            allowing("tcp://a"),
        ] {
            daemon.call("POST", &path(&guest), &wrong.to_string()).problem(422);
        }
        daemon.call("POST", &path(&guest), "{}").problem(400);
        daemon.call("POST", "/v1/sandboxes/none/leases", r#"{"patch":[],"uses":1}"#).problem(404);
        daemon.finish();
    });
}

#[test]
fn a_connection_that_a_lease_made_serves_no_request_of_the_policy() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&closed(lab));
        let rule = json!({ "methods": ["GET"], "paths": ["/v1/jobs"] });
        let patch = json!([
            { "op": "add", "path": "/network/allow/-", "value": "10.0.0.0/8" },
            { "op": "add", "path": "/credentials_v2/lab/endpoints/-", "value": rule },
        ]);
        let given = json!({ "patch": patch, "seconds": 600 }).to_string();
        assert_eq!(daemon.call("POST", &path(&guest), &given).status, 201);
        for path in ["/v1/jobs", "/v1/models", "/v1/jobs"] {
            assert_eq!(get(&guest, &format!("https://{HOST}{path}")).1, "200", "{path}");
        }
        let connections: Vec<usize> = lab.seen().iter().map(|seen| seen.connection).collect();
        assert_eq!(connections[0], connections[2], "it is used again under the lease");
        assert_ne!(connections[0], connections[1]);
        daemon.finish();
    });
}

#[test]
fn a_lease_may_permit_plain_http_which_is_never_asked_by_itself() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&policy(lab));
        let models = || get(&guest, &format!("http://{HOST}/v1/models"));
        lease(&daemon, &guest, json!({ "seconds": 600 }));
        let (body, _) = models();
        assert!(body.contains("\"plaintext_denied\""), "{body}");
        let plain = json!([{ "op": "add", "path": "/credentials_v2/lab/allow_plaintext",
            "value": true }]);
        let given = json!({ "patch": plain, "uses": 1 }).to_string();
        assert_eq!(daemon.call("POST", &path(&guest), &given).status, 201);
        assert_eq!(models().1, "200");
        let (body, _) = models();
        assert!(body.contains("\"plaintext_denied\""), "{body}");
        daemon.finish();
    });
}

#[test]
fn uses_are_exact_for_many_requests_at_once() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let guest = daemon.guest(&closed(lab));
        lease(&daemon, &guest, json!({ "seconds": 600, "uses": 37 }));
        let mut plan = interceptor_tests::client::fetch::Plan::https(NEW, "h2");
        plan.connections = 4;
        for number in 0..100 {
            plan = plan.ask("GET", &format!("/{number}"));
        }
        let reports = guest.fetch(&plan);
        let passed = reports.iter().flat_map(|one| &one.answers).filter(|one| one.status == 200);
        assert_eq!(passed.count(), 37);
        daemon.finish();
    });
}

#[test]
fn who_waits_goes_on_when_a_lease_is_given_and_a_rule_that_asks_is_asked() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let mut policy = closed(lab);
        policy["credentials_v2"]["lab"]["endpoints"] = json!([
            { "methods": ["DELETE"], "paths": ["/v1/files/*"], "ask": true },
            { "methods": [], "paths": ["/"] },
        ]);
        let guest = daemon.guest(&policy);
        let url = format!("https://{HOST}/v1/files/f1");
        assert_eq!(get(&guest, &url).1, "200", "other methods are not asked about");
        let held = curl(&guest, &["-X", "DELETE", &url]);
        let asked = questions(&daemon, 1);
        let first = json!([{ "op": "add", "path": "/credentials_v2/lab/endpoints/0",
            "value": { "methods": ["DELETE"], "paths": ["/v1/files/f1"] } }]);
        assert_eq!(asked[0]["patches"][0]["patch"], first);
        let given = json!({ "patch": first, "uses": 1 });
        assert_eq!(daemon.call("POST", &path(&guest), &given.to_string()).status, 201);
        assert_eq!(answer(held).1, "200");
        let held = curl(&guest, &["-X", "DELETE", &url]);
        let asked = questions(&daemon, 1);
        let other = json!({ "decision": "allow", "patch": [{ "op": "add",
            "path": "/network/allow/-", "value": "*" }], "seconds": 60 });
        let refused = daemon.call(
            "POST",
            &format!("/v1/approvals/{}", asked[0]["id"].as_str().unwrap()),
            &other.to_string(),
        );
        refused.problem(422);
        decide(&daemon, &asked[0], &allow());
        assert_eq!(answer(held).1, "200");
        daemon.finish();
    });
}

#[test]
fn leases_survive_a_hand_over_with_what_is_left_of_them() {
    Lab::test(|lab| {
        let before = daemon(lab);
        let guest = before.guest(&closed(lab));
        lease(&before, &guest, json!({ "uses": 3 }));
        assert_eq!(status(&guest), "200");
        let next = lab
            .daemon()
            .at_origin(HOST)
            .at_origin(NEW)
            .quiet_log()
            .control(before.control().to_owned())
            .option("--takeover")
            .start();
        let listed = next.call("GET", &path(&guest), "").json();
        assert_eq!(listed[0]["uses"], 2, "{listed}");
        assert_eq!([(); 3].map(|()| status(&guest)), ["200", "200", "403"]);
        before.finish();
        next.finish();
    });
}
