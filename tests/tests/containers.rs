//! Podman containers, which the hook puts under enforcement before their entrypoints start.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::container::Engine;
use interceptor_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
/// Podman's default profile.
const PROFILE: &str = "/usr/share/containers/seccomp.json";
const POLICY: [&str; 2] = ["--annotation", "io.interceptor.policy=lab"];

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

fn engine(lab: &Lab) -> Engine<'_> {
    Engine::new(lab, &policy(lab), HOST)
}

/// Directories of this name below another.
fn named(directory: &Path, name: &str, depth: usize) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories
        .flat_map(|entry| {
            let own = (entry.file_name().to_string_lossy().contains(name)).then(|| entry.path());
            let below = if depth > 0 { named(&entry.path(), name, depth - 1) } else { vec![] };
            own.into_iter().chain(below)
        })
        .collect()
}

/// The remains of a sandbox in the kernel: its pins and its cgroup.
fn remains(sandbox: &str) -> Vec<PathBuf> {
    assert!(sandbox.starts_with("sb-"), "{sandbox}");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let kinds = mounts.filter(|fields| ["cgroup2", "bpf"].contains(&fields[2]));
    kinds.flat_map(|fields| named(Path::new(fields[1]), sandbox, 4)).collect()
}

#[test]
fn a_container_starts_under_enforcement_with_its_placeholder_and_trust() {
    Lab::test(|lab| {
        let engine = engine(lab);
        let forbidden = lab.forbidden();
        let program = format!(
            r#"
import socket
try: socket.create_connection(('{}', {}), 5); print('connected')
except OSError as e: print('first', e.errno)
try: socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 443)); print('sent')
except OSError as e: print('second', e.errno)
import os, ssl, subprocess, urllib.request
print(os.environ['LAB_API_KEY'])
print(os.environ['INTERCEPTOR_SANDBOX'])
bearer = 'Bearer ' + os.environ['LAB_API_KEY']
request = urllib.request.Request('https://{HOST}/python', headers={{'authorization': bearer}})
print(urllib.request.urlopen(request, timeout=20).status)
def curl(*arguments, **more):
    print(subprocess.run(['curl', '-sS', '-o', '/dev/null', '-w', '%{{http_code}}', *arguments],
                         capture_output=True, **more))
curl('-H', 'authorization: ' + bearer, 'https://{HOST}/curl')
# Without a variable: by the bundle of the image alone.
curl('https://{HOST}/bundle', env={{'PATH': '/bin'}})
curl('https://evil.test/')
print(open('/etc/ssl/certs/ca-certificates.crt').read())
"#,
            forbidden.ip(),
            forbidden.port()
        );
        let outcome = engine.python(&["--env", &format!("LEAK=x{}x", lab.key())], &program);
        let text = outcome.success().out();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("first ") && lines[1] == "second 1", "{text}");
        assert!(lines[2].contains("proxy-managed"), "{text}");
        assert_eq!(lines[4], "200", "{text}");
        assert_eq!(text.matches("stdout=b'200'").count(), 2, "{text}");
        assert_eq!(text.matches("stdout=b'403'").count(), 1, "{text}");
        assert_eq!(
            text.matches("BEGIN CERTIFICATE").count(),
            3,
            "the image's root, the operator's and the sandbox's: {text}"
        );
        let paths: Vec<String> = lab.seen().into_iter().map(|seen| seen.path).collect();
        assert_eq!(paths, ["/python", "/curl", "/bundle"]);
        for seen in lab.seen() {
            assert_eq!(seen.values("authorization"), [format!("Bearer {}", lab.key())]);
        }
        assert_eq!(remains(lines[3]), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_container_that_asks_for_no_policy_is_left_alone() {
    Lab::test(|lab| {
        let outcome =
            engine(lab).run(&[], &["/bin/sh", "-c", "env; ls /run; cat /etc/ssl/certs/*"]);
        let text = outcome.success().out();
        assert!(!text.contains("INTERCEPTOR") && !text.contains("sandbox-trust"), "{text}");
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 1, "{text}");
        assert!(outcome.audit.is_empty());
    });
}

#[test]
fn a_container_does_not_start_where_the_hook_fails() {
    Lab::test(|lab| {
        let engine = engine(lab);
        engine.policy("wrong", "{\"networks\": {}}");
        engine.policy(
            "keyless",
            &json!({ "credentials_v2": { "openai": { "key": { "file": "/nonexistent" } } } })
                .to_string(),
        );
        fs::write(engine.path("outside.json"), "{}").unwrap();
        let outside = engine.path("outside.json").display().to_string();
        let not_mountable = format!("{outside}:/tmp");
        let cases: [(&str, &[&str], &str); 9] = [
            ("none", &[], "unknown policy `none`"),
            ("../outside", &[], "no file there has this name"),
            (&outside, &[], "unknown policy"),
            ("wrong", &[], "networks"),
            ("keyless", &[], "/nonexistent"),
            ("lab", &["--cap-add", "SYS_ADMIN"], "CAP_SYS_ADMIN"),
            ("lab", &["--security-opt", "seccomp=unconfined"], "seccomp"),
            // Nor is anything left if the runtime fails after the hook has prepared a sandbox.
            ("lab", &["--volume", &not_mountable], "Not a directory"),
            // This shows only when the container exists.
            ("lab", &["--network", "host", "--cgroups=disabled"], "no cgroup of its own"),
        ];
        for (name, options, why) in cases {
            let annotation = format!("io.interceptor.policy={name}");
            let mut all = vec!["--annotation", &annotation];
            all.extend(options);
            let outcome = engine.run(&all, &["/bin/sh", "-c", "echo started; touch /work/started"]);
            assert!(!outcome.status.success(), "{name} {options:?}");
            assert!(outcome.err().contains(why), "{name} {options:?}: {}", outcome.tail());
            assert!(
                !outcome.out().contains("started") && !lab.work().join("started").exists(),
                "{name} {options:?}"
            );
        }
    });
}

#[test]
fn an_annotation_cannot_name_the_sandbox_of_another_container() {
    Lab::test(|lab| {
        let engine = engine(lab);
        let sleeping = engine.start(
            &POLICY,
            &[
                "/bin/sh",
                "-c",
                "echo $INTERCEPTOR_SANDBOX; until [ -e /work/go ]; do sleep 0.1; done",
            ],
        );
        sleeping.running.wait_for("sb-");
        let state = fs::read_dir(engine.path("state")).unwrap().next().unwrap().unwrap();
        let stolen = format!("io.interceptor.sandbox={}", state.file_name().to_string_lossy());
        // With the stage `precreate` the annotation is replaced. Without it, the hook accepts the
        // annotation, which has no effect.
        let options = [&POLICY[..], &["--annotation", &stolen]].concat();
        let script = "echo $INTERCEPTOR_SANDBOX; touch /work/started";
        let engine = engine.hook("cri-o.json");
        let mut thief = engine.start(&options, &["/bin/sh", "-c", script]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while thief.running.child_status().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!lab.work().join("started").exists());
        fs::write(lab.work().join("go"), "").unwrap();
        assert!(!thief.finish().status.success());
        sleeping.finish().success();
    });
}

#[test]
fn k1_k3_k4_in_a_container_everything_but_tcp_fails_at_once() {
    Lab::test(|lab| {
        let engine = engine(lab);
        let program = concat!(
            include_str!("../fixtures/attempts.py"),
            r#"attempt('netlink', make(socket.AF_NETLINK, socket.SOCK_RAW, 15))
import ctypes, platform
def io_uring():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(425, 8, ctypes.create_string_buffer(4096)) < 0:
        raise OSError(ctypes.get_errno(), 'refused')
attempt('io_uring', io_uring)
attempt('sctp', make(socket.AF_INET, socket.SOCK_STREAM, 132))
attempt('mptcp', make(socket.AF_INET, socket.SOCK_STREAM, 262))
attempt('udplite', make(socket.AF_INET, socket.SOCK_DGRAM, 136))
attempt('vsock', lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM, 0).connect((2, 9)))
"#
        );
        for user in ["0", "1000"] {
            let outcome = engine.python(&["--user", user], program);
            let text = outcome.out();
            assert_eq!(text.lines().count(), 21, "{text}\n{}", outcome.tail());
            let refused =
                ["EPERM", "EACCES", "EPROTONOSUPPORT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "ENOSYS"];
            for line in text.lines() {
                assert!(
                    refused.contains(&line.rsplit_once(' ').unwrap().1),
                    "as {user}: {line}\nin:\n{text}"
                );
            }
        }
    });
}

#[test]
fn d2_k12_in_a_container_every_name_server_is_the_proxys_and_its_ports_are_no_way_out() {
    Lab::test(|lab| {
        let engine = engine(lab);
        let program = format!(
            r#"
import socket, struct
def query(name):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\0'
    return struct.pack('>HHHHHH', 0x1234, 0x0100, 1, 0, 0, 0) + labels + struct.pack('>HH', 1, 1)
answers = []
for family, server in ((socket.AF_INET, '8.8.8.8'), (socket.AF_INET, '192.0.2.53'),
                       (socket.AF_INET6, '2001:db8::53')):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(10)
    s.sendto(query('{HOST}'), (server, 53))
    answer, source = s.recvfrom(4096)
    assert source[:2] == (server, 53), source
    answers.append(answer[-4:])
t = socket.create_connection(('9.9.9.9', 53), 10); q = query('{HOST}')
t.sendall(struct.pack('>H', len(q)) + q)
answers.append(t.recv(4096)[-4:])
print(len(set(answers)), socket.inet_ntoa(answers[0]).split('.')[0])
ports = set()
for name in ('/proc/net/tcp', '/proc/net/tcp6'):
    for line in open(name).readlines()[1:]:
        fields = line.split()
        if fields[3] == '0A': ports.add(int(fields[1].split(':')[1], 16))
print(len(ports) > 0)
for port in ports:
    for address in ('127.0.0.1', '::1'):
        try:
            s = socket.create_connection((address, port), 5); s.settimeout(5)
            s.sendall(b'GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n')
            data = s.recv(1000)
            if data: print('answered', data)
        except OSError: pass
"#
        );
        for user in ["0", "1000"] {
            let outcome = engine.python(&["--user", user], &program);
            assert_eq!(outcome.out(), "1 198\nTrue\n", "as {user}: {}", outcome.tail());
        }
        assert_eq!(lab.seen().len(), 0);
    });
}

#[test]
fn k9_a_container_has_no_other_cgroup_and_no_other_namespace_to_go_to() {
    Lab::test(|lab| {
        let engine = engine(lab);
        let script = "
for file in $(find /sys/fs/cgroup -name cgroup.procs 2>/dev/null | head -200); do
    echo $$ > $file 2>/dev/null && echo \"moved to $file\"
done
mkdir /sys/fs/cgroup/mine 2>/dev/null && echo made one
unshare -n true 2>/dev/null && echo a network of its own
unshare -Urn sh -c 'echo > /dev/udp/192.0.2.1/9' 2>/dev/null && echo sent
unshare -Urn curl -sS --max-time 3 https://evil.test/ -o /dev/null 2>/dev/null && echo reached
unshare -Ur mount -t cgroup2 none /tmp 2>/dev/null && echo mounted
nsenter -t 1 -n curl -sS --max-time 3 -o /dev/null -w '%{http_code}' https://evil.test/ \
        2>/dev/null | grep -v 403
curl -sS -o /dev/null -w '%{http_code}' https://evil.test/";
        for user in ["0", "1000"] {
            let outcome = engine.shell(&["--user", user], script);
            assert_eq!(outcome.out(), "403", "as {user}: {}", outcome.tail());
        }
    });
}

#[test]
fn k18_a_container_whose_supervisor_is_killed_has_no_way_out() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let engine = engine(lab);
        let script = format!(
            "curl -sS -o /dev/null -w '%{{http_code}}\\n' https://{HOST}/before
             echo $INTERCEPTOR_SANDBOX; echo ready
             until [ -e /work/go ]; do sleep 0.1; done
             for host in {HOST} evil.test; do
             curl -sS --max-time 5 -o /dev/null https://$host/after || echo failed; done
             python3 -c \"import socket; s = socket.socket(type=socket.SOCK_DGRAM); \
             s.sendto(b'x', ('192.0.2.1', 443))\" 2>/dev/null || echo refused"
        );
        let container = engine.start(&POLICY, &["/bin/sh", "-c", &script]);
        container.running.wait_for("ready");
        let supervisors = container.supervisors();
        assert_eq!(supervisors.len(), 1);
        kill(supervisors[0], Signal::SIGKILL).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !container.supervisors().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::write(lab.work().join("go"), "").unwrap();
        let outcome = container.finish();
        let text = outcome.out();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            (lines[0], &lines[2..]),
            ("200", &["ready", "failed", "failed", "refused"][..]),
            "{text}\n{}",
            outcome.tail()
        );
        assert_eq!(lab.seen().len(), 1);
        assert_eq!(remains(lines[1]), Vec::<PathBuf>::new());
    });
}

#[test]
fn an_engine_without_precreate_gets_enforcement_and_trust_but_no_placeholders() {
    Lab::test(|lab| {
        let engine = engine(lab).hook("cri-o.json");
        let script = format!(
            "env | grep -c LAB_API_KEY
             curl -sS -o /dev/null -w '%{{http_code}}\\n' https://{HOST}/x
             curl -sS -o /dev/null -w '%{{http_code}}\\n' \
                  --cacert /run/sandbox-trust/ca-bundle.pem https://evil.test/
             true > /etc/ssl/certs/ca-certificates.crt || echo read-only"
        );
        // It cannot narrow the sockets that the container may make: that is for the profile.
        let refused = engine.shell(&[], "echo started");
        assert!(
            !refused.status.success() && refused.err().contains("seccomp"),
            "{}",
            refused.tail()
        );
        let narrow = Command::new(binary("interceptor"))
            .arg("oci-hook")
            .stdin(fs::File::open(PROFILE).unwrap())
            .output();
        fs::write(engine.path("seccomp.json"), narrow.unwrap().stdout).unwrap();
        let option = format!("seccomp={}", engine.path("seccomp.json").display());
        let outcome = engine.shell(&["--security-opt", &option], &script);
        assert_eq!(outcome.out(), "0\n200\n403\nread-only\n", "{}", outcome.tail());
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);
    });
}

/// The equivalent of `docker run --network none` with `attach`: the container has no network until
/// the wall is up, and then a name server, addresses and the proxy.
#[test]
fn attach_gives_a_container_without_a_network_its_way_to_the_proxy() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2");
    let cgroup =
        Path::new(mount.unwrap()[1]).join(format!("container-test-{}", std::process::id()));
    fs::create_dir(&cgroup).unwrap();
    let outcome = std::panic::catch_unwind(|| attach_to_an_empty_network(&cgroup));
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::remove_dir(&cgroup).is_err() && cgroup.exists() && Instant::now() < deadline {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(said, "403");
}

fn attach_to_an_empty_network(cgroup: &Path) -> String {
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec unshare -n sh -c 'echo in; read go; \
         exec curl -sk -o /dev/null -w %{{http_code}} --max-time 30 https://evil.test/'",
        cgroup.display()
    );
    let mut container = Command::new("sh");
    container.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut container = container.spawn().unwrap();
    let mut output = BufReader::new(container.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "in\n");

    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy.json");
    fs::write(&policy, json!({ "network": { "allow": [HOST] } }).to_string()).unwrap();
    let mut attach = Command::new(binary("interceptor"));
    attach
        .arg("attach")
        .arg("--policy")
        .arg(&policy)
        .arg("--cgroup")
        .arg(cgroup)
        .stdout(Stdio::piped());
    let mut attach = attach.spawn().unwrap();
    let mut enforcing = String::new();
    BufReader::new(attach.stdout.take().unwrap()).read_line(&mut enforcing).unwrap();
    container.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    container.wait().unwrap();
    kill(Pid::from_raw(attach.id().cast_signed()), Signal::SIGTERM).unwrap();
    attach.wait().unwrap();
    assert!(enforcing.contains("enforcing on"), "{enforcing}");
    said
}
