//! A run while it lives: its user lists and controls it, and nobody else does, least of all a
//! sandbox.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use interceptor_tests::Lab;
use interceptor_tests::conversing::{Conversing, typed};
use interceptor_tests::people::{Account, text};
use interceptor_tests::sandbox::binary;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::{Value, json};

/// Where the sockets are in a directory for state.
const CONTROL: &str = "interceptor/control";

/// A runtime directory of the person's, as systemd makes it. It is removed with its value.
struct Runtime(PathBuf);

impl Runtime {
    fn of(account: &Account) -> Runtime {
        let path = Path::new("/run").join(account.name());
        fs::create_dir(&path).unwrap();
        let runtime = Runtime(path);
        fs::set_permissions(&runtime.0, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&runtime.0, Some(account.uid()), Some(account.gid())).unwrap();
        runtime
    }

    /// The script that sets it.
    fn set(&self) -> String {
        format!("export XDG_RUNTIME_DIR={}", self.0.display())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A directory of the person's for state, where the sockets of runs are without a runtime directory
/// ([`CONTROL`]), and the script that sets it.
fn state(account: &Account, name: &str) -> (PathBuf, String) {
    let path = account.directory(Path::new(name));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let set = format!("unset XDG_RUNTIME_DIR; export XDG_STATE_HOME={}", path.display());
    (path, set)
}

/// The sockets in a directory.
fn sockets(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap());
    let paths = paths.filter(|entry| entry.file_type().unwrap().is_socket());
    paths.map(|entry| entry.path()).collect()
}

/// Says what answers a request at a socket, or why none is made: `python3 -c ASK SOCKET METHOD
/// PATH`.
const ASK: &str = "import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20)
try: s.connect(sys.argv[1])
except OSError as e: print(\"no way:\", e); raise SystemExit
try:
    head = f\"{sys.argv[2]} {sys.argv[3]} HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\"
    s.sendall((head + \"\\r\\n\\r\\n\").encode())
    print(s.recv(100000).decode().replace(\"\\r\\n\", \" \").replace(\"\\n\", \" \"))
except OSError as e: print(\"cut off:\", e)";

/// A policy with this key for one host.
fn governed(key: &str) -> String {
    json!({ "network": { "allow": ["own.test"] }, "credentials_v2": { "lab": {
        "key": key, "hosts": ["own.test"], "env": "LAB_API_KEY" } } })
    .to_string()
}

#[test]
fn a_run_is_listed_and_controlled_by_its_user_and_gone_at_its_end() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let runtime = Runtime::of(&account);
        let before = runtime.set();
        let key = lab.another_key();
        let policy = account.file("policy.json", &governed(&key));
        let name = account.name();
        let options = ["-q", "--name", name, "--policy", policy.to_str().unwrap()];
        let said = lab.directory().join("said");
        let mut heard = String::new();
        let mut run = Conversing::start(&account, &before, &options, &said);
        let mut type_ = |words: &[&str]| {
            let (status, text) = typed(&account, &before, words);
            heard.push_str(&text);
            (status, text)
        };
        let (status, listed) = type_(&["ps"]);
        assert_eq!(status, Some(0), "{listed}");
        assert!(listed.starts_with("ID"), "{listed}");
        let row = listed.lines().nth(1).unwrap_or_else(|| panic!("{listed}"));
        assert!(row.starts_with(name) && row.contains("sh -c echo ready"), "{listed}");
        assert!(row.contains(policy.to_str().unwrap()), "{listed}");
        assert_eq!(listed.lines().count(), 2, "{listed}");
        assert_eq!(run.verdict("other.test"), "host_denied");
        let (_, listed) = type_(&["ps", "--json"]);
        let list: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!((&list[0]["id"], &list[0]["user"]), (&json!(name), &json!(name)), "{listed}");
        assert_eq!((&list[0]["allowed"], &list[0]["refused"]), (&json!(0), &json!(1)), "{listed}");
        // With sudo it is the same list, and root without sudo has none of it.
        let with_sudo = account.run(
            &format!("{before}; sudo \"$1\" ps; exit $?"),
            &[binary("interceptor").to_str().unwrap()],
        );
        assert!(text(&with_sudo.stdout).contains(name), "{}", text(&with_sudo.stderr));

        let (_, shown) = type_(&["ctl", "policy", "get", name]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["network"]["allow"], json!(["own.test"]));
        let (_, sandboxes) = type_(&["ctl", "sandboxes"]);
        assert!(sandboxes.contains(name), "{sandboxes}");
        let (status, shown) = type_(&["ctl", "sandboxes", "show", name, "--json"]);
        assert_eq!(status, Some(0), "{shown}");
        let wider = account.file("wider.json", r#"{ "network": { "allow": ["other.test"] } }"#);
        let wider = wider.to_str().unwrap();
        let (status, put) = type_(&["ctl", "policy", "put", name, wider]);
        assert!(
            status == Some(0) && put.starts_with(&format!("{name}: policy replaced\n")),
            "{put}"
        );
        assert_ne!(run.verdict("other.test"), "host_denied");
        assert_eq!(run.verdict("own.test"), "host_denied");
        let wrong = account.file("wrong.json", r#"{ "netwrok": {} }"#);
        let (status, said) = type_(&["ctl", "policy", "put", name, wrong.to_str().unwrap()]);
        assert!(status == Some(1) && said.contains("/netwrok"), "{said}");
        assert_ne!(run.verdict("other.test"), "host_denied");
        let (status, records) =
            type_(&["audit", "tail", "--sandbox", name, "--since", "1h", "--no-follow", "--json"]);
        assert_eq!(status, Some(0), "{records}");
        assert!(records.lines().any(|line| line.contains("host_denied")), "{records}");
        let (status, said) = type_(&["ctl", "sandboxes", "delete", name]);
        assert!(status == Some(2) && said.contains("end its command instead"), "{said}");
        let (status, said) = type_(&["ctl", "policy", "get", "nobodys"]);
        assert!(status == Some(2) && said.contains("you have no run nobodys"), "{said}");

        // No key came out, by whatever request; and nobody takes it over.
        let socket = sockets(&runtime.0.join("interceptor")).pop().expect("one");
        let socket = socket.to_str().unwrap();
        for (method, path, expected) in [
            ("GET", "/openapi.json", "200"),
            ("GET", "/metrics", "200"),
            ("GET", "/healthz", "200"),
            ("GET", "/v1/sandboxes", "200"),
            ("POST", "/v1/takeover", "404"),
            ("POST", "/v1/sandboxes", "405"),
        ] {
            let asked = account.run("python3 -c \"$@\"", &[ASK, socket, method, path]);
            let answer = text(&asked.stdout);
            assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path}: {answer}");
            heard.push_str(&answer);
        }
        assert!(!heard.contains(&key), "a key came out");
        let other = Account::new(lab.directory());
        let asked = other.run("python3 -c \"$@\"", &[ASK, socket, "GET", "/v1/sandboxes"]);
        assert!(text(&asked.stdout).contains("Permission denied"), "{}", text(&asked.stdout));
        let (_, none) = typed(&other, &before, &["ps"]);
        assert_eq!(none, "no runs\n");

        assert_eq!(run.end(), "");
        assert_eq!(typed(&account, &before, &["ps"]), (Some(0), "no runs\n".to_owned()));
        assert_eq!(fs::read_dir(runtime.0.join("interceptor")).unwrap().count(), 0);
    });
}

#[test]
fn what_a_killed_run_left_is_recognised_and_removed() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let state = account.home().join(".local/state/interceptor/control");
        // Without a runtime directory, in the state.
        let before = "unset XDG_RUNTIME_DIR";
        let said = lab.directory().join("said");
        let options = ["--profile=unrestricted", "--name", account.name()];
        let run = Conversing::start(&account, before, &options, &said);
        assert_eq!(sockets(&state).len(), 1);
        let about = fs::symlink_metadata(&sockets(&state)[0]).unwrap();
        assert_eq!((about.uid(), about.mode() & 0o777), (account.uid(), 0o600));
        let (_, listed) = typed(&account, before, &["ps"]);
        assert!(listed.contains(account.name()), "{listed}");
        run.kill();
        assert_eq!(sockets(&state).len(), 1);
        assert_eq!(typed(&account, before, &["ps"]), (Some(0), "no runs\n".to_owned()));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    });
}

#[test]
fn p1_no_sandbox_reaches_the_socket_of_a_run() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let (first, before_first) = state(&account, "first");
        let (second, before_second) = state(&account, "second");
        let name = |end: &str| format!("{}-{end}", account.name());
        let said = |end: &str| lab.directory().join(end);
        let open = "--profile=unrestricted";
        let options = [open, "--name", &name("a")];
        let mut a = Conversing::start(&account, &before_first, &options, &said("a"));
        let socket = sockets(&first.join(CONTROL)).pop().expect("one");
        // As long as it lives, its user reaches it.
        let ask = |at: &Path| {
            let at = at.to_str().unwrap();
            text(&account.run("python3 -c \"$@\"", &[ASK, at, "GET", "/v1/sandboxes"]).stdout)
        };
        assert!(ask(&socket).starts_with("HTTP/1.1 200"), "{}", ask(&socket));
        let interceptor = binary("interceptor");
        let script = account.file("ask.py", ASK);
        let asks =
            |at: &Path| format!("python3 {} {} GET /v1/sandboxes", script.display(), at.display());
        for net in ["isolated", "host"] {
            let own = name(net);
            let options = [open, "--name", &own, "--net", net];
            let mut b = Conversing::start(&account, &before_second, &options, &said(net));
            // Another's is where the sandbox sees it, and refuses.
            let answer = b.inside(&asks(&socket));
            assert!(
                answer.starts_with("HTTP/1.1 403") && answer.contains("in a sandbox"),
                "{answer}"
            );
            // By another name of it, too.
            let link = account.home().join("link.sock");
            let linked = format!("ln -f {} {} || echo no link", socket.display(), link.display());
            b.inside(&linked);
            let answer = b.inside(&asks(&link));
            assert!(answer.contains("403") || answer.contains("no way"), "{answer}");
            let _ = fs::remove_file(&link);
            // Its own is hidden, and its place cannot be moved or filled.
            let hidden = second.join(CONTROL);
            assert_eq!(sockets(&hidden).len(), 1);
            let hidden = hidden.display();
            let seen = b.inside(&format!(
                "ls -A {hidden}; touch {hidden}/x && echo WROTE; \
                 mv {hidden} {hidden}2 && echo MOVED; mv {0} {0}2 && echo MOVED; \
                 mkdir -p {0}/y && rmdir {0}/y; true",
                second.display()
            ));
            assert!(!seen.contains(".sock") && !seen.contains("WROTE"), "{seen}");
            assert!(!seen.contains("MOVED"), "{seen}");
            // The product itself finds nothing inside.
            let own_tools = format!(
                "export XDG_STATE_HOME={0}; {1} ps; \
                 {1} ctl policy get {own}; true",
                second.display(),
                interceptor.display()
            );
            let seen = b.inside(&own_tools);
            assert!(seen.contains("no runs") && seen.contains("you have no run"), "{seen}");
            // What the first sandbox's directory holds is refused to it by name, too.
            let seen = b.inside(&format!(
                "export XDG_STATE_HOME={}; {} ctl policy get {}; true",
                first.display(),
                interceptor.display(),
                name("a")
            ));
            assert!(seen.contains("403") || seen.contains("refused"), "{seen}");
            b.end();
        }
        assert_eq!(a.inside("echo alive"), "alive");
        a.end();
    });
}

/// Connects until nobody else can.
fn fill(path: &Path) -> Vec<OwnedFd> {
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let address = UnixAddr::new(path).unwrap();
    let mut visitors = Vec::new();
    loop {
        let visitor = socket(AddressFamily::Unix, SockType::Stream, kind, None).unwrap();
        match connect(visitor.as_raw_fd(), &address) {
            Err(Errno::EAGAIN) => return visitors,
            connected => connected.unwrap(),
        }
        visitors.push(visitor);
    }
}

#[test]
fn a_stopped_run_does_not_hold_up_the_list() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let said = lab.directory().join("said");
        let options = ["--profile=unrestricted", "--name", account.name()];
        let run = Conversing::start(&account, "true", &options, &said);
        let pid = run.pid();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        // A hang ends with another status.
        let within = "set -- timeout 50 \"$@\"";
        let state = account.home().join(".local/state").join(CONTROL);
        let mut visitors = Vec::new();
        for is_full in [false, true] {
            // As after many visits: a blocking connect would wait until the run goes on.
            if is_full {
                visitors = fill(&sockets(&state)[0]);
            }
            let (status, listed) = typed(&account, within, &["ps"]);
            assert_eq!(status, Some(0), "{listed}");
            assert!(
                listed.contains(account.name()) && listed.contains("(does not answer)"),
                "{listed}"
            );
            let (_, told) = typed(&account, within, &["ctl", "approvals"]);
            let silent = format!("the run {} does not answer", account.name());
            assert!(told.contains(&silent) && told.contains("cannot reach the daemon"), "{told}");
        }
        run.go_on();
        drop(visitors);
        run.end();
    });
}

#[test]
fn a_visitor_that_has_gone_is_no_refused_peer() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let said = lab.directory().join("said");
        let options = ["--profile=unrestricted", "--name", account.name()];
        let run = Conversing::start(&account, "true", &options, &said);
        nix::sys::signal::kill(run.pid(), nix::sys::signal::Signal::SIGSTOP).unwrap();
        // It looks whether the run lives, asks it, and is gone before it is heard.
        typed(&account, "true", &["ps"]);
        run.go_on();
        // Whoever comes later is heard later.
        let (_, listed) = typed(&account, "true", &["ctl", "sandboxes", "show", account.name()]);
        assert!(listed.contains("allowed"), "{listed}");
        let said = run.end();
        assert!(!said.contains("refused a peer"), "{said}");
    });
}

#[test]
fn a_user_gives_no_policy_that_reads_what_only_root_may() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let key = lab.another_key();
        let roots = lab.directory().join("roots.key");
        fs::write(&roots, &key).unwrap();
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).unwrap();
        let said = lab.directory().join("said");
        let options = ["--profile=unrestricted", "--name", account.name()];
        let mut run = Conversing::start(&account, "export GIVEN=x", &options, &said);
        let policy = |source: Value| {
            json!({ "credentials_v2": { "lab": { "key": source, "hosts": ["own.test"],
                "env": "LAB_API_KEY" } } })
            .to_string()
        };
        let put = |policy: &str| {
            let file = account.file("put.json", policy);
            typed(
                &account,
                "true",
                &["ctl", "policy", "put", account.name(), file.to_str().unwrap()],
            )
        };
        let (status, told) = put(&policy(json!({ "file": roots })));
        assert!(status == Some(1) && told.contains("Permission denied"), "{told}");
        // A link of the user's own leads root nowhere either.
        let link = account.home().join("link.key");
        std::os::unix::fs::symlink(&roots, &link).unwrap();
        let (status, told) = put(&policy(json!({ "file": link })));
        assert!(status == Some(1) && told.contains("Permission denied"), "{told}");
        // What the sandbox can read is no secret of it any more.
        let own = account.file("own.key", &key);
        let (status, told) = put(&policy(json!({ "file": own })));
        assert!(status == Some(1) && told.contains("the running sandbox can read"), "{told}");
        assert!(!told.contains(&key), "{told}");
        let shown = run.inside("printenv LAB_API_KEY; true");
        assert_eq!(shown, "");
        // Root may.
        let file = account.file("put.json", &policy(json!({ "file": roots })));
        let output = Command::new(binary("interceptor"))
            .args(["ctl", "--control"])
            .arg(sockets(&account.home().join(".local/state/interceptor/control")).pop().unwrap())
            .args(["policy", "put", account.name()])
            .arg(file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        run.end();
    });
}

#[test]
fn a_run_without_sudo_is_listed_too_and_its_policy_is_settled() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let runtime = Runtime::of(&account);
        let before = runtime.set();
        let config = json!({
            "group": account.group(),
            "access": [{ "group": account.group(), "own_policies": true }],
        });
        let config = lab.secret_file("daemon-access.json", &config.to_string());
        let daemon = lab.daemon().quiet_log().option("--config").option(config).start();
        let key = lab.another_key();
        let policy = account.file("policy.json", &governed(&key));
        let name = account.name();
        let options = ["-q", "--name", name, "--policy", policy.to_str().unwrap()];
        let said = lab.directory().join("said");
        let mut run = Conversing::start_by(&account, &daemon.members(), &before, &options, &said);
        assert_eq!(run.verdict("other.test"), "host_denied");
        let (status, listed) = typed(&account, &before, &["ps"]);
        assert_eq!(status, Some(0), "{listed}");
        let row = listed.lines().nth(1).unwrap_or_else(|| panic!("{listed}"));
        assert!(row.starts_with(name) && row.contains("policy.json"), "{listed}");
        let (_, shown) = typed(&account, &before, &["ctl", "policy", "get", name]);
        assert!(shown.contains("own.test") && !shown.contains(&key), "{shown}");
        let (status, records) = typed(
            &account,
            &before,
            &["audit", "tail", "--sandbox", name, "--since", "1h", "--no-follow", "--json"],
        );
        assert!(status == Some(0) && records.contains("host_denied"), "{records}");
        let wide = account.file("wide.json", "{}");
        let (status, told) =
            typed(&account, &before, &["ctl", "policy", "put", name, wide.to_str().unwrap()]);
        assert!(status == Some(1) && told.contains("is settled when it starts"), "{told}");
        assert_eq!(run.verdict("other.test"), "host_denied");
        // Inside, neither the socket is there nor another way to it.
        let hidden = runtime.0.join("interceptor");
        assert_eq!(sockets(&hidden).len(), 1);
        assert_eq!(run.inside(&format!("ls -A {} 2> /dev/null; true", hidden.display())), "");
        run.end();
        assert_eq!(fs::read_dir(&hidden).unwrap().count(), 0);
        daemon.finish();
    });
}
