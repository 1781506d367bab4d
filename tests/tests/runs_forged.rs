//! Sockets that pretend to be those of a user's run: made by a sandbox, or by any process of the
//! user's that root then listens to.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::conversing::{Conversing, typed};
use interceptor_tests::people::Account;
use serde_json::{Value, json};

/// Answers requests at a socket: `python3 SERVE SOCKET ANSWERS`, which are JSON by path.
const SERVE: &str = r#"
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o600)
s.listen(8)
print("serves", flush=True)
answers = json.loads(sys.argv[2])
while True:
    c, _ = s.accept()
    head = b""
    while b"\r\n\r\n" not in head:
        piece = c.recv(65536)
        if not piece: break
        head += piece
    if head:
        body = json.dumps(answers.get(head.split(b" ")[1].decode(), {})).encode()
        c.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    c.close()
"#;

/// A forged control socket, served by a process of the user's outside every sandbox.
struct Forged(Child);

impl Forged {
    fn serve(account: &Account, socket: &Path, answers: &Value) -> Forged {
        let script = account.file("serve.py", SERVE);
        let words = [script.to_str().unwrap(), socket.to_str().unwrap(), &answers.to_string()];
        let mut command = account.shell("exec python3 \"$@\"", &words);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("setpriv and sh");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "serves\n");
        Forged(child)
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the sockets of runs are without a runtime directory.
fn state(account: &Account) -> PathBuf {
    let state = account.directory(Path::new(".local/state/interceptor/control"));
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    state
}

#[test]
fn a_sandbox_makes_no_socket_that_is_taken_for_a_runs() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        // Unusable at the start, since others may read it; the sandbox makes it usable.
        let runtime = account.directory(Path::new("runtime"));
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let before = format!("export XDG_RUNTIME_DIR={}", runtime.display());
        let said = lab.directory().join("said");
        let options = ["--profile=unrestricted", "--name", account.name()];
        let mut run = Conversing::start(&account, &before, &options, &said);
        let script = account.file("serve.py", SERVE);
        let answers = json!({
            "/v1/sandboxes": { "sandboxes": [{ "id": "forged", "command": "FORGED" }] },
            "/healthz": { "status": "FORGED" },
        });
        let script = script.display();
        let (runtime, elsewhere) = (runtime.display(), account.home().join("x.sock"));
        let elsewhere = elsewhere.to_str().unwrap();
        let seen = run.inside(&format!(
            "A='{answers}'; chmod 700 {runtime}; mkdir -m 700 {runtime}/interceptor; \
             for at in {runtime}/interceptor/forged@abcdefgh.sock {elsewhere}; do \
             python3 {script} $at \"$A\" < /dev/null > {runtime}/out 2>&1 & \
             until grep -q serves {runtime}/out; do sleep 0.05; done; rm {runtime}/out; done; \
             echo made"
        ));
        assert!(seen.ends_with("made"), "{seen}");
        let (status, listed) = typed(&account, &before, &["ps"]);
        assert!(status == Some(0) && listed.contains(account.name()), "{listed}");
        assert!(!listed.contains("forged"), "{listed}");
        let (status, said) = typed(&account, &before, &["ctl", "policy", "get", "forged"]);
        assert!(status == Some(2) && said.contains("you have no run forged"), "{said}");
        // Nor is one believed that is named.
        let (status, said) = typed(&account, &before, &["ctl", "--control", elsewhere, "health"]);
        assert!(status == Some(2) && said.contains("in a sandbox"), "{said}");
        run.end();
    });
}

#[test]
fn root_edits_no_file_that_a_users_socket_names() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let policy = json!({ "network": { "allow": ["one.test"] } });
        let roots = lab.directory().join("roots.json");
        fs::write(&roots, policy.to_string()).unwrap();
        let own = account.file("own.json", &policy.to_string());
        let socket = state(&account).join("web@abcdefgh.sock");
        let add =
            |value: &str| json!([{ "op": "add", "path": "/network/allow/-", "value": value }]);
        let answers = |file: &Path, patch: &Value| {
            json!({
                "/v1/approvals": [{ "id": "q1", "sandbox": "web", "patches": [
                    { "patch": patch, "wider": false }] }],
                "/v1/approvals/q1": { "id": "q1", "lease": {} },
                "/v1/sandboxes/web": { "policy_file": file, "policy": policy },
            })
        };
        let approve = |options: &[&str]| {
            let approve = ["ctl", "approve", "q1", "--always"];
            typed(&account, "set -- sudo \"$@\"", &[&approve, options].concat())
        };
        let named = ["--control", socket.to_str().unwrap()];
        for (file, patch, options, why) in [
            // Not root, so no run: nobody asks there by himself.
            (&own, add("two.test"), &[][..], "cannot reach the daemon"),
            (&roots, add("two.test"), &named, "Permission denied"),
            // What makes no policy, or is no edit of one.
            (&own, add("not a host"), &named, "/network/allow"),
            (&own, json!([{ "op": "add", "path": "/netwrok", "value": {} }]), &named, "patch"),
        ] {
            let _forged = Forged::serve(&account, &socket, &answers(file, &patch));
            let (status, said) = approve(options);
            assert_eq!(fs::read_to_string(file).unwrap(), policy.to_string(), "{said}");
            assert!(status == Some(2) && said.contains(why), "{said}");
            let _ = fs::remove_file(&socket);
        }
        // What the user may edit is edited.
        let _forged = Forged::serve(&account, &socket, &answers(&own, &add("two.test")));
        let (_, said) = approve(&named);
        assert!(fs::read_to_string(&own).unwrap().contains("two.test"), "{said}");
    });
}

#[test]
fn of_two_sockets_that_claim_one_run_neither_is_asked() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let control = state(&account);
        let said = lab.directory().join("said");
        let options = ["--profile=unrestricted", "--name", account.name()];
        let run = Conversing::start(&account, "true", &options, &said);
        let get = || typed(&account, "true", &["ctl", "policy", "get", account.name()]);
        let (status, told) = get();
        assert_eq!(status, Some(0), "{told}");
        let own = fs::read_dir(&control).unwrap().next().unwrap().unwrap().path();
        let other = control.join(format!("{}@hgfedcba.sock", account.name()));
        fs::hard_link(&own, &other).unwrap();
        let (status, told) = get();
        assert_eq!(status, Some(2), "{told}");
        for socket in [&own, &other] {
            assert!(told.contains(socket.to_str().unwrap()), "{told}");
        }
        fs::remove_file(&other).unwrap();
        assert_eq!(get().0, Some(0));
        run.end();
    });
}
