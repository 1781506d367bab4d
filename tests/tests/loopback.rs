//! A host whose network namespace has no device but `lo` (attack K24): its loopback is still the
//! host's. Only its maker can declare a namespace to be the sandbox's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::cage::PYTHON;
use interceptor_tests::container::Engine;
use interceptor_tests::daemon::until;
use interceptor_tests::guest::Cgroup;
use interceptor_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Services of the host, by TCP and UDP at both families' loopback addresses.
const SERVICES: &str = r"
import socket, subprocess, threading
subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
def stream(family, address):
    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 8099)); s.listen(64)
    def serve():
        while True:
            c = s.accept()[0]
            c.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n'); c.close()
    threading.Thread(target=serve, daemon=True).start()
def datagram(family, address):
    s = socket.socket(family, socket.SOCK_DGRAM); s.bind((address, 8099))
    def serve():
        while True: data, source = s.recvfrom(100); s.sendto(b'200', source)
    threading.Thread(target=serve, daemon=True).start()
for each in stream, datagram: each(socket.AF_INET, '127.0.0.1'); each(socket.AF_INET6, '::1')
print('ready', flush=True)
threading.Event().wait()
";

/// Tries each of them, and prints `out` or `refused` for each.
const WAYS: &str = r"
import socket
V4, V6, TCP, UDP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
for family, address in ((V4, '127.0.0.1'), (V4, '0.0.0.0'), (V6, '::1'), (V6, '::ffff:127.0.0.1'),
                        (V6, '::')):
    for kind in TCP, UDP:
        try:
            s = socket.socket(family, kind); s.settimeout(5); s.connect((address, 8099))
            if kind == UDP: s.send(b'x')
            print('out' if b'200' in s.recv(100) else 'refused')
        except OSError as e: print('refused')
";
const OUT: &str = "out\nout\nout\nout\nout\nout\nout\nout\nout\nout\n";
const REFUSED: &str =
    "refused\nrefused\nrefused\nrefused\nrefused\nrefused\nrefused\nrefused\nrefused\nrefused\n";

/// A host without a network: a namespace with `lo` alone, and services on it.
struct Host(Child);

impl Host {
    fn new() -> Host {
        let mut command = Command::new("unshare");
        command.args(["--net", PYTHON, "-c", SERVICES]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut host = Host(command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(host.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        host
    }

    /// The path of the namespace.
    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// A command that runs a program there.
    fn wrapper(&self) -> [String; 2] {
        ["nsenter".into(), format!("--net={}", self.netns())]
    }

    /// A program there.
    fn command(&self, program: impl Into<std::ffi::OsString>) -> Command {
        let wrapper = self.wrapper();
        let mut command = Command::new(&wrapper[0]);
        command.arg(&wrapper[1]).arg(program.into());
        command
    }

    /// The output of a process of the cgroup there.
    fn ways(&self, cgroup: &Cgroup) -> String {
        let wrapper = self.wrapper();
        let mut command = cgroup.command(&wrapper[0]);
        said(command.arg(&wrapper[1]).args([PYTHON, "-c", WAYS]))
    }

    /// A process that waits in the cgroup there.
    fn member(&self, cgroup: &Cgroup) -> Member {
        let wrapper = self.wrapper();
        let mut command = cgroup.command(&wrapper[0]);
        command.arg(&wrapper[1]).args(["sh", "-c", "echo in; exec sleep 600"]);
        let mut member =
            Member(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
        BufReader::new(member.0.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        member
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// An attach that enforces.
fn attach(mut command: Command) -> Member {
    let mut child = Member(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if !line.contains("enforcing on") {
        let mut error = String::new();
        std::io::Read::read_to_string(child.0.stderr.as_mut().unwrap(), &mut error).unwrap();
        panic!("{line}{error}");
    }
    child
}

fn killed(mut child: Member) {
    kill(Pid::from_raw(child.0.id() as i32), Signal::SIGKILL).unwrap();
    child.0.wait().unwrap();
}

#[test]
fn k24_run_in_the_hosts_namespace_reaches_nothing_of_it() {
    let host = Host::new();
    assert_eq!(said(host.command(PYTHON).args(["-c", WAYS])), OUT, "without a wall");
    for user in ["nobody", "root"] {
        let mut run = host.command(binary("interceptor"));
        run.args([
            "run",
            "--profile",
            "unrestricted",
            "--net",
            "host",
            "--user",
            user,
            "--",
            PYTHON,
            "-c",
            WAYS,
        ]);
        assert_eq!(said(&mut run), REFUSED, "{user}");
    }
    // A namespace that `run` makes is the sandbox's own, on the same host.
    let own = format!("{}\nprint('end')", WAYS.replace("8099", "9"));
    let script = "python3 -m http.server --bind 127.0.0.1 9099 >/dev/null 2>&1 & \
                  until curl -s -o /dev/null http://127.0.0.1:9099/; do sleep 0.05; done; \
                  echo own; python3 -c \"$0\"";
    let mut run = host.command(binary("interceptor"));
    run.args(["run", "-q", "--profile", "unrestricted", "--", "sh", "-c", script, &own]);
    assert_eq!(said(&mut run), format!("own\n{REFUSED}end\n"));
}

#[test]
fn k24_a_run_that_is_killed_lets_nothing_out_at_its_end() {
    let host = Host::new();
    let directory = tempfile::tempdir().unwrap();
    let found = directory.path().join("found");
    let program = format!(
        "import socket, time
print('begun', flush=True)
while True:
    try:
        s = socket.socket(); s.settimeout(1); s.connect(('127.0.0.1', 8099))
        if b'200' in s.recv(9): open('{}', 'w').write('out')
    except OSError: pass",
        found.display()
    );
    fs::write(&found, "").unwrap();
    let mut run = host.command(binary("interceptor"));
    run.args([
        "run",
        "--profile",
        "unrestricted",
        "--net",
        "host",
        "--user",
        "root",
        "--",
        PYTHON,
        "-c",
        &program,
    ]);
    let mut run = Member(run.current_dir(directory.path()).stdout(Stdio::piped()).spawn().unwrap());
    BufReader::new(run.0.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let mut pipe = run.0.stdout.take().unwrap();
    killed(run);
    // The pipe is closed when the last process of the sandbox is gone.
    std::io::Read::read_to_end(&mut pipe, &mut Vec::new()).unwrap();
    assert_eq!(fs::read_to_string(&found).unwrap(), "");
}

#[test]
fn k24_attach_takes_no_namespace_for_the_sandboxs_own_unless_it_is_told() {
    let host = Host::new();
    let cgroup = Cgroup::new();
    let _member = host.member(&cgroup);
    assert_eq!(host.ways(&cgroup), OUT, "without a wall");

    // On that host, and from beside it.
    let arguments = |command: &mut Command, more: &[&str]| {
        command.args(["attach", "--cgroup"]).arg(cgroup.path()).args(more);
    };
    let mut there = host.command(binary("interceptor"));
    arguments(&mut there, &[]);
    let there = attach(there);
    assert_eq!(host.ways(&cgroup), REFUSED);
    killed(there);
    assert_eq!(host.ways(&cgroup), REFUSED, "after SIGKILL");

    // The host's own namespace is never a sandbox's own, whatever the option says.
    let mut told = host.command(binary("interceptor"));
    arguments(&mut told, &["--private-network"]);
    let refusal = said(&mut told);
    assert!(refusal.contains("this network namespace is the host's"), "{refusal}");
    assert_eq!(host.ways(&cgroup), REFUSED, "what was closed stays closed");

    let mut beside = Command::new(binary("interceptor"));
    arguments(&mut beside, &[]);
    let mut beside = attach(beside);
    assert_eq!(host.ways(&cgroup), REFUSED);
    kill(Pid::from_raw(beside.0.id() as i32), Signal::SIGTERM).unwrap();
    assert!(beside.0.wait().unwrap().success());

    // The maker declares it, as after `docker run --network none`.
    let mut told = Command::new(binary("interceptor"));
    arguments(&mut told, &["--private-network"]);
    let told = attach(told);
    assert_eq!(host.ways(&cgroup), OUT);
    killed(told);
    assert_eq!(host.ways(&cgroup), OUT, "its own loopback is no way out");
}

#[test]
fn k24_the_daemon_keeps_to_what_it_was_told_over_a_crash_and_a_hand_over() {
    Lab::test(|lab| {
        let host = Host::new();
        let (shared, own) = (Cgroup::new(), Cgroup::new());
        let _members = (host.member(&shared), host.member(&own));
        let wrapper = host.wrapper();
        let wrapper = [wrapper[0].as_str(), wrapper[1].as_str()];
        let control = lab.directory().join("control.sock");

        // On that host nobody may say that the namespace is a sandbox's own.
        let there = lab.daemon().under(&wrapper).control(control.clone()).start();
        let body = |cgroup: &Cgroup, more: Value| {
            let mut body = json!({ "cgroup": cgroup.path(), "network": { "allow": ["a.test"] } });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body.to_string()
        };
        for wrong in [json!({ "private_network": true }), json!({ "private_network": "yes" })] {
            let answer = there.call("POST", "/v1/sandboxes", &body(&shared, wrong));
            assert_eq!(answer.problem(422)["errors"][0]["pointer"], "/private_network");
        }
        let made = there.call("POST", "/v1/sandboxes", &body(&shared, json!({ "id": "shared" })));
        assert_eq!(made.status, 201, "{}", made.body);
        assert_eq!(host.ways(&shared), REFUSED);
        there.kill();
        assert_eq!(host.ways(&shared), REFUSED, "after SIGKILL");

        // A daemon beside it adopts one, and is told about the other.
        let config = lab.directory().join("config.json");
        let sandboxes = json!([
            { "id": "shared", "cgroup": shared.path() },
            { "id": "own", "cgroup": own.path(), "private_network": true },
        ]);
        fs::write(&config, json!({ "sandboxes": sandboxes }).to_string()).unwrap();
        let first = lab
            .daemon()
            .control(control.clone())
            .option("--config")
            .option(config.as_os_str())
            .start();
        assert_eq!((host.ways(&shared), host.ways(&own)), (REFUSED.into(), OUT.into()), "adopted");
        let second = lab.daemon().control(control).option("--takeover").start();
        first.finish().success();
        assert_eq!(
            (host.ways(&shared), host.ways(&own)),
            (REFUSED.into(), OUT.into()),
            "handed over"
        );
        // By the namespace's path too.
        assert_eq!(second.call("DELETE", "/v1/sandboxes/own", "").status, 204);
        let netns = json!({ "id": "own", "netns": host.netns() });
        assert_eq!(second.call("POST", "/v1/sandboxes", &body(&own, netns)).status, 201);
        assert_eq!(host.ways(&own), REFUSED, "nobody has said so");
        second.finish().success();
        assert!(until(|| host.ways(&own) == OUT), "nothing stays");
    });
}

#[test]
fn k24_the_engine_says_whether_a_network_is_the_containers_own() {
    Lab::test(|lab| {
        let policy = lab.governed("api.example.test", json!([{ "methods": [], "paths": ["/"] }]));
        let engine = Engine::new(lab, &policy, "api.example.test");
        let own = engine.python(
            &[],
            "import socket
s = socket.create_server(('127.0.0.1', 0))
c = socket.create_connection(s.getsockname()); s.accept()[0].send(b'own'); \
             print(c.recv(9).decode())",
        );
        assert_eq!(own.success().out(), "own\n");
        // A joined namespace is shared, however empty it looks.
        let host = Host::new();
        let path = PathBuf::from(host.netns());
        let joined = engine.python(&["--network", &format!("ns:{}", path.display())], WAYS);
        // If the container has no cgroup of its own, its devices show that nothing can leave.
        assert_eq!(joined.success().out(), REFUSED);
    });
}
