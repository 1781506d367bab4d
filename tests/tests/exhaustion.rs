//! Where the number of sandboxes ends: at limits of the host, which are named.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::Cgroup;
use serde_json::json;

const HOST: &str = "api.example.test";
/// Room for some sandboxes, and fewer than ten.
const FILES: &str = "--nofile=180:180";

#[test]
fn a_daemon_without_open_files_names_the_limit_and_goes_on() {
    Lab::test(|lab| {
        // Without this capability, a process cannot raise its own limit.
        let daemon = lab.daemon().at_origin(HOST).quiet_log().under(&[
            "/usr/bin/setpriv",
            "--bounding-set",
            "-sys_resource",
            "/usr/bin/prlimit",
            FILES,
        ]);
        let daemon = daemon.start();
        let policy = json!({ "network": { "allow": [HOST] } });
        let mut guests = Vec::new();
        let refused = loop {
            let cgroup = Cgroup::new();
            let mut body = policy.clone();
            body["cgroup"] = json!(cgroup.path());
            let made = daemon.call("POST", "/v1/sandboxes", &body.to_string());
            if made.status != 201 {
                break made;
            }
            guests.push(daemon.guest_of(cgroup, &made.json()));
            assert!(guests.len() < 10, "there was no limit");
        };
        let problem = refused.problem(503);
        assert_eq!(problem["type"], "urn:interceptor:problem:full");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("Too many open files") && detail.contains("LimitNOFILE"),
            "{detail}"
        );
        assert_eq!(daemon.ids().len(), guests.len());

        // What the failed one held is free again, and the others are served.
        let plan = Plan::https(HOST, "http/1.1").ask("GET", "/status/204");
        for guest in &guests[..2] {
            assert_eq!(guest.fetch(&plan)[0].answers[0].status, 204);
        }
        daemon.remove(&guests.pop().unwrap());
        guests.push(daemon.guest(&policy));
        assert_eq!(guests.last().unwrap().fetch(&plan)[0].answers[0].status, 204);
        daemon.finish();
    });
}
