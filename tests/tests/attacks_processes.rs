//! Attacks by processes: on daemons during a hand-over, and on a sandbox's terminal.

#![allow(clippy::unwrap_used, reason = "a helper of tests may panic like a test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use interceptor_tests::Lab;
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

const HOST: &str = "api.lab.test";

fn policy(lab: &Lab) -> Value {
    lab.governed(HOST, json!([{ "methods": [], "paths": ["/"] }]))
}

/// A process that is killed when it is dropped.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Attacks, as `nobody`, every process of the program that its argument names until it reads the
/// line `end`: tries to stop it, to read its memory, and to take its descriptors.
const GRASP: &str = r"
import ctypes, os, sys, threading
os.setgroups([]); os.setgid(65534); os.setuid(65534)
libc = ctypes.CDLL(None, use_errno=True)
ended, seen, got = [], set(), set()
threading.Thread(target=lambda: (sys.stdin.readline(), ended.append(1)), daemon=True).start()
def grasp(pid):
    if libc.ptrace(0x4206, pid, None, None) == 0: got.add('PTRACE_SEIZE')
    if libc.ptrace(16, pid, None, None) == 0: got.add('PTRACE_ATTACH')
    for name in ('mem', 'environ', 'maps', 'auxv'):
        try:
            with open(f'/proc/{pid}/{name}', 'rb') as file:
                if file.read(1): got.add(name)
        except OSError: pass
    try: os.listdir(f'/proc/{pid}/fd'); got.add('fd')
    except OSError: pass
    buffer = ctypes.create_string_buffer(8)
    class Piece(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
    piece = Piece(ctypes.addressof(buffer), 8)
    there = Piece(0x400000, 8)
    read = libc.process_vm_readv(pid, ctypes.byref(piece), 1, ctypes.byref(there), 1, 0)
    if read >= 0: got.add('readv')
    elif ctypes.get_errno() == 14: got.add('readv')
    try: handle = os.pidfd_open(pid)
    except OSError: return
    for number in range(3, 32):
        if libc.syscall(438, handle, number, 0) >= 0: got.add('pidfd_getfd')
    os.close(handle)
print('ready', flush=True)
while not ended:
    for pid in os.listdir('/proc'):
        if not pid.isdigit(): continue
        try: name = open(f'/proc/{pid}/comm').read().strip()
        except OSError: continue
        if name == 'interceptor': seen.add(pid); grasp(int(pid))
print(len(seen), sorted(got), flush=True)
";

#[test]
fn nobody_inside_gets_at_a_daemon_or_its_successor_while_it_takes_over() {
    Lab::test(|lab| {
        lab.unordered();
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let mut command = guest.command("python3");
        command.args(["-u", "-c", GRASP]).stdin(Stdio::piped()).stderr(Stdio::inherit());
        let mut grasping = Ends(command.spawn().unwrap());
        let mut said = BufReader::new(grasping.0.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let control = daemon.control().to_owned();
        let successor =
            lab.daemon().at_origin(HOST).quiet_log().control(control).option("--takeover").start();
        let _ended = daemon;
        let made = successor.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json();
        assert_eq!(made["id"], json!(guest.id));
        grasping.0.stdin.take().unwrap().write_all(b"end\n").unwrap();
        line.clear();
        said.read_line(&mut line).unwrap();
        let (number, got) = line.trim().split_once(' ').unwrap();
        // The daemons and their helper processes.
        assert!(number.parse::<usize>().unwrap() >= 2, "{line}");
        assert_eq!(got, "[]");
    });
}

/// Connects to the control socket from inside, passes the connection out over a Unix socket, and
/// lets a process outside every sandbox use it.
const HANDED: &str = r"
import array, os, socket, sys
procs, control, path = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX); listener.bind(path); listener.listen()
if os.fork() == 0:
    open(procs, 'w').write(str(os.getpid()))
    s = socket.socket(socket.AF_UNIX); s.connect(control)
    out = socket.socket(socket.AF_UNIX); out.connect(path)
    out.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [s.fileno()]))])
    out.recv(1); os._exit(0)
taker, _ = listener.accept()
_, (rights, *_), *_ = taker.recvmsg(1, 1024)
s = socket.socket(fileno=array.array('i', rights[2])[0]); s.settimeout(30)
s.sendall(b'POST /v1/takeover HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n'
          b'upgrade: interceptor-takeover\r\n\r\n')
print(s.recv(100000).decode(), flush=True)
taker.sendall(b'x'); os.wait()
";

#[test]
fn a_connection_made_inside_cannot_take_over_even_if_passed_to_an_outsider() {
    Lab::test(|lab| {
        let daemon = lab.daemon().at_origin(HOST).quiet_log().start();
        let guest = daemon.guest(&policy(lab));
        let (path, procs) = (lab.work().join("handed"), guest.cgroup.path().join("cgroup.procs"));
        let mut command = Command::new("python3");
        command.args(["-c", HANDED]).arg(procs).arg(daemon.control()).arg(&path);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            said.starts_with("HTTP/1.1 403"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::remove_file(path).unwrap();
        // The daemon still serves.
        assert_eq!(
            daemon.call("GET", &format!("/v1/sandboxes/{}", guest.id), "").json()["id"],
            json!(guest.id)
        );
    });
}

/// Runs a sandbox in a shell with job control on its own terminal. Reports at each step the number
/// of its processes, and whether each is in a different cgroup and network than this one.
const TERMINAL: &str = r#"
import os, pty, select, signal, sys, time
interceptor, policy, *shell = sys.argv[1:]
mark = f'JOB-{os.getpid()}-MARK'
pid, terminal = pty.fork()
if pid == 0:
    # A shell keeps what it was started with as ignored.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        try: signal.signal(number, signal.SIG_DFL)
        except OSError: pass
    shell += ['bash', '--norc', '--noediting', '-i']
    os.execvp(shell[0], shell)
heard = b''
def until(text, seconds):
    global heard
    end = time.time() + seconds
    while text not in heard and time.time() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            try: heard += os.read(terminal, 65536)
            except OSError: break
    there, heard = text in heard, b''
    return there
def place(pid): return open(f'/proc/{pid}/cgroup').read(), os.readlink(f'/proc/{pid}/ns/net')
own = place('self')
def processes():
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if (mark.encode() in open(f'/proc/{pid}/cmdline', 'rb').read()
                    and open(f'/proc/{pid}/comm').read().startswith('python3')):
                yield place(pid)
        except OSError: pass
def step(name):
    found = list(processes())
    confined = all(cgroup != own[0] and net != own[1] for cgroup, net in found)
    print(name, 'some' if found else 'none', 'confined' if confined else found, flush=True)
def type(text): os.write(terminal, text)
def foreground():
    end = time.time() + 20
    while os.tcgetpgrp(terminal) in (0, pid) and time.time() < end: time.sleep(0.02)
# Not a shell: one that has just called vfork cannot stop before its child does.
script = ("import itertools, time; [(print('st' + 'ill' if n else 'rea' + 'dy', flush=True), "
          "time.sleep(0.1)) for n in itertools.count()]")
type(f'{interceptor} run -q --policy {policy} -- /usr/bin/python3 -c "{script}" {mark}\n'.encode())
print('begun', until(b'ready', 60)); step('foreground')
type(b'\x1a'); print('stopped', until(b'Stopped', 20)); step('stopped')
type(b'bg\n'); print('runs', until(b'still', 20)); step('background')
# It is continued just after it gets the terminal; a stop before that would be undone.
type(b'fg\n'); foreground()
print('runs', until(b'still', 20) and until(b'still', 20)); step('again')
type(b'\x1a'); print('stopped', until(b'Stopped', 20)); step('before')
os.close(terminal)
end = time.time() + 20
while list(processes()) and time.time() < end:
    time.sleep(0.05)
step('after')
os.waitpid(pid, 0)
"#;

#[test]
fn job_control_and_a_hangup_leave_no_process_without_its_wall() {
    job_control(&[]);
}

/// In some containers a process has a terminal, but cannot open `/dev/tty`.
#[test]
fn job_control_works_without_dev_tty() {
    let without = "if [ -e /dev/tty ]; then mount --bind /dev/tty /dev/tty && \
                   mount -o remount,bind,nodev /dev/tty || exit; fi; exec \"$@\"";
    job_control(&["unshare", "--mount", "sh", "-c", without, "sh"]);
}

/// Runs [`TERMINAL`] by the command `before`.
fn job_control(before: &[&str]) {
    let body = |lab: &Lab| {
        let policy = lab.secret_file("policy.json", r#"{"network": {"allow": ["api.lab.test"]}}"#);
        let mut command = Command::new("env");
        command.args(before).args(["python3", "-c", TERMINAL]);
        command.arg(binary("interceptor"));
        match lab.member() {
            None => command.arg(policy),
            Some(member) => {
                member.own_secrets(lab.directory());
                let socket = member.socket().display();
                command.arg(format!("{} --daemon {socket}", policy.display()));
                let shell = member.command("env");
                command.arg(shell.get_program()).args(shell.get_args())
            }
        };
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let expected = "begun True\nforeground some confined\nstopped True\nstopped some \
                        confined\nruns True\nbackground some confined\nruns True\nagain some \
                        confined\nstopped True\nbefore some confined\nafter none confined\n";
        assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
    };
    // In a mount namespace of its own, the daemon takes nobody.
    if before.is_empty() { Lab::test_on_both_roads(body) } else { Lab::test(body) }
}
