//! Sources and secrecy of keys: rotation without a restart, and memory that nobody inside can read.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// A client that asks once for each line of its standard input.
const ASK_EACH_LINE: &str = "n=0; while read line; do n=$((n+1)); \
    curl -sS -o /dev/null https://HOST/v1/$line && echo \"asked $n\"; done";

#[test]
fn a_key_in_a_file_is_rotated_without_a_restart_and_a_broken_file_keeps_the_old() {
    Lab::test(|lab| {
        let (first, second) = (lab.key().to_owned(), lab.another_key());
        let file = lab.key_file();
        let mut running = lab.sandbox(&policy(lab)).at_origin(HOST).open_stdin().start(&[
            "sh",
            "-c",
            &ASK_EACH_LINE.replace("HOST", HOST),
        ]);
        let mut asked = 0;
        // Waits until the origin gets `key` after a change: files are checked once a second.
        let mut until = |key: &str, least: usize| {
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut right = 0;
            while right < least {
                asked += 1;
                running.write(b"x\n");
                running.wait_for(&format!("asked {asked}\n"));
                let seen = lab.seen();
                let value = seen.last().unwrap().values("authorization").join(",");
                right = if value == format!("Bearer {key}") { right + 1 } else { 0 };
                assert!(Instant::now() < deadline, "the key was not taken up");
                thread::sleep(Duration::from_millis(200));
            }
        };
        until(&first, 1);
        // Replaced atomically.
        lab.secret_file("key.new", &format!("{second}\n"));
        fs::rename(lab.directory().join("key.new"), &file).unwrap();
        until(&second, 2);
        // Broken in any way, the old key stays, over more than one check of the file.
        for broken in ["", "\n", "two words", "line\r\nx-evil: 1"] {
            lab.secret_file("key", broken);
            until(&second, 8);
        }
        fs::remove_file(&file).unwrap();
        until(&second, 8);
        // Overwritten in place.
        lab.key_file();
        until(&first, 2);
        running.finish().success();
    });
}

#[test]
fn a_key_is_found_among_the_credentials_that_systemd_gives() {
    Lab::test(|lab| {
        lab.secret_file("openai-key", &format!("{}\n", lab.key()));
        let mut policy = policy(lab);
        policy["credentials_v2"]["lab"]["key"] = json!({ "file": "openai-key" });
        let outcome = lab
            .sandbox(&policy)
            .env("CREDENTIALS_DIRECTORY", lab.directory().as_os_str())
            .at_origin(HOST)
            .shell(&format!(
                "curl -sSf https://{HOST}/v1/x; cat \"$CREDENTIALS_DIRECTORY\"/openai-key 2>&1; \
                 true"
            ));
        outcome.success();
        assert_eq!(lab.seen()[0].values("authorization"), [format!("Bearer {}", lab.key())]);
    });
}

/// Tries, for every possible pid, each way to another process's memory or descriptors. Checks what
/// it can read against the canary: it must not contain the key's prefix.
const READ_MEMORY: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
own = {os.getpid(), os.getppid()}
numbers = set(range(1, 300)) | {int(n) for n in sys.argv[1:]}
numbers |= {int(name) for name in os.listdir('/proc') if name.isdigit()}
class Vector(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
def maps(pid):
    with open(f'/proc/{pid}/maps') as lines:
        for line in lines:
            span, mode = line.split()[:2]
            if mode[0] == 'r': yield [int(end, 16) for end in span.split('-')]
needle = bytes([67, 65, 78, 65, 82, 89]) + b'-'
for pid in sorted(numbers):
    ways = []
    try:
        spans = list(maps(pid)); ways.append('maps')
        with open(f'/proc/{pid}/mem', 'rb', 0) as memory:
            ways.append('mem')
            for start, end in spans:
                try:
                    memory.seek(start)
                    found = needle in memory.read(min(end - start, 1 << 26))
                    if found and pid != os.getpid(): print('KEY IN', pid)
                except (OSError, OverflowError, ValueError): pass
    except OSError: spans = []
    buffer = ctypes.create_string_buffer(4096)
    local = Vector(ctypes.addressof(buffer), 4096)
    for start, end in spans[:1] or [(0x400000, 0x401000)]:
        remote = Vector(start, 4096)
        read = libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if read > 0: ways.append('process_vm_readv')
    if pid not in own and libc.ptrace(16, pid, None, None) == 0:
        ways.append('ptrace'); os.waitpid(pid, 0x40000000); libc.ptrace(17, pid, None, None)
    try: descriptor = os.pidfd_open(pid)
    except OSError: descriptor = -1
    if descriptor >= 0:
        if pid not in own and libc.syscall(438, descriptor, 0, 0) >= 0: ways.append('pidfd_getfd')
        os.close(descriptor)
    try:
        os.listdir(f'/proc/{pid}/fd'); ways.append('fd')
        open(f'/proc/{pid}/environ').read(); ways.append('environ')
    except OSError: pass
    name = ''
    try: name = open(f'/proc/{pid}/comm').read().strip()
    except OSError: pass
    if ways and pid not in own: print(name or '?', pid, *ways)
print('done')
"#;

#[test]
fn o3_nobody_inside_reads_memory_or_descriptors_of_the_interceptor() {
    for (user, host_net) in
        [(None, false), (Some("root"), false), (None, true), (Some("root"), true)]
    {
        Lab::test(|lab| {
            let sandbox = lab
                .sandbox(&policy(lab))
                .at_origin(HOST)
                .open_stdin()
                .limit(Duration::from_secs(120));
            let sandbox = if let Some(user) = user { sandbox.user(user) } else { sandbox };
            let sandbox = if host_net { sandbox.host_net() } else { sandbox };
            // Try the pids that the interceptor's processes have outside too.
            let script = format!(
                "curl -sSf -o /dev/null https://{HOST}/v1/x; echo ready; read pids; exec \
                 /usr/bin/python3 -c \"$0\" $pids"
            );
            let mut running = sandbox.start(&["sh", "-c", &script, READ_MEMORY]);
            running.wait_for("ready\n");
            let mut pids = running.pid().to_string();
            for pid in running.descendants() {
                pids.push_str(&format!(" {pid}"));
            }
            // Core size limit 0, and not dumpable.
            let limits = fs::read_to_string(format!("/proc/{}/limits", running.pid())).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(
                core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
                ["0", "0"],
                "{core}"
            );
            running.write(format!("{pids}\n").as_bytes());
            let outcome = running.finish();
            let text = outcome.success().out();
            assert!(text.ends_with("done\n") && !text.contains("KEY IN"), "{text}");
            let read: Vec<&str> = text
                .lines()
                .filter(|line| line.starts_with("interceptor ") || line.starts_with("? "))
                .collect();
            assert_eq!(read, Vec::<&str>::new(), "{user:?} {host_net}: {text}");
        });
    }
}

#[test]
fn o3_c11_a_crash_leaves_no_core_with_a_key() {
    Lab::test(|lab| {
        lab.audit_may_be_lost();
        let running = lab.sandbox(&policy(lab)).at_origin(HOST).bare().start(&[
            "sh",
            "-c",
            &format!("curl -sSf -o /dev/null https://{HOST}/v1/x; echo ready; exec sleep 60"),
        ]);
        running.wait_for("ready\n");
        let pid = running.pid();
        running.signal(Signal::SIGABRT);
        let outcome = running.finish();
        assert_eq!(outcome.signal(), Some(6), "{}", outcome.tail());
        // The core size limit is zero wherever the kernel would write it, and the working directory
        // has none.
        for directory in [lab.directory().to_owned(), lab.work(), std::env::current_dir().unwrap()]
        {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                assert!(name != "core" && !name.starts_with(&format!("core.{pid}")), "{name}");
            }
        }
    });
}

#[test]
fn c11_no_process_of_the_machine_shows_the_key_in_its_environment_or_arguments() {
    Lab::test_on_both_roads(|lab| {
        let mut running = lab.sandbox(&policy(lab)).at_origin(HOST).open_stdin().start(&[
            "sh",
            "-c",
            &format!("curl -sSf -o /dev/null https://{HOST}/v1/x; echo ready; read end"),
        ]);
        running.wait_for("ready\n");
        let mut looked_at = 0;
        for pid in interceptor_tests::running::processes() {
            for file in ["environ", "cmdline", "comm"] {
                let Ok(bytes) = fs::read(format!("/proc/{pid}/{file}")) else { continue };
                looked_at += 1;
                let shown = bytes.windows(lab.key().len()).any(|part| part == lab.key().as_bytes());
                assert!(!shown, "/proc/{pid}/{file}");
            }
        }
        assert!(looked_at > 3 * running.descendants().len());
        running.write(b"\n");
        running.finish().success();
    });
}
