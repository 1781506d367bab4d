//! What the API refuses.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use interceptor_tests::Lab;
use interceptor_tests::daemon::Cgroup;
use serde_json::{Value, json};

use super::closed;

#[test]
fn every_error_is_a_problem_document_that_says_what_is_wrong() {
    Lab::test(|lab| {
        let daemon = lab.daemon().start();
        let guest = daemon.guest(&closed());
        let taken = json!({ "cgroup": guest.cgroup.path() }).to_string();
        let nested = Cgroup::at(guest.cgroup.path().join("nested"));
        let below = json!({ "cgroup": nested.path() }).to_string();
        for body in [taken, below] {
            let problem = daemon.call("POST", "/v1/sandboxes", &body).problem(409);
            assert_eq!(problem["type"], "urn:interceptor:problem:cgroup_taken");
        }
        let free = Cgroup::new();
        let id = json!({ "cgroup": free.path(), "id": guest.id }).to_string();
        assert_eq!(
            daemon.call("POST", "/v1/sandboxes", &id).problem(409)["type"],
            "urn:interceptor:problem:id_taken"
        );

        let pointers = |body: Value| -> Vec<String> {
            let problem = daemon.call("POST", "/v1/sandboxes", &body.to_string()).problem(422);
            let errors = problem["errors"].as_array().unwrap().iter();
            errors.map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
        };
        let here = free.path();
        assert_eq!(pointers(json!({})), ["/cgroup"]);
        assert_eq!(pointers(json!({ "cgroup": "/etc" })), ["/cgroup"]);
        assert_eq!(pointers(json!({ "cgroup": "/" })), ["/cgroup"]);
        assert_eq!(pointers(json!({ "cgroup": here, "pid": 1 })), ["/pid"]);
        assert_eq!(pointers(json!({ "cgroup": here, "pid": "1" })), ["/pid"]);
        assert_eq!(pointers(json!({ "cgroup": here, "netns": "/etc/passwd" })), ["/netns"]);
        assert_eq!(pointers(json!({ "cgroup": here, "colour": "red" })), ["/colour"]);
        assert_eq!(pointers(json!([1])), ["/cgroup", ""]);
        let every = json!({
            "cgroup": 7, "network": { "allow": ["a b"] }, "limits": { "requests": 0 },
            "credentials": { "openai": { "env": "NO_SUCH_VARIABLE" } },
        });
        assert_eq!(pointers(every), ["/cgroup", "/network/allow/0", "/limits/requests"]);
        let missing =
            json!({ "cgroup": here, "credentials": { "openai": { "file": "/no/such/file" } } });
        assert_eq!(pointers(missing), ["/credentials/openai"]);

        for body in ["{", "", "{\"cgroup\":1}}", "\u{feff}{}", "nul"] {
            daemon.call("POST", "/v1/sandboxes", body).problem(400);
        }
        daemon
            .call("POST", "/v1/sandboxes", &format!("{{\"image\":\"{}\"}}", "x".repeat(1 << 20)))
            .problem(413);
        let policy = format!("/v1/sandboxes/{}/policy", guest.id);
        daemon.call("PUT", &policy, "{").problem(400);
        daemon.call("PUT", &policy, r#"{"cgroup":"/x"}"#).problem(422);
        daemon
            .call("PUT", &policy, r#"{"network":{"allow":["a"]},"network_profile":[]}"#)
            .problem(422);
        daemon.call("PUT", &format!("{policy}?close=perhaps"), "{}").problem(400);
        daemon.call("PUT", "/v1/sandboxes/nobody/policy", "{}").problem(404);
        daemon.call("DELETE", "/v1/sandboxes/nobody", "").problem(404);
        daemon.call("GET", "/v1/sandboxes/nobody/audit", "").problem(404);
        daemon.call("GET", "/v1/sandboxes/%ff", "").problem(404);
        for query in [
            "decision=maybe",
            "since=yesterday",
            "host=a%20b",
            "colour=red",
            "decision=deny&decision=allow",
        ] {
            daemon
                .call("GET", &format!("/v1/sandboxes/{}/audit?{query}", guest.id), "")
                .problem(400);
        }
        for path in ["/", "/v2/sandboxes", "/v1/sandboxes/", "/v1/sandboxes/a/b"] {
            daemon.call("GET", path, "").problem(404);
        }
        for (method, path) in
            [("PATCH", "/v1/sandboxes"), ("POST", "/healthz"), ("DELETE", "/openapi.json")]
        {
            let answer = daemon.call(method, path, "");
            answer.problem(405);
            assert!(answer.headers.contains_key("allow"), "{answer:?}");
        }
        // None of that has changed anything.
        assert_eq!(daemon.ids(), [guest.id.as_str()]);
        assert_eq!(
            daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json()["policy"],
            closed()
        );
        drop(nested);
        daemon.finish();
    });
}

#[test]
fn p4_an_id_that_would_lead_elsewhere_is_refused() {
    Lab::test(|lab| {
        let daemon = lab.daemon().start();
        let cgroup = Cgroup::new();
        for id in [
            "",
            "..",
            "../x",
            "a/b",
            "a\nb",
            "a b",
            ".",
            "-rf",
            "a.b",
            "\u{202e}x",
            "ä",
            &"a".repeat(65),
        ] {
            let body = json!({ "cgroup": cgroup.path(), "id": id }).to_string();
            let problem = daemon.call("POST", "/v1/sandboxes", &body).problem(422);
            assert_eq!(problem["errors"][0]["pointer"], "/id", "{id:?}: {problem}");
        }
        let longest = "a".repeat(64);
        let body = json!({ "cgroup": cgroup.path(), "id": longest, "network": { "deny": ["*"] } })
            .to_string();
        assert_eq!(daemon.call("POST", "/v1/sandboxes", &body).status, 201);
        assert_eq!(daemon.ids(), [longest]);
        daemon.finish();
    });
}

#[test]
fn p1_a_sandbox_has_no_say_in_its_own_policy() {
    Lab::test(|lab| {
        let daemon = lab.daemon().start();
        let guest = daemon.guest(&closed());
        let program = format!(
            "import socket
s = socket.socket(socket.AF_UNIX); s.connect({:?})
s.sendall(b'PUT /v1/sandboxes/{}/policy HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: \
             2\\r\\nconnection: close\\r\\n\\r\\n{{}}')
print(s.recv(100000).decode())",
            daemon.control(),
            guest.id
        );
        let said = guest.python(&program);
        assert!(said.starts_with("HTTP/1.1 403") && said.contains("is in a sandbox"), "{said}");
        // The same holds for a process that moved into the sandbox with an open connection, and for
        // a sandbox of `run`.
        let moved = format!(
            "import socket, os
s = socket.socket(socket.AF_UNIX); s.connect({:?})
open({:?}, 'w').write(str(os.getpid()))
s.sendall(b'GET /v1/sandboxes HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\n\\r\\n')
print(s.recv(100000).decode())",
            daemon.control(),
            guest.cgroup.path().join("cgroup.procs")
        );
        let output = std::process::Command::new("python3").args(["-c", &moved]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            said.starts_with("HTTP/1.1 403"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let run = lab.sandbox(&closed()).user("root").python(&program);
        assert!(!run.out().contains(" 200 "), "{}", run.out());
        assert_eq!(
            daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json()["policy"],
            closed()
        );

        // Another user's process cannot even connect.
        let mut other = std::process::Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c", &program]);
        let output = other.stderr(Stdio::piped()).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission"), "{output:?}");
        assert_eq!(fs::metadata(daemon.control()).unwrap().mode() & 0o777, 0o600);
        daemon.finish();
    });
}
