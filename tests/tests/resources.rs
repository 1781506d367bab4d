//! Bombs inside: processes, memory, descriptors. The host, the proxy and the other sandboxes stay
//! well.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use interceptor_tests::cage::PYTHON;
use interceptor_tests::lab::Road;
use interceptor_tests::running::Running;
use interceptor_tests::sandbox::Sandbox;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

fn sandbox<'lab>(lab: &'lab Lab, policy: &Value) -> Sandbox<'lab> {
    lab.sandbox(policy).quiet_log().at_origin(HOST)
}

/// Sends a request to the origin, and prints the status.
fn ask() -> String {
    format!(
        "curl -sS --max-time 60 -o /dev/null -w '%{{http_code}}\\n' \
         -H \"authorization: Bearer $LAB_API_KEY\" https://{HOST}/x"
    )
}

/// Runs another sandbox while the first one is at its worst.
#[track_caller]
fn others_are_served(lab: &Lab, policy: &Value) {
    let outcome = sandbox(lab, policy).shell(&format!("{0}; {0}; {0}", ask()));
    assert_eq!(outcome.success().out(), "200\n200\n200\n", "{}", outcome.tail());
}

/// The cgroups of the sandbox whose id a run has printed, in every hierarchy.
fn cgroups(id: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let points = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let points =
        points.filter(|fields| fields[2].starts_with("cgroup")).map(|fields| fields[1].to_owned());
    let below = |point: String| {
        fs::read_dir(PathBuf::from(point).join("interceptor")).into_iter().flatten()
    };
    let entries = points.flat_map(below).flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains(id)).collect()
}

/// What a file of the sandbox's cgroup holds, by its name in either version.
fn bound(all: &[PathBuf], names: [&str; 2]) -> Option<String> {
    let files = all.iter().flat_map(|path| names.map(|name| path.join(name)));
    files.filter_map(|file| fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).next()
}

const PIDS: [&str; 2] = ["pids.max", "pids.max"];
const MEMORY: [&str; 2] = ["memory.max", "memory.limit_in_bytes"];

/// The id that the run has printed as its first line.
fn id(run: &Running<'_>) -> String {
    run.wait_for("sb-");
    let all: Vec<PathBuf> = cgroups("sb-");
    let own = run.proxy().to_string();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let names: Vec<String> = all.iter().map(name).collect();
    let found = names.iter().find(|name| name.split('.').nth(1) == Some(&own)).unwrap();
    found.split('.').next().unwrap().to_owned()
}

#[track_caller]
fn nothing_is_left(id: &str) {
    assert_eq!(cgroups(id), Vec::<PathBuf>::new());
}

#[test]
fn processes_and_memory_are_bounded_without_being_asked_for_and_as_asked_for() {
    Lab::test_on_both_roads(|lab| {
        let machine = fs::read_to_string("/proc/meminfo").unwrap();
        let machine: u64 =
            machine.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
        let read = |options: &[&str]| {
            let all = options
                .iter()
                .fold(sandbox(lab, &policy(lab)).open_stdin(), |all, one| all.option(*one));
            let mut run = all.bare().start(&["sh", "-c", "echo $INTERCEPTOR_SANDBOX; cat"]);
            let id = id(&run);
            let all = cgroups(&id);
            let found = (bound(&all, PIDS), bound(&all, MEMORY));
            run.close_stdin();
            run.finish().success();
            nothing_is_left(&id);
            let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
            (number(found.0), number(found.1))
        };
        let (processes, memory) = read(&[]);
        assert_eq!(processes, Some(4096));
        assert!(
            memory.is_some_and(|memory| memory > 1 << 24 && memory < machine),
            "{memory:?} of {machine}"
        );
        assert_eq!(
            read(&["--pids-limit", "300", "--memory", "512m"]),
            (Some(300), Some(512 << 20))
        );
        let mut wrong = vec![["--pids-limit", "0"], ["--memory", "lots"]];
        match lab.road() {
            Road::Root => {
                let (processes, memory) = read(&["--pids-limit", "none", "--memory", "none"]);
                // A controller that others use exists, without a limit.
                assert!(
                    processes.is_none() && memory.is_none_or(|memory| memory > machine),
                    "{processes:?} {memory:?}"
                );
            }
            // Nobody gets more than anybody without asking root.
            Road::Daemon => {
                wrong.extend([["--pids-limit", "none"], ["--pids-limit", "5000"]]);
                wrong.extend([["--memory", "none"], ["--memory", "1000t"]]);
            }
        }
        for wrong in wrong {
            let outcome =
                wrong.iter().fold(lab.sandbox(&policy(lab)).bare(), |all, one| all.option(*one));
            let outcome = outcome.run(&["true"]);
            assert_eq!(outcome.code(), Some(125), "{}", outcome.tail());
        }
    });
}

#[test]
fn a_bomb_of_processes_leaves_the_others_and_the_host_alone() {
    Lab::test(|lab| {
        lab.unordered();
        let policy = policy(lab);
        // It doubles until it is refused, and keeps trying; its processes are busy.
        let bomb = "
import os, sys
print('sb-', os.environ['INTERCEPTOR_SANDBOX'], flush=True)
said = False
while True:
    try: os.fork()
    except OSError as e:
        if not said: print('refused', e.errno, flush=True)
        said = True
";
        let run = sandbox(lab, &policy).bare().option("--pids-limit").option("400");
        let run = run.limit(Duration::from_secs(180)).start(&[PYTHON, "-c", bomb]);
        let id = id(&run);
        run.wait_for("refused 11");
        others_are_served(lab, &policy);
        assert!(
            std::process::Command::new("true").status().unwrap().success(),
            "the host can fork"
        );
        let counted = run.descendants().len();
        assert!(counted <= 402, "{counted} processes");
        run.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = run.finish();
        // The process that stays outside removes them, or the next run does.
        let gone = || {
            let _ = sandbox(lab, &policy).bare().run(&["true"]);
            cgroups(&id).is_empty()
        };
        assert!(interceptor_tests::daemon::until(gone), "{:?}", cgroups(&id));
    });
}

#[test]
fn a_bomb_of_memory_ends_itself_and_the_proxy_serves_on() {
    Lab::test_on_both_roads(|lab| {
        let policy = policy(lab);
        let run = |script: &str, bomb: &str| -> Outcome {
            let run = sandbox(lab, &policy).bare().option("--memory").option("200m");
            run.limit(Duration::from_secs(180)).run(&["sh", "-c", script, bomb])
        };
        let script = format!("{PYTHON} -c \"$0\"; echo ended $?; {}", ask());
        let outcome = run(&script, "b = []\nwhile True: b.append(bytearray(b'x' * (1 << 20)))");
        assert_eq!(outcome.success().out(), "ended 137\n200\n", "{}", outcome.tail());
        assert!(outcome.err().contains("reached its limit of memory"), "{}", outcome.err());
        // Files in memory count as well, and end with the sandbox.
        let files =
            "n = 0\nwhile True: open(f'/dev/shm/{n}', 'wb').write(b'x' * (1 << 20)); n += 1";
        let outcome = run(&format!("exec {PYTHON} -c \"$0\""), files);
        assert_eq!(outcome.code(), Some(137), "{}", outcome.tail());
        assert!(outcome.err().contains("reached its limit of memory"), "{}", outcome.err());
        others_are_served(lab, &policy);
    });
}

#[test]
fn a_bomb_of_descriptors_leaves_the_proxy_and_the_others_theirs() {
    Lab::test_on_both_roads(|lab| {
        lab.unordered();
        let policy = policy(lab);
        // As many files, pipes and sockets as each of many processes gets; connections to the
        // proxy, too.
        let bomb = format!(
            "
import os, socket, sys
print('sb-', flush=True)
def fill():
    kept, refused = [], 0
    while refused < 50:
        try:
            kept.append(os.pipe()); kept.append(socket.socketpair())
            s = socket.socket(); s.setblocking(False); kept.append(s); s.connect_ex(('{HOST}', \
             443))
        except OSError: refused += 1
    return kept
children = []
for n in range(20):
    pid = os.fork()
    if pid == 0:
        kept = fill(); os.write(1, b'full\\n'); sys.stdin.read(); os._exit(0)
    children.append(pid)
for pid in children: os.waitpid(pid, 0)
"
        );
        let run = sandbox(lab, &policy).bare().open_stdin().limit(Duration::from_secs(180));
        let mut run =
            run.start(&["sh", "-c", "ulimit -n 1024; exec \"$0\" \"$@\"", PYTHON, "-c", &bomb]);
        run.wait_for(&"full\n".repeat(20));
        others_are_served(lab, &policy);
        run.close_stdin();
        run.finish().success();
        // Its resources are released: a similar sandbox is served.
        others_are_served(lab, &policy);
    });
}
