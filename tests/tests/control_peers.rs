//! Peers of the control socket. They are identified by a process descriptor, not by a pid that may
//! have been reused (attack P6); only certain programs may take over the sandboxes with their keys
//! (P6); and a process in any sandbox, even one whose daemon is dead, has no access and cannot
//! block those who have (attack P1).

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Cgroup, Daemon, Guest, until};
use interceptor_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
/// The kernel's last assigned pid (CONFIG_CHECKPOINT_RESTORE).
const LAST: &str = "/proc/sys/kernel/ns_last_pid";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// A process that ends when it is dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects, leaves the connection to a child and ends. The child sends when told to.
fn heir(daemon: &Daemon<'_>, inside: Option<&Guest<'_>>, requests: &[String]) -> Child {
    let procs = inside.map(|guest| guest.cgroup.path().join("cgroup.procs"));
    let program = format!(
        "import os, socket, sys
procs = {procs:?}
if procs: open(procs, 'w').write(str(os.getpid()))
s = socket.socket(socket.AF_UNIX); s.connect({control:?})
if os.fork(): os._exit(0)
sys.stdin.readline()
s.settimeout(30)
for request in {requests:?}:
    try: s.sendall(request.encode())
    except OSError: pass
    try: answer = s.recv(100000)
    except OSError as error: answer = repr(error).encode()
    print(answer.decode().replace('\\r\\n', ' ').replace('\\n', ' '), flush=True)",
        procs = procs.map_or(String::new(), |path| path.display().to_string()),
        control = daemon.control().display().to_string(),
    );
    let mut command = Command::new("python3");
    command.args(["-c", &program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// A process outside every sandbox with this pid.
fn reborn(number: u32) -> Ends {
    for _ in 0..100_000 {
        fs::write(LAST, (number - 1).to_string()).unwrap();
        let born = Ends(Command::new("sleep").arg("600").spawn().unwrap());
        if born.0.id() == number {
            return born;
        }
    }
    panic!("the number {number} was never to be had");
}

#[test]
fn p6_a_number_that_is_anothers_by_now_speaks_for_nobody() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let path = format!("/v1/sandboxes/{}/policy", guest.id);
        let requests = [
            "GET /v1/sandboxes HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
            format!("PUT {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{{}}"),
            "POST /v1/takeover HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: \
             interceptor-takeover\r\n\r\n"
                .to_owned(),
        ];
        let stopped = |signal| kill(daemon.running().pid(), signal).unwrap();
        for (inside, is_stopped) in [(true, false), (false, false), (true, true), (false, true)] {
            if is_stopped {
                // The daemon accepts the connection after its owner has ended.
                stopped(Signal::SIGSTOP);
            }
            let mut first = heir(&daemon, inside.then_some(&guest), &requests);
            let (mut told, mut said) = (first.stdin.take().unwrap(), first.stdout.take().unwrap());
            first.wait().unwrap();
            let outside = reborn(first.id());
            if is_stopped {
                stopped(Signal::SIGCONT);
            }
            told.write_all(b"go\n").unwrap();
            let mut answers = String::new();
            said.read_to_string(&mut answers).unwrap();
            drop(outside);
            assert_eq!(answers.lines().count(), requests.len(), "{answers}");
            for (number, answer) in answers.lines().enumerate() {
                // After refusing an unfit peer, the daemon reads nothing more from it.
                let closed = number > 0 && (answer.is_empty() || answer.contains("Error"));
                let refused = answer.starts_with("HTTP/1.1 403") && answer.contains("sandbox");
                assert!(refused || closed, "{answers}");
            }
        }
        let shown = daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json();
        assert_eq!(shown["policy"]["network"], policy(lab)["network"]);
        daemon.finish();
    });
}

/// Asks for a hand-over and returns the start of the answer.
fn asks(daemon: &Daemon<'_>, before: &str) -> String {
    let program = format!(
        "import os, socket, subprocess, sys
s = socket.socket(socket.AF_UNIX); s.connect({:?})
{before}
s.sendall(b'POST /v1/takeover HTTP/1.1\\r\\nhost: x\\r\\nconnection: upgrade\\r\\n'
    b'upgrade: interceptor-takeover\\r\\n\\r\\n')
print(s.recv(100000).decode().replace('\\r\\n', ' '))",
        daemon.control().display().to_string(),
    );
    let output = Command::new("python3").args(["-c", &program]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The product's program under another name, with these bytes behind it.
fn copy(lab: &Lab, name: &str, more: &[u8]) -> PathBuf {
    let path = lab.directory().join(name);
    let mut bytes = fs::read(binary("interceptor")).unwrap();
    bytes.extend_from_slice(more);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Takes over with that program. Waits only for its readiness or its refusal.
fn taken_over_by(lab: &Lab, program: &Path, daemon: &Daemon<'_>) -> Result<Ends, String> {
    let mut command = Command::new(program);
    command.args(["serve", "--takeover", "--control"]).arg(daemon.control());
    command
        .args(["--audit", "/dev/null", "--upstream-ca"])
        .arg(lab.directory().join("upstream-ca.pem"));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdout(Stdio::piped());
    let mut next = Ends(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(next.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.contains("listening at") {
        return Ok(next);
    }
    let mut error = String::new();
    next.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    Err(error)
}

#[test]
fn p6_only_the_daemons_own_program_or_a_named_one_is_given_the_keys() {
    Lab::test(|lab| {
        let (same, newer) = (copy(lab, "same", b""), copy(lab, "newer", b"a later version"));
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let said = asks(&daemon, "");
        assert!(said.starts_with("HTTP/1.1 403") && said.contains("--successor"), "{said}");
        // It connects as itself, and executes another program before the hand-over.
        let becomes = format!(
            "import time
# Once it has an answer, it was judged.
s.sendall(b'GET /healthz HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'); s.recv(100000)
ends, _goes_on = os.pipe()
if os.fork(): os.dup2(ends, 0); os.execv({program:?}, ['interceptor', 'check', '-'])
while os.readlink(f'/proc/{{os.getppid()}}/exe') != os.path.realpath({program:?}): time.sleep(.01)",
            program = binary("interceptor").display().to_string(),
        );
        let said = asks(&daemon, &becomes);
        assert!(
            said.contains("HTTP/1.1 403") && said.contains("a different program than when"),
            "{said}"
        );
        let error = taken_over_by(lab, &newer, &daemon).err().expect("it was not named");
        assert!(error.contains("403"), "{error}");
        assert_eq!(daemon.ids(), [guest.id.as_str()]);

        // A copy counts as the same program, and the daemon logs who took over before the keys
        // leave it.
        let next = taken_over_by(lab, &same, &daemon).unwrap_or_else(|error| panic!("{error}"));
        let outcome = daemon.finish();
        let by = format!("pid {}, uid 0, {}", next.0.id(), same.display());
        let begun: Vec<_> = outcome
            .audit
            .iter()
            .filter(|record| record.reason.as_deref() == Some("takeover_begun"))
            .collect();
        assert_eq!(begun.len(), 1, "{:?}", outcome.audit);
        assert_eq!(begun[0].message.as_deref(), Some(by.as_str()));
        assert!(
            outcome.err().contains(&format!("taken over by another daemon: {by}")),
            "{}",
            outcome.err()
        );
        kill(Pid::from_raw(next.0.id() as i32), Signal::SIGTERM).unwrap();
        let mut next = next;
        assert!(next.0.wait().unwrap().success());
    });
}

#[test]
fn p6_a_named_program_takes_over() {
    Lab::test(|lab| {
        let newer = lab.directory().join("newer");
        let daemon =
            lab.daemon().at_origin(HOST).quiet_log().option("--successor").option(newer.clone());
        // The program need not exist in advance, and a daemon restricted to named paths can read
        // it.
        let daemon =
            daemon.option("--readable").option(lab.directory().join("upstream-ca.pem")).start();
        let guest = daemon.guest(&policy(lab));
        copy(lab, "newer", b"a later version");
        let next = taken_over_by(lab, &newer, &daemon).unwrap_or_else(|error| panic!("{error}"));
        daemon.finish();
        drop(guest);
        kill(Pid::from_raw(next.0.id() as i32), Signal::SIGTERM).unwrap();
        let mut next = next;
        assert!(next.0.wait().unwrap().success());
    });
}

/// A process that is shut down cleanly when dropped.
struct Quits(Child);

impl Drop for Quits {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// The answer to a process that starts in the cgroup.
fn ask(cgroup: &Cgroup, control: &Path, method: &str, path: &str, body: &str) -> String {
    let program = "import socket, sys
control, method, path, body = sys.argv[1:]
s = socket.socket(socket.AF_UNIX); s.connect(control); s.settimeout(60)
try: s.sendall(f'{method} {path} HTTP/1.1\\r\\nhost: x\\r\\ncontent-type: application/json\\r\\n'
    f'connection: close\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n{body}'.encode())
except OSError: pass
print(s.recv(100000).decode())";
    let mut command = cgroup.command("python3");
    command.args(["-c", program]).arg(control).args([method, path, body]);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Asserts that nobody in the cgroup may read, change or make anything.
#[track_caller]
fn has_no_say(cgroup: &Cgroup, daemon: &Daemon<'_>, other: &str) {
    let own = json!({ "id": "own", "cgroup": cgroup.path(), "network": {} }).to_string();
    let policy = format!("/v1/sandboxes/{other}/policy");
    let requests = [
        ("GET", "/v1/sandboxes", ""),
        ("PUT", policy.as_str(), "{}"),
        ("POST", "/v1/sandboxes", &own),
    ];
    for (method, path, body) in requests {
        let answer = ask(cgroup, daemon.control(), method, path, body);
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("is in a sandbox"),
            "{answer}"
        );
    }
}

#[test]
fn p1_who_lives_in_a_sandbox_of_attach_has_no_say() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let cgroup = Cgroup::new();
        assert!(
            ask(&cgroup, daemon.control(), "GET", "/v1/sandboxes", "").starts_with("HTTP/1.1 200")
        );
        let mut command = Command::new(binary("interceptor"));
        command
            .args(["attach", "--cgroup"])
            .arg(cgroup.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut attached = Quits(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(attached.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("enforcing on"), "{line}");
        has_no_say(&cgroup, &daemon, &guest.id);
        // Nor in a child cgroup.
        let below = Cgroup::at(cgroup.path().join("below"));
        has_no_say(&below, &daemon, &guest.id);
        drop(below);
        drop(attached);
        let shown = daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json();
        assert_eq!(shown["policy"]["network"], policy(lab)["network"]);
        assert_eq!(daemon.ids(), [guest.id.as_str()]);
        daemon.finish();
    });
}

#[test]
fn p1_who_lives_in_a_sandbox_that_a_dead_daemon_left_closed_has_no_say() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let first = lab.daemon().at_origin(HOST).quiet_log().start();
        let closed = first.guest(&policy(lab));
        first.kill();
        let next = lab.daemon().at_origin(HOST).quiet_log().start();
        assert!(!next.ids().contains(&closed.id));
        let other = next.guest(&policy(lab));
        has_no_say(&closed.cgroup, &next, &other.id);
        assert_eq!(next.ids(), [other.id.as_str()]);
        // The owner has access: it opens the cgroup again.
        let again = json!({ "id": "again", "cgroup": closed.cgroup.path() }).to_string();
        assert_eq!(next.call("POST", "/v1/sandboxes", &again).status, 201);
        has_no_say(&closed.cgroup, &next, &other.id);
        next.finish();
    });
}

/// Opens as many connections as told, holds those it can, reports, and stays until told to end.
const FLOOD: &str = "import socket, sys, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4000), hard))
held = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX)
    try: s.connect(sys.argv[1])
    except OSError: break
    held.append(s)
print('held', len(held), flush=True)
sys.stdin.readline()";

fn flood(mut command: Command, daemon: &Daemon<'_>, times: usize) -> (Quits, usize) {
    command.args(["-c", FLOOD]).arg(daemon.control()).arg(times.to_string());
    let mut flood = Quits(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(flood.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let held =
        line.trim().strip_prefix("held ").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    (flood, held)
}

fn descriptors(daemon: &Daemon<'_>) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.running().pid())).unwrap().count()
}

#[test]
fn p1_a_flood_of_connections_from_inside_takes_nothing_from_the_owner_and_the_sandboxes() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let before = descriptors(&daemon);
        let (mut inside, held) = flood(guest.cgroup.command("python3"), &daemon, 1500);
        assert!(held > 1000, "{held}");
        // The owner is served despite them, and then only a few closing connections are left of
        // them.
        let answer = ask(&Cgroup::new(), daemon.control(), "GET", "/v1/sandboxes", "");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let now = descriptors(&daemon);
        assert!(now < before + 100, "{before} {now}");
        let plan = Plan::https(HOST, "http/1.1").ask_with(
            "GET",
            "/",
            &[("authorization", "Bearer $LAB_API_KEY")],
            "",
        );
        assert_eq!(guest.fetch(&plan)[0].answers[0].status, 200);
        inside.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        drop(inside);

        // Nor do authorised peers that stay silent: their places are limited and time out.
        let (_outside, held) = flood(Command::new("python3"), &daemon, 600);
        assert_eq!(held, 600);
        let now = descriptors(&daemon);
        // Each of the 128 holds a connection, a process descriptor and a program file.
        assert!(now < before + 450, "{before} {now}");
        let served = || {
            let answer = ask(&Cgroup::new(), daemon.control(), "GET", "/v1/sandboxes", "");
            assert!(
                answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 503"),
                "{answer}"
            );
            answer.starts_with("HTTP/1.1 200")
        };
        assert!(until(served), "silent connections keep their places");
        daemon.finish();
    });
}
