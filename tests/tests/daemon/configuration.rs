//! What `serve --config` begins with.

use std::fs;

use interceptor_tests::Lab;
use interceptor_tests::daemon::{Cgroup, Daemon, Guest, until};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{HOST, OTHER, assert_gone, closed, get, open};

#[test]
fn a_configuration_begins_with_its_sandboxes_and_sighup_reads_their_files_again() {
    Lab::test(|lab| {
        let cgroups = [Cgroup::new(), Cgroup::new()];
        let own = lab.secret_file("own.json", &open(lab).to_string());
        let default = lab.secret_file("default.json", &closed().to_string());
        let config = json!({ "policy": default, "sandboxes": [
            { "id": "own", "cgroup": cgroups[0].path(), "policy": own },
            { "id": "by-default", "cgroup": cgroups[1].path() },
        ] });
        let config = lab.secret_file("config.json", &config.to_string());
        let daemon = lab.daemon().option("--config").option(config).at_origin(HOST).start();
        assert_eq!(daemon.ids(), ["by-default", "own"]);
        let shown = |id: &str| daemon.call("GET", &format!("/v1/sandboxes/{id}"), "").json();
        let guests: Vec<Guest<'_>> = ["own", "by-default"]
            .into_iter()
            .zip(cgroups)
            .map(|(id, cgroup)| daemon.guest_of(cgroup, &shown(id)))
            .collect();
        assert_eq!(get(&guests[0], HOST, "/one").0, 200);
        assert_eq!(get(&guests[1], HOST, "/one").0, 403);

        // A new key and a new default policy. The other file is invalid and changes nothing.
        let rotated = lab.another_key();
        fs::write(lab.directory().join("key"), &rotated).unwrap();
        lab.secret_file("default.json", &open(lab).to_string());
        lab.secret_file("own.json", "{ broken");
        fs::write(lab.directory().join("key"), &rotated).unwrap();
        let changed = shown("by-default")["policy_changed"].clone();
        daemon.running().signal(Signal::SIGHUP);
        assert!(until(|| shown("by-default")["policy_changed"] != changed));
        assert_eq!(get(&guests[1], HOST, "/two").0, 200);
        assert_eq!(get(&guests[0], HOST, "/two").0, 200);
        let keys: Vec<_> =
            lab.seen().iter().map(|seen| seen.values("authorization").concat()).collect();
        let bearer = |key: &str| format!("Bearer {key}");
        assert_eq!(keys, [bearer(lab.key()), bearer(&rotated), bearer(&rotated)]);
        let outcome = daemon.finish();
        assert!(outcome.err().contains("cannot reload the policy"), "{}", outcome.tail());
    });
}

#[test]
fn every_error_in_a_configuration_is_reported_at_once() {
    Lab::test(|lab| {
        let cgroup = Cgroup::new();
        let config = json!({ "sandboxes": [
            { "cgroup": cgroup.path(), "policy": "none/a.json" },
            { "cgroup": "/no/such/cgroup" },
            { "cgroup": cgroup.path(), "policy": "none/b.json" },
        ] });
        let config = lab.secret_file("config.json", &config.to_string());
        let outcome = lab.daemon().option("--config").option(config).fail();
        let said = outcome.err();
        // A relative path is resolved against the working directory, and the message says so.
        for what in [
            "/sandboxes/0",
            "/none/a.json",
            "/sandboxes/1",
            "/no/such",
            "/sandboxes/2",
            "/none/b.json",
        ] {
            assert!(said.contains(what), "{what}: {said}");
        }
        let config =
            lab.secret_file("fields.json", &json!({ "audits": "x", "drain": "y" }).to_string());
        let outcome = lab.daemon().option("--config").option(config).fail();
        for what in ["/audits: ", "/drain: "] {
            assert!(outcome.err().contains(what), "{what}: {}", outcome.err());
        }
    });
}

#[test]
fn an_invalid_configuration_leaves_nothing_behind() {
    Lab::test(|lab| {
        let cgroup = Cgroup::new();
        let config =
            json!({ "sandboxes": [{ "cgroup": cgroup.path() }, { "cgroup": "/no/such/cgroup" }] });
        let config = lab.secret_file("config.json", &config.to_string());
        let outcome = lab.daemon().option("--config").option(config).fail();
        assert!(outcome.tail().contains("/sandboxes/1"), "{}", outcome.tail());
        assert_gone(cgroup.id());
    });
}

#[test]
fn sandboxes_without_a_policy_of_their_own_get_the_default() {
    Lab::test(|lab| {
        let default = lab.secret_file("default.json", &open(lab).to_string());
        let daemon: Daemon<'_> = lab
            .daemon()
            .option("--policy")
            .option(default)
            .at_origin(HOST)
            .at_origin(OTHER)
            .start();
        let guest = daemon.guest(&json!({}));
        assert_eq!(get(&guest, HOST, "/x").0, 200);
        assert_eq!(get(&guest, OTHER, "/x").0, 403);
        let own = daemon.guest(&json!({ "network": { "allow": [OTHER] } }));
        assert_eq!((get(&own, HOST, "/x").0, get(&own, OTHER, "/x").0), (403, 200));
        daemon.finish();
    });
}
