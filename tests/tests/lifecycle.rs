//! The sandbox as a process: exit statuses, signals, standard streams, cleaning up, and messages
//! for bad input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::running::{Running, processes};
use interceptor_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

#[test]
fn the_exit_status_of_the_command_is_passed_on() {
    Lab::test_on_both_roads(|lab| {
        for status in [0, 1, 7, 124, 255] {
            let outcome = lab.sandbox(&policy(lab)).bare().shell(&format!("exit {status}"));
            assert_eq!(outcome.code(), Some(status), "{}", outcome.tail());
        }
    });
}

#[test]
fn a_command_that_is_missing_or_not_executable_is_126_or_127() {
    Lab::test_on_both_roads(|lab| {
        let outcome = lab.sandbox(&policy(lab)).bare().run(&["no-such-command-anywhere"]);
        assert_eq!(outcome.code(), Some(127), "{}", outcome.tail());
        assert!(outcome.err().contains("no-such-command-anywhere"), "{}", outcome.tail());
        let outcome = lab.sandbox(&policy(lab)).bare().run(&["/nonexistent/command"]);
        assert_eq!(outcome.code(), Some(127), "{}", outcome.tail());
        let outcome = lab.sandbox(&policy(lab)).bare().run(&["/etc/passwd"]);
        assert_eq!(outcome.code(), Some(126), "{}", outcome.tail());
    });
}

#[test]
fn a_command_ended_by_a_signal_says_so() {
    Lab::test_on_both_roads(|lab| {
        for (signal, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11)] {
            let outcome = lab.sandbox(&policy(lab)).bare().shell(&format!("kill -{signal} $$"));
            let told = outcome.code() == Some(128 + number) || outcome.signal() == Some(number);
            assert!(told, "{signal}: {}", outcome.status);
        }
    });
}

#[test]
fn signals_reach_the_command() {
    Lab::test_on_both_roads(|lab| {
        for (signal, name) in [
            (Signal::SIGTERM, "TERM"),
            (Signal::SIGINT, "INT"),
            (Signal::SIGHUP, "HUP"),
            (Signal::SIGUSR1, "USR1"),
        ] {
            let script = format!(
                "trap 'echo got {name}; exit 42' {name}; echo ready; while :; do sleep 0.05; done"
            );
            let running = lab.sandbox(&policy(lab)).bare().start(&["sh", "-c", &script]);
            running.wait_for("ready");
            running.signal(signal);
            let outcome = running.finish();
            assert_eq!(
                (outcome.code(), outcome.out().contains(&format!("got {name}"))),
                (Some(42), true),
                "{}",
                outcome.out()
            );
        }
    });
}

#[test]
fn standard_streams_are_the_commands_own() {
    Lab::test_on_both_roads(|lab| {
        let outcome = lab
            .sandbox(&policy(lab))
            .bare()
            .quiet_log()
            .option("-q")
            .stdin("to the command\n")
            .shell("cat; echo error >&2");
        assert_eq!(
            (outcome.out().as_str(), outcome.err().as_str()),
            ("to the command\n", "error\n")
        );
    });
}

#[test]
fn the_command_runs_unprivileged_in_namespaces_of_its_own() {
    Lab::test_on_both_roads(|lab| {
        let script = "id -u; grep -E 'NoNewPrivs|CapEff|CapBnd|CapPrm|Seccomp:' \
                      /proc/self/status; ls -l /proc/self/fd | wc -l; readlink /proc/self/ns/net \
                      /proc/self/ns/mnt /proc/self/ns/pid; ls /proc | grep -cE '^[0-9]+$'";
        let outcome = lab.sandbox(&policy(lab)).bare().shell(script);
        let text = outcome.success().out();
        assert!(!text.starts_with("0\n"), "{text}");
        for expected in [
            "NoNewPrivs:\t1",
            "CapEff:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "Seccomp:\t2",
        ] {
            assert!(text.contains(expected), "{expected} is missing: {text}");
        }
        for namespace in ["net", "mnt", "pid"] {
            let own = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
            assert!(!text.contains(own.to_str().unwrap()), "{namespace} is the host's: {text}");
        }
        let processes: usize = text.lines().last().unwrap().parse().unwrap();
        assert!(processes < 10, "the host's processes are visible: {text}");
    });
}

#[test]
fn k7_inherited_descriptors_are_closed() {
    Lab::test(|lab| {
        // The interceptor itself is started with extra open files.
        let policy_file = lab.secret_file("inherited-policy.json", &policy(lab).to_string());
        let script = format!(
            "exec 5</etc/hostname 77</etc/hostname; exec {} run --policy {} -- sh -c 'ls \
             /proc/self/fd'",
            binary("interceptor").display(),
            policy_file.display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // 3 is the directory that ls reads.
        assert_eq!(
            text.split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"],
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    });
}

/// The cgroup v2 directory of a process, as the host sees it.
fn cgroup(pid: Pid) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2")
        .unwrap()[1]
        .to_owned();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(&mount).join(path))
}

/// Waits for the command of a run and returns its processes and its cgroup.
fn inside(running: &Running<'_>) -> (Vec<Pid>, PathBuf) {
    running.wait_for("ready");
    let processes = running.descendants();
    let own = cgroup(Pid::this());
    let groups =
        processes.iter().filter_map(|pid| cgroup(*pid)).filter(|group| Some(group) != own.as_ref());
    let group = groups
        .max_by_key(|group| group.as_os_str().len())
        .expect("the sandbox has a cgroup of its own");
    (processes, group)
}

#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        thread::sleep(Duration::from_millis(10));
    }
}

fn alive(pids: &[Pid]) -> Vec<i32> {
    let zombie = |pid: i32| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    };
    processes().filter(|pid| pids.contains(&Pid::from_raw(*pid)) && !zombie(*pid)).collect()
}

/// Mounts of the host, bpffs apart, which the interceptor may mount for good.
fn mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .filter(|line| line.contains("interceptor") && !line.contains(" - bpf "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn nothing_is_left_after_a_normal_end() {
    Lab::test_on_both_roads(|lab| {
        let script = "(sleep 1000 &) ; setsid sleep 1000 & echo ready; read end";
        let mut running =
            lab.sandbox(&policy(lab)).bare().open_stdin().start(&["sh", "-c", script]);
        let (processes, group) = inside(&running);
        running.write(b"\n");
        running.finish().success();
        assert_eq!(alive(&processes), Vec::<i32>::new());
        assert!(!group.exists(), "{} is left", group.display());
        assert_eq!(mounts(), Vec::<String>::new());
    });
}

#[test]
fn k18_nothing_gets_out_and_little_is_left_after_a_killed_interceptor() {
    Lab::test_on_both_roads(|lab| {
        lab.audit_may_be_lost();
        let script = format!(
            "echo ready; while :; do curl -sS --max-time 1 https://evil.test/ http://{HOST}/; \
             sleep 0.01; done"
        );
        let running = lab
            .sandbox(&policy(lab))
            .at_origin(HOST)
            .at_forbidden("evil.test")
            .bare()
            .start(&["sh", "-c", &script]);
        let (processes, group) = inside(&running);
        running.signal(Signal::SIGKILL);
        let outcome = running.finish();
        assert_eq!(outcome.signal(), Some(9));
        eventually("the sandbox's processes end", || alive(&processes).is_empty());
        assert_eq!(mounts(), Vec::<String>::new());
        // The next start removes what the kill left behind.
        lab.sandbox(&policy(lab)).bare().run(&["true"]).success();
        eventually(&format!("{} is removed", group.display()), || !group.exists());
    });
}

#[test]
fn k18_a_stopped_interceptor_means_no_egress() {
    Lab::test_on_both_roads(|lab| {
        lab.audit_may_be_lost();
        let script = format!(
            "echo ready; read go; curl -sS --max-time 2 https://{HOST}/x; echo status $?; read end"
        );
        let mut running = lab
            .sandbox(&policy(lab))
            .at_origin(HOST)
            .bare()
            .open_stdin()
            .start(&["sh", "-c", &script]);
        running.wait_for("ready");
        let proxy = running.proxy();
        kill(proxy, Signal::SIGSTOP).unwrap();
        running.write(b"go\n");
        running.wait_for("status 28");
        assert_eq!(lab.seen().len(), 0);
        kill(proxy, Signal::SIGKILL).unwrap();
        running.finish();
    });
}

#[test]
fn a_policy_that_does_not_parse_says_where_and_starts_nothing() {
    let table = [
        ("{", vec![".json:1: error: this is not valid JSON"]),
        (r#"{ "netwrok": {} }"#, vec!["netwrok"]),
        (r#"{ "network": { "allow": ["10.0.0.0/33"] } }"#, vec!["/network/allow/0"]),
        (
            r#"{ "network": { "alow": [] },
                 "credentials_v2": { "openai": { "key": "k",
                   "endpoints": [{ "methods": ["GET"], "paths": ["no-slash"] }] } } }"#,
            vec!["/network", "alow", "/credentials_v2/openai/endpoints/0/paths/0"],
        ),
        (
            r#"{ "credentials_v2": { "mine": { "key": "k" } } }"#,
            vec!["/credentials_v2/mine", "hosts"],
        ),
        (r#"{ "network": {}, "network_profile": [] }"#, vec!["network_profile"]),
        (r#"{ "network_profile": "no-such-profile" }"#, vec!["/network_profile"]),
    ];
    Lab::test(|lab| {
        for (policy, expected) in &table {
            let outcome =
                lab.sandbox_with_text(policy).quiet_log().bare().run(&["sh", "-c", "echo started"]);
            assert_eq!(outcome.code(), Some(125), "{policy}: {}", outcome.err());
            assert_eq!(outcome.out(), "", "{policy}");
            for part in expected {
                assert!(
                    outcome.err().contains(part),
                    "{part:?} is missing for {policy}: {}",
                    outcome.err()
                );
            }
        }
    });
}

#[test]
fn bad_arguments_are_125_with_a_reason() {
    Lab::test(|lab| {
        let table = [
            vec!["--resolve", "nonsense"],
            vec!["--upstream-ca", "/nonexistent/ca.pem"],
            vec!["--user", "no-such-user-here"],
            vec!["--audit", "/nonexistent/directory/audit"],
        ];
        for options in table {
            let sandbox = options
                .iter()
                .fold(lab.sandbox(&policy(lab)).quiet_log().bare(), |sandbox, option| {
                    sandbox.option(*option)
                });
            let outcome = sandbox.run(&["sh", "-c", "echo started"]);
            assert_eq!(
                (outcome.code(), outcome.out().as_str()),
                (Some(125), ""),
                "{options:?}: {}",
                outcome.err()
            );
            assert!(!outcome.err().is_empty());
        }
    });
}

#[test]
fn without_root_it_says_what_is_missing() {
    Lab::test(|lab| {
        let file = lab.work().join("policy.json");
        fs::write(&file, r#"{ "network": {} }"#).unwrap();
        let outcome = Command::new("setpriv")
            .args(["--reuid", "65534", "--clear-groups", "--"])
            .arg(binary("interceptor"))
            .args(["run", "--policy"])
            .arg(&file)
            .args(["--", "true"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert_eq!(outcome.status.code(), Some(125), "{text}");
        assert!(text.contains("root") || text.contains("CAP_") || text.contains("sudo"), "{text}");
    });
}

#[test]
fn many_sandboxes_one_after_the_other_leave_nothing() {
    Lab::test(|lab| {
        let own = cgroup(Pid::this()).unwrap();
        let count = || {
            fs::read_dir(&own)
                .map(|entries| entries.flatten().filter(|e| e.path().is_dir()).count())
                .unwrap_or(0)
        };
        let before = count();
        for _ in 0..20 {
            lab.sandbox(&policy(lab)).bare().quiet_log().run(&["true"]).success();
        }
        // Other tests' sandboxes come and go meanwhile.
        assert!(count() < before + 15, "{} cgroups, {before} before", count());
    });
}
