//! Where the number of sandboxes ends: at limits of the host, which are named.

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Cgroup, Daemon};
use serde_json::json;

const HOST: &str = "api.example.test";
/// Room for some sandboxes, and fewer than ten.
const FILES: &str = "--nofile=180:180";

fn daemon(lab: &Lab) -> Daemon<'_> {
    // Without this capability, a process cannot raise its own limit.
    let drop = ["/usr/bin/setpriv", "--bounding-set", "-sys_resource"];
    let limited = [&drop[..], &["/usr/bin/prlimit", FILES]].concat();
    lab.daemon().at_origin(HOST).quiet_log().under(&limited).start()
}

#[test]
fn a_daemon_without_open_files_names_the_limit_and_goes_on() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
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

/// Asks on ever more connections, and keeps each, until the daemon cannot accept another.
const CROWD: &str = "import json, socket, sys
held, said = [], []
for _ in range(120):
    s = socket.socket(socket.AF_UNIX); s.settimeout(5)
    s.connect(sys.argv[1])
    s.sendall(b'GET /healthz HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n')
    try: said.append(s.recv(10000).decode())
    except TimeoutError: break
    held.append(s)
print(json.dumps(said))";

#[test]
fn a_living_peer_is_told_what_the_daemon_lacks_and_not_that_it_has_exited() {
    Lab::test(|lab| {
        let daemon = daemon(lab);
        let mut crowd = std::process::Command::new("python3");
        let output = crowd.args(["-c", CROWD]).arg(daemon.control()).output().unwrap();
        let said: Vec<String> = serde_json::from_slice(&output.stdout).unwrap();
        assert!(said[0].starts_with("HTTP/1.1 200"), "{}", said[0]);
        let refused: Vec<&String> =
            said.iter().filter(|answer| !answer.starts_with("HTTP/1.1 200")).collect();
        assert!(!refused.is_empty(), "{} were served", said.len());
        for answer in refused {
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert!(answer.contains("failed to look at it"), "{answer}");
        }
        // With descriptors again, it serves again.
        assert!(daemon.ids().is_empty());
        daemon.finish();
    });
}
