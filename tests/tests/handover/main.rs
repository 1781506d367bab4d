//! Hand-over between daemons: sandboxes outlive a restart, an upgrade and a crash, and the wall
//! stands throughout.

mod adoption;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::daemon::{Daemon, Guest, until};
use interceptor_tests::lab::Lab;
use serde_json::{Value, json};

const HOST: &str = "api.lab.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// HTTP/1.1 over kept and over new connections, and HTTP/2 by curl, which opens another connection
/// after GOAWAY. Each line of the file is a request's outcome.
const LOAD: &str = r#"
import http.client, os, ssl, subprocess, sys, threading, time
host, stop, out = sys.argv[1:]
lock = threading.Lock()
log = open(out, 'a')
def note(text):
    with lock: log.write(text + '\n'); log.flush()
headers = {'authorization': 'Bearer ' + os.environ['LAB_API_KEY']}
context = ssl.create_default_context()
def kept(name):
    connection = http.client.HTTPSConnection(host, timeout=60, context=context)
    n = 0
    while not os.path.exists(stop):
        n += 1
        try:
            connection.request('GET', f'/{name}/{n}', headers=headers)
            answer = connection.getresponse(); answer.read()
            note(f'{name} {answer.status}')
        except Exception as error:
            note(f'{name} FAILED {error!r}')
            connection.close()
        if name == 'fresh': connection.close()
        time.sleep(0.002)
def curl():
    while not os.path.exists(stop):
        done = subprocess.run(['curl', '-sS', '--http2', '--max-time', '60', '-o', '/dev/null',
                               '-w', 'h2 %{http_code} %{http_version}\n',
                               '-H', 'authorization: ' + headers['authorization'],
                               f'https://{host}/h2/[1-40]'], capture_output=True, text=True)
        for line in done.stdout.split('\n'):
            if line: note(line)
        if done.returncode: note(f'h2 FAILED {done.returncode} {done.stderr!r}')
threads = [threading.Thread(target=kept, args=('kept',)) for _ in range(3)]
threads += [threading.Thread(target=kept, args=('fresh',)) for _ in range(2)]
threads += [threading.Thread(target=curl)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"#;

/// Sends requests until told to stop.
struct Load {
    child: Child,
    stop: std::path::PathBuf,
    out: std::path::PathBuf,
}

impl Load {
    fn start(lab: &Lab, guest: &Guest<'_>) -> Load {
        let (stop, out) = (lab.work().join("stop"), lab.work().join("outcomes"));
        let mut command = guest.command("/usr/bin/python3");
        let child = command.args(["-c", LOAD, HOST]).arg(&stop).arg(&out).spawn().unwrap();
        Load { child, stop, out }
    }

    fn outcomes(&self) -> Vec<String> {
        fs::read_to_string(&self.out).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until each kind has this many more outcomes.
    #[track_caller]
    fn go_on(&self, more: usize) {
        let count = || {
            let all = self.outcomes();
            ["kept ", "fresh ", "h2 "]
                .map(|kind| all.iter().filter(|line| line.starts_with(kind)).count())
        };
        let before = count();
        let enough =
            until(|| count().iter().zip(before).all(|(now, before)| *now >= before + more));
        assert!(enough, "the load stands still: {before:?}, {:?}", count());
    }

    #[track_caller]
    fn end(mut self) -> Vec<String> {
        fs::write(&self.stop, "").unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success());
        self.outcomes()
    }
}

/// Another daemon on the same socket.
fn successor<'lab>(lab: &'lab Lab, daemon: &Daemon<'_>) -> Daemon<'lab> {
    lab.daemon()
        .at_origin(HOST)
        .quiet_log()
        .control(daemon.control().to_owned())
        .option("--takeover")
        .start()
}

fn shown(daemon: &Daemon<'_>, guest: &Guest<'_>) -> Value {
    daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json()
}

fn events(daemon: &Daemon<'_>, kind: &str) -> usize {
    daemon.records().iter().filter(|record| format!("{record:?}").contains(kind)).count()
}

#[test]
fn under_load_no_request_fails_while_one_daemon_after_another_takes_over() {
    Lab::test(|lab| {
        lab.unordered();
        let mut daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let before = shown(&daemon, &guest);
        let load = Load::start(lab, &guest);
        load.go_on(40);
        // The second hand-over is of maps that the daemon has itself taken over.
        for _ in 0..3 {
            let next = successor(lab, &daemon);
            assert!(until(|| events(&next, "sandbox_taken_over") == 1));
            assert!(until(|| events(&daemon, "sandbox_handed_over") == 1));
            daemon.finish();
            daemon = next;
            load.go_on(40);
        }
        let outcomes = load.end();
        let failed: Vec<_> = outcomes
            .iter()
            .filter(|line| !line.ends_with(" 200") && !line.ends_with("200 2"))
            .collect();
        assert!(
            failed.is_empty(),
            "{} of {}: {:?}",
            failed.len(),
            outcomes.len(),
            &failed[..failed.len().min(5)]
        );
        let after = shown(&daemon, &guest);
        for field in ["ca_pem", "env", "created", "policy", "cgroup"] {
            assert_eq!(before[field], after[field], "{field}");
        }
        daemon.remove(&guest);
        daemon.finish();
        assert!(!Path::new("/sys/fs/bpf/interceptor").join(guest.cgroup.id().to_string()).exists());
    });
}

#[test]
fn a_request_under_way_ends_in_the_daemon_where_it_began() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let script = format!(
            "curl -sS --max-time 60 -H \"authorization: Bearer $LAB_API_KEY\" -o /dev/null \
             -w '%{{http_code}}' https://{HOST}/gated"
        );
        let waiting = guest.command("sh").args(["-c", &script]).spawn().unwrap();
        assert!(until(|| !lab.seen().is_empty()));
        let next = successor(lab, &daemon);
        // The new daemon serves while the old one waits for that answer.
        let answer = &guest.fetch(&Plan::https(HOST, "http/1.1").ask_with(
            "GET",
            "/later",
            &[("authorization", "Bearer $LAB_API_KEY")],
            "",
        ))[0];
        assert_eq!(answer.answers[0].status, 200, "{answer:?}");
        lab.open_gate();
        let output = waiting.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "200", "{output:?}");
        daemon.finish();
        next.finish();
    });
}

#[test]
fn a_sandbox_that_is_removed_after_a_takeover_is_so_for_requests_of_before_too() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let daemon =
            lab.daemon().at_origin(HOST).quiet_log().option("--drain").option("3600").start();
        let guest = daemon.guest(&policy(lab));
        let script = format!(
            "curl -sS --max-time 60 -H \"authorization: Bearer $LAB_API_KEY\" \
             -o /dev/null https://{HOST}/gated || echo cut"
        );
        let waiting = guest.command("sh").args(["-c", &script]).spawn().unwrap();
        assert!(until(|| !lab.seen().is_empty()));
        let next = successor(lab, &daemon);
        next.remove(&guest);
        let output = waiting.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "cut\n", "{output:?}");
        daemon.finish();
        next.finish();
    });
}

/// Starts a hand-over by hand, and stops after `steps`.
fn half_a_takeover(daemon: &Daemon<'_>, hello: &Value, steps: &[&str]) -> Vec<Value> {
    let mut stream = UnixStream::connect(daemon.control()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
        .write_all(
            b"POST /v1/takeover HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
              upgrade: interceptor-takeover\r\n\r\n",
        )
        .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    let say = |stream: &mut UnixStream, message: &Value| {
        let text = message.to_string();
        stream.write_all(&(text.len() as u32).to_ne_bytes()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
    };
    let hear = |stream: &mut UnixStream| -> Option<Value> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_ne_bytes(length) as usize];
        stream.read_exact(&mut body).ok()?;
        serde_json::from_slice(&body).ok()
    };
    let mut heard = Vec::new();
    say(&mut stream, hello);
    for step in steps {
        while let Some(told) = hear(&mut stream) {
            let found = told == **step || told.get(step).is_some();
            heard.push(told);
            if found {
                break;
            }
        }
        if *step == "Member" {
            say(&mut stream, &json!("Ready"));
        }
    }
    heard
}

#[test]
fn when_the_new_daemon_dies_in_the_middle_the_old_one_goes_on() {
    Lab::test(|lab| {
        lab.unordered();
        // This plays a program that the operator named.
        let own = std::env::current_exe().unwrap();
        let daemon =
            lab.daemon().at_origin(HOST).quiet_log().option("--successor").option(own).start();
        let guest = daemon.guest(&policy(lab));
        let hello = json!({ "Hello": { "version": 2, "layout": 1 } });
        let table: [(&Value, &[&str]); 5] = [
            (&hello, &["Begin"]),
            (&hello, &["Member"]),
            (&hello, &["Member", "Paused"]),
            (&json!({ "Hello": { "version": 0, "layout": 1 } }), &["Refused"]),
            (&json!("Serving"), &["Refused"]),
        ];
        for (hello, steps) in table {
            let heard = half_a_takeover(&daemon, hello, steps);
            let again = || {
                let changed = daemon.replace(&guest, &policy(lab), false);
                changed.status == 200
            };
            assert!(until(again), "the daemon stays frozen after {steps:?}");
            assert!(
                !steps.contains(&"Paused") || heard.last() == Some(&json!("Paused")),
                "{steps:?}"
            );
            let plan = Plan::https(HOST, "h2").ask_with(
                "GET",
                "/on",
                &[("authorization", "Bearer $LAB_API_KEY")],
                "",
            );
            let reports = guest.fetch(&plan);
            assert_eq!(reports[0].answers[0].status, 200, "{steps:?}: {reports:?}");
        }
        assert_eq!(daemon.ids(), *std::slice::from_ref(&guest.id));
        // A daemon that starts there without being told to take over leaves it alone.
        let refused = lab.daemon().quiet_log().control(daemon.control().to_owned()).fail();
        assert!(refused.err().contains("another daemon"), "{}", refused.err());
        // If told to take over with no daemon running, it starts normally.
        let fresh = lab.daemon().quiet_log().option("--takeover").start();
        assert!(fresh.ids().is_empty());
        fresh.finish();
        daemon.finish();
    });
}
