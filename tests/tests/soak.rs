//! Fifty sandboxes of one daemon at once, while policies are swapped, sandboxes come and go, and
//! origins fail: nothing is lost, nothing is crossed, and memory stays level.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::client::fetch::{Plan, Report};
use interceptor_tests::sandbox::{binary, client};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SANDBOXES: usize = 50;
const WAVES: usize = 5;
/// Of each sandbox in each wave.
const CONNECTIONS: usize = 2;
/// On each of those: 50 × 5 × 2 × 20 = 10,000 in all.
const REQUESTS: usize = 20;
const HOST: &str = "soak.test";
/// Where nothing listens.
const DOWN: &str = "down.test";
/// How far memory may grow between the second wave and the last, in bytes.
const GROWTH: u64 = 24 << 20;

/// A cgroup with a network namespace that one idle process holds.
struct Home {
    cgroup: PathBuf,
    holder: Child,
}

impl Home {
    fn new(name: &str) -> Home {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = fields.into_iter().find(|fields| fields[2] == "cgroup2").unwrap()[1].to_owned();
        let cgroup = Path::new(&mount).join(format!("soak-test-{}-{name}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        // 0x8914 is SIOCSIFFLAGS: `lo` comes up without any package that may not be there.
        let program = "import fcntl, socket, struct, sys
s = socket.socket()
fcntl.ioctl(s, 0x8914, struct.pack('16sH14x', b'lo', 1))
s.close()
open(sys.argv[1] + '/cgroup.procs', 'w').write('0')
print('up', flush=True)
sys.stdin.read()";
        let mut command = Command::new("unshare");
        command.args(["--net", "python3", "-c", program]).arg(&cgroup);
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Home { cgroup, holder }
    }

    /// Runs a plan of requests inside.
    fn fetch(
        &self,
        plan: &Plan,
        environment: &BTreeMap<String, String>,
        trust: &Path,
    ) -> Vec<Report> {
        let script =
            format!("echo $$ > {}/cgroup.procs && exec \"$0\" fetch", self.cgroup.display());
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        command
            .args(["sh", "-c", &script])
            .arg(client())
            .envs(environment)
            .env("SSL_CERT_FILE", trust);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(serde_json::to_string(plan).unwrap().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        // The last process leaves its cgroup a moment after its end.
        for _ in 0..100 {
            if fs::remove_dir(&self.cgroup).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A daemon of this test's own.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(lab: &Lab, audit: &Path) -> Daemon {
        let socket = lab.directory().join("control.sock");
        let mut command = Command::new(binary("interceptor"));
        command.arg("serve").arg("--control").arg(&socket).arg("--audit").arg(audit);
        command.arg("--upstream-ca").arg(lab.directory().join("upstream-ca.pem"));
        command.arg("--resolve").arg(format!("{HOST}:443:{}", lab.origin()));
        // Bound and closed again: nothing listens there.
        let down = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        command.arg("--resolve").arg(format!("{DOWN}:443:{down}"));
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let daemon = Daemon { child, socket };
        let until = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(&daemon.socket).is_err() {
            assert!(Instant::now() < until, "the daemon does not come up");
            thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    /// One request to the control API: status and body.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // In one piece: a server that closes before it has read a body resets the connection.
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        if let Err(error) = stream.read_to_string(&mut answer) {
            panic!("{method} {path}: {error} after {answer:?}");
        }
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sandbox under enforcement.
struct Sandbox {
    home: Home,
    key: String,
    environment: BTreeMap<String, String>,
    trust: PathBuf,
}

/// Allows sandbox `number` what is below `/soak/NUMBER/BRANCH/`.
fn policy(number: usize, branch: &str, key: &str) -> Value {
    json!({
        "network": { "allow": [HOST, DOWN] },
        "credentials_v2": { "soak": {
            "key": key, "hosts": [HOST], "env": "SOAK_KEY",
            "endpoints": [
                { "methods": ["GET"], "paths": [format!("/soak/{number}/{branch}/**")] },
            ],
        } },
    })
}

fn create(daemon: &Daemon, home: &Home, id: &str, mut body: Value) -> Value {
    body["id"] = json!(id);
    body["cgroup"] = json!(home.cgroup);
    body["pid"] = json!(home.holder.id());
    let (status, answer) = daemon.ask("POST", "/v1/sandboxes", &body);
    assert_eq!(status, 201, "{answer}");
    answer
}

/// The requests of one sandbox in one wave; every path is asked for once in the whole test.
fn plan(number: usize, wave: usize) -> Plan {
    let protocol = if number.is_multiple_of(2) { "http/1.1" } else { "h2" };
    let mut plan = Plan { connections: CONNECTIONS, ..Plan::https(HOST, protocol) };
    for request in 0..REQUESTS {
        let branch = if request.is_multiple_of(2) { "a" } else { "b" };
        let failing = match request {
            8 | 18 => "/lab/status/500",
            // The last, since an HTTP/1.1 connection ends with an answer that is cut short.
            19 => "/lab/cut/100",
            _ => "",
        };
        plan = plan.ask_with(
            "GET",
            &format!("/soak/{number}/{branch}/{wave}-{request}{failing}"),
            &[("authorization", "Bearer $SOAK_KEY")],
            "",
        );
    }
    plan
}

#[test]
fn ten_thousand_requests_of_fifty_sandboxes_while_everything_changes() {
    let lab = Lab::new(&["h2", "http/1.1"]);
    let audit = lab.directory().join("soak.jsonl");
    let daemon = Daemon::start(&lab, &audit);

    let sandboxes: Vec<Sandbox> = (0..SANDBOXES)
        .map(|number| {
            let (home, key) = (Home::new(&number.to_string()), lab.another_key());
            let created =
                create(&daemon, &home, &format!("soak-{number}"), policy(number, "a", &key));
            let trust = lab.directory().join(format!("ca-{number}.pem"));
            fs::write(&trust, created["ca_pem"].as_str().unwrap()).unwrap();
            let environment = serde_json::from_value(created["env"].clone()).unwrap();
            Sandbox { home, key, environment, trust }
        })
        .collect();

    let over = AtomicBool::new(false);
    let (swaps, churned) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut resident = Vec::new();
    // Every answer: sandbox, path, status, and whether its body came whole.
    let mut answers: Vec<(usize, String, u16, bool)> = Vec::new();
    // For the canary oracle.
    let mut heard = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let number = (round * 7) % SANDBOXES;
                let branch = if (round / SANDBOXES).is_multiple_of(2) { "b" } else { "a" };
                let path = format!("/v1/sandboxes/soak-{number}/policy");
                let (status, answer) =
                    daemon.ask("PUT", &path, &policy(number, branch, &sandboxes[number].key));
                assert!((200..300).contains(&status), "{status} {answer}");
                swaps.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            let home = Home::new("churn");
            while !over.load(Ordering::SeqCst) {
                let created =
                    create(&daemon, &home, "churn", json!({ "network": { "allow": ["a.test"] } }));
                assert!(created["ca_pem"].is_string());
                let (status, answer) = daemon.ask("DELETE", "/v1/sandboxes/churn", &Value::Null);
                assert_eq!(status, 204, "{answer}");
                churned.fetch_add(1, Ordering::SeqCst);
            }
        });
        for wave in 0..WAVES {
            let runs: Vec<_> = sandboxes
                .iter()
                .enumerate()
                .map(|(number, sandbox)| {
                    let plan = plan(number, wave);
                    scope.spawn(move || {
                        let reports =
                            sandbox.home.fetch(&plan, &sandbox.environment, &sandbox.trust);
                        let down = Plan::https(DOWN, "http/1.1").ask("GET", "/");
                        let down = sandbox.home.fetch(&down, &sandbox.environment, &sandbox.trust);
                        (number, plan, reports, down)
                    })
                })
                .collect();
            for run in runs {
                let (number, plan, reports, down) = run.join().unwrap();
                assert_eq!(down[0].answers[0].status, 502, "{down:?}");
                assert_eq!(reports.len(), CONNECTIONS);
                for report in reports {
                    assert_eq!(report.error, None, "sandbox {number}, wave {wave}");
                    for (ask, answer) in plan.requests.iter().zip(report.answers) {
                        heard.extend(format!("{answer:?}").bytes());
                        answers.push((
                            number,
                            ask.path.clone(),
                            answer.status,
                            answer.error.is_none(),
                        ));
                    }
                }
            }
            resident.push(daemon.resident_bytes());
        }
        over.store(true, Ordering::SeqCst);
    });

    // Nothing is lost: every request has its answer, and only what was cut short by the origin came
    // cut short.
    assert_eq!(answers.len(), SANDBOXES * WAVES * CONNECTIONS * REQUESTS);
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, path, status, whole) in &answers {
        let cut = path.contains("/lab/cut/");
        let permitted = match status {
            403 => false,
            500 if path.ends_with("/lab/status/500") => true,
            200 => true,
            // A reset of an HTTP/2 stream may overtake the head that goes before it, here or at the
            // origin.
            0 | 502 if cut => true,
            _ => panic!("{path}: {status}"),
        };
        assert_eq!(*whole, !(cut && permitted) || *status == 502, "{path}: {status}");
        *expected.entry(path).or_default() += usize::from(permitted);
    }
    assert!(
        answers.iter().any(|(_, _, status, _)| *status == 403),
        "no policy ever refused anything"
    );

    // Nothing is crossed: the origin received exactly the answered requests, each with the key of
    // its own sandbox.
    let mut received: BTreeMap<String, usize> = BTreeMap::new();
    let seen = lab.seen();
    for request in &seen {
        let number: usize = request.path.split('/').nth(2).unwrap().parse().unwrap();
        let keys: Vec<&str> = request
            .headers
            .iter()
            .filter_map(|(name, value)| (name == "authorization").then_some(value.as_str()))
            .collect();
        assert!(
            keys == [format!("Bearer {}", sandboxes[number].key)],
            "{}: another's key",
            request.path
        );
        *received.entry(request.path.clone()).or_default() += 1;
    }
    for (path, times) in &expected {
        assert_eq!(received.get(*path).copied().unwrap_or(0), *times, "{path}");
    }

    // A normal end leaves nothing behind.
    for number in 0..SANDBOXES {
        assert_eq!(
            daemon.ask("DELETE", &format!("/v1/sandboxes/soak-{number}"), &Value::Null).0,
            204
        );
    }
    assert_eq!(daemon.ask("GET", "/v1/sandboxes", &Value::Null).1["sandboxes"], json!([]));
    kill(Pid::from_raw(daemon.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let mut daemon = daemon;
    assert!(daemon.child.wait().unwrap().success());
    assert!(!daemon.socket.exists(), "the control socket is left behind");

    lab.permits(&json!({ "network": { "allow": [HOST] } }).to_string());
    lab.ran(heard, &audit);
    lab.unordered();
    let problems = lab.judge();
    assert!(problems.is_empty(), "the oracles object:\n{}", problems.join("\n"));

    // Every decision is recorded once, by the right sandbox.
    let text = fs::read_to_string(&audit).unwrap();
    let mut recorded: BTreeMap<(String, String, bool), usize> = BTreeMap::new();
    let mut strangers = BTreeSet::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert!(record.get("dropped").is_none(), "{record}");
        let (Some("request"), Some(HOST)) = (record["kind"].as_str(), record["host"].as_str())
        else {
            continue;
        };
        let (sandbox, path) =
            (record["sandbox"].as_str().unwrap(), record["path"].as_str().unwrap());
        if !path.starts_with(&format!("/soak/{}/", sandbox.trim_start_matches("soak-"))) {
            strangers.insert(line.to_owned());
        }
        let allowed = record["decision"] == "allow" || record["type"] == "upstream_protocol";
        *recorded.entry((sandbox.to_owned(), path.to_owned(), allowed)).or_default() += 1;
    }
    assert!(strangers.is_empty(), "{strangers:?}");
    let mut told: BTreeMap<(String, String, bool), usize> = BTreeMap::new();
    for (number, path, status, _) in &answers {
        *told.entry((format!("soak-{number}"), path.clone(), *status != 403)).or_default() += 1;
    }
    assert!(recorded == told, "the audit file and the answers differ");

    println!(
        "{} requests, {} policies swapped, {} sandboxes made and removed, resident {:?} MiB",
        answers.len(),
        swaps.load(Ordering::SeqCst),
        churned.load(Ordering::SeqCst),
        resident.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>()
    );
    assert!(swaps.load(Ordering::SeqCst) > 0 && churned.load(Ordering::SeqCst) > 0);
    let (warm, last) = (resident[1], resident[WAVES - 1]);
    assert!(last < warm + GROWTH, "memory grows: {resident:?}");
}
