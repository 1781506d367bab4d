//! The daemon's privileges at run time, and who can read its memory.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use interceptor_tests::client::fetch::Plan;
use interceptor_tests::lab::Lab;
use interceptor_tests::sandbox::binary;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

const HOST: &str = "api.lab.test";
/// CAP_DAC_OVERRIDE, CAP_NET_ADMIN and CAP_SYS_ADMIN (linux/capability.h).
const KEPT: u64 = 1 << 1 | 1 << 12 | 1 << 21;
/// CAP_SYS_PTRACE.
const LOOK: u64 = 1 << 19;

/// The status of each thread of a process, from /proc.
fn threads(process: Pid) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let status =
        tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let fields = status.map(|text| {
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    fields.collect()
}

fn children(process: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> = lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    pids.into_iter().map(Pid::from_raw).collect()
}

#[test]
fn every_thread_of_a_running_daemon_keeps_what_it_needs_and_no_more() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        // It works with what it keeps: sandboxes are made, replaced, served and removed.
        let rules = json!([{ "methods": [], "paths": ["/"] }]);
        let guest = daemon.guest(&lab.governed(HOST, rules.clone()));
        assert_eq!(daemon.replace(&guest, &lab.governed(HOST, rules), false).status, 200);
        let plan = Plan::https(HOST, "h2").ask_with(
            "GET",
            "/",
            &[("authorization", "Bearer $LAB_API_KEY")],
            "",
        );
        assert_eq!(guest.fetch(&plan)[0].answers[0].status, 200);

        let process = daemon.running().pid();
        let all = threads(process);
        assert!(all.len() > 2);
        let hexadecimal = |value: &str| u64::from_str_radix(value, 16).unwrap();
        for thread in &all {
            let name = &thread["Name"];
            assert_eq!(thread["NoNewPrivs"], "1", "{name}");
            assert_eq!(thread["Seccomp"], "2", "{name}");
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                assert_eq!(hexadecimal(&thread[set]), KEPT, "{set} of {name}");
            }
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(hexadecimal(&thread[set]), 0, "{set} of {name}");
            }
        }
        // Its namespace helper may look at processes, and do nothing else.
        let [attendant] = children(process)[..] else {
            panic!("one child, not {:?}", children(process))
        };
        for thread in threads(attendant) {
            assert_eq!(hexadecimal(&thread["CapEff"]), LOOK);
            assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"));
        }
        daemon.remove(&guest);
        let said = daemon.finish().err();
        for part in [
            "CAP_SYS_ADMIN (",
            "CAP_NET_ADMIN (",
            "CAP_DAC_OVERRIDE (",
            "system call filter",
            "Landlock",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(interceptor_tests::daemon::until(
            || nix::sys::signal::kill(attendant, None).is_err()
        ));
    });
}

#[test]
fn a_namespace_of_another_users_process_is_found_from_behind_landlock() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let cgroup = interceptor_tests::daemon::Cgroup::new();
        let mut sleeping = cgroup
            .command("unshare")
            .args(["--net", "sh", "-c"])
            .arg("ip link set lo up && exec setpriv --reuid 65534 --clear-groups sleep 600")
            .spawn()
            .unwrap();
        let pid = sleeping.id() as i32;
        let is_there = || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("Name:\tsleep")
        };
        assert!(interceptor_tests::daemon::until(is_there));
        let body = json!({ "cgroup": cgroup.path(), "pid": pid });
        let made = daemon.call("POST", "/v1/sandboxes", &body.to_string());
        assert_eq!(made.status, 201, "{made:?}");
        let guest = daemon.guest_of(cgroup, &made.json());
        daemon.remove(&guest);
        guest.cgroup.remove();
        sleeping.wait().unwrap();
        daemon.finish();
    });
}

#[test]
fn a_daemon_with_named_places_reads_no_key_elsewhere() {
    Lab::test(|lab| {
        let (places, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (places, elsewhere) = (places.path(), elsewhere.path());
        fs::write(places.join("key"), lab.key()).unwrap();
        let daemon = lab.daemon().quiet_log().option("--readable").option(places).start();
        let cgroup = interceptor_tests::daemon::Cgroup::new();
        let ask = |file: std::path::PathBuf| {
            let credential =
                json!({ "key": { "file": file }, "hosts": [HOST], "env": "LAB_API_KEY" });
            let body = json!({ "cgroup": cgroup.path(), "credentials_v2": { "lab": credential } });
            daemon.call("POST", "/v1/sandboxes", &body.to_string())
        };
        fs::write(elsewhere.join("key"), lab.key()).unwrap();
        let refused = ask(elsewhere.join("key"));
        assert_eq!(refused.status, 422, "{refused:?}");
        assert!(refused.body.contains("Permission denied"), "{}", refused.body);
        assert_eq!(ask(places.join("key")).status, 201);
        daemon.finish();
    });
}

/// Tries to read another process's memory in every way there is.
const LOOKING: &str = r#"
import ctypes, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, work):
    try: work(); print(name, 'READ')
    except OSError as error: print(name, 'refused')
def vm():
    buffer = ctypes.create_string_buffer(16)
    class Iovec(ctypes.Structure):
        _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
    local, remote = Iovec(ctypes.addressof(buffer), 16), Iovec(0x400000, 16)
    if libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) < 0:
        if ctypes.get_errno() == 14: return
        raise OSError(ctypes.get_errno(), 'process_vm_readv')
def traced():
    if libc.ptrace(16, pid, 0, 0) < 0: raise OSError(ctypes.get_errno(), 'ptrace')
def descriptor():
    pidfd = libc.syscall(434, pid, 0)
    if pidfd < 0 or libc.syscall(438, pidfd, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), 'pidfd_getfd')
attempt('mem', lambda: open(f'/proc/{pid}/mem', 'rb').close())
attempt('maps', lambda: open(f'/proc/{pid}/maps').read())
attempt('environ', lambda: open(f'/proc/{pid}/environ').read())
attempt('fd', lambda: os.readlink(f'/proc/{pid}/fd/1'))
attempt('process_vm_readv', vm)
attempt('ptrace', traced)
attempt('pidfd_getfd', descriptor)
"#;

#[test]
fn o3_nobody_without_the_hosts_privileges_reads_the_daemons_memory_nor_leaves_a_core() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }])));
        let process = daemon.running().pid();
        let pid = process.to_string();
        let refused = "mem refused\nmaps refused\nenviron refused\nfd refused\nprocess_vm_readv \
                       refused\nptrace refused\npidfd_getfd refused\n";
        // Its own user, root, without capabilities; root without capabilities in a sandbox; and
        // another user.
        let bare = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
        let other = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        for options in [&bare[..], &other[..]] {
            let python = ["/usr/bin/python3", "-c", LOOKING, &pid];
            let outside = Command::new("setpriv").args(options).args(python).output().unwrap();
            assert_eq!(
                String::from_utf8_lossy(&outside.stdout),
                refused,
                "{options:?}: {outside:?}"
            );
            let arguments: Vec<&str> = options.iter().copied().chain(python).collect();
            let inside = guest.run("setpriv", &arguments);
            assert_eq!(
                String::from_utf8_lossy(&inside.stdout),
                refused,
                "{options:?} inside: {inside:?}"
            );
        }
        // With the debugger too.
        let core = lab.work().join("core");
        let gcore = Command::new("setpriv")
            .args(bare)
            .args(["gcore", "-o"])
            .arg(&core)
            .arg(&pid)
            .output()
            .unwrap();
        assert!(!gcore.status.success(), "{gcore:?}");
        assert_eq!(fs::read_dir(lab.work()).unwrap().count(), 0);

        // It holds the key now; a crash leaves none of it on a disk.
        let plan = Plan::https(HOST, "h2").ask_with(
            "GET",
            "/",
            &[("authorization", "Bearer $LAB_API_KEY")],
            "",
        );
        assert_eq!(guest.fetch(&plan)[0].answers[0].status, 200);
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let limit = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(limit.split_whitespace().filter(|word| *word == "0").count(), 2, "{limit}");
        assert!(interceptor_tests::daemon::until(|| {
            // Rust's own handler treats the first one as a fault that will recur.
            daemon.running().signal(Signal::SIGSEGV);
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        }));
        let outcome = daemon.kill();
        assert_eq!(outcome.signal(), Some(Signal::SIGSEGV as i32));
        assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&outcome.status));
    });
}

#[test]
fn the_service_manager_is_told_how_the_daemon_stands() {
    Lab::test(|lab| {
        let path = lab.directory().join("notify.sock");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let daemon = lab.daemon().quiet_log().env("NOTIFY_SOCKET", path).start();
        let hear = || {
            let mut buffer = [0; 256];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let first = hear();
        let process = format!("MAINPID={}", daemon.running().pid());
        assert!(first.starts_with("READY=1\n") && first.contains(&process), "{first}");
        daemon.running().signal(Signal::SIGHUP);
        let reloading = hear();
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(hear(), "READY=1");
        daemon.finish();
        assert_eq!(hear(), "STOPPING=1");
    });
}

/// The hardened unit's exposure by `systemd-analyze security`, from 0 (locked down) to 10.
const EXPOSURE: f64 = 4.0;

#[test]
fn p8_the_unit_for_members_is_valid_and_outlives_one_process_without_memory() {
    let unit = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../interceptor/data/interceptor.service");
    let text = fs::read_to_string(&unit).unwrap();
    assert!(text.lines().any(|line| line == "OOMPolicy=continue"), "{text}");
    let there = text.replace("PROGRAM", binary("interceptor").to_str().unwrap());
    assert_ne!(text, there);
    let directory = tempfile::tempdir().unwrap();
    verified(&directory.path().join("interceptor.service"), &there);
}

/// Writes a unit, and has systemd look at it.
fn verified(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let own: Vec<&str> = said.lines().filter(|line| line.contains("interceptor.service")).collect();
    assert!(verified.status.success() && own.is_empty(), "{said}");
}

#[test]
fn the_unit_file_is_valid_and_as_hard_as_it_was() {
    let unit =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/interceptor.service");
    let directory = tempfile::tempdir().unwrap();
    // The program is not at the unit's path here.
    let text = fs::read_to_string(&unit).unwrap();
    let there = text.replace("/usr/bin/interceptor", binary("interceptor").to_str().unwrap());
    assert_ne!(text, there);
    let copy = directory.path().join("interceptor.service");
    verified(&copy, &there);
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&copy)
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&judged.stdout).into_owned();
    let overall = table
        .lines()
        .find(|line| line.contains("Overall exposure level"))
        .unwrap_or_else(|| panic!("{judged:?}"));
    let exposure: f64 = overall.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(exposure <= EXPOSURE, "{exposure}:\n{table}");
}
