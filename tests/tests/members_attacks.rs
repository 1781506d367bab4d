//! What a hostile member of the daemon's group tries: to have root's process do what the member may
//! not do, to reach other users' sandboxes, and to take the daemon from the others.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use interceptor_tests::daemon::{Daemon, until};
use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, out, text};
use interceptor_tests::running::descendants;
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

/// The policy that permits any public host.
const OPEN: [&str; 2] = ["--profile", "unrestricted"];

fn words(account: &Account, socket: &Path, words: &[&str]) -> Command {
    let program = binary("interceptor");
    let start = [program.to_str().unwrap(), "run", "--daemon", socket.to_str().unwrap()];
    account.shell("exec \"$@\"", &[&start[..], words].concat())
}

fn run(account: &Account, daemon: &Daemon<'_>, options: &[&str], command: &[&str]) -> Output {
    let all = [options, &["--"], command].concat();
    words(account, &daemon.members(), &all).output().unwrap()
}

#[track_caller]
fn refused(output: &Output, why: &str) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}{}", text(&output.stdout));
    assert!(said.contains(why), "{why:?} is not in: {said}");
}

/// A daemon whose members may bring any policy.
fn daemon<'lab>(lab: &'lab Lab, account: &Account) -> Daemon<'lab> {
    lab.daemon_for(account)
}

/// A file of root's that holds a secret.
fn secret(lab: &Lab, name: &str, content: &str) -> PathBuf {
    let directory = lab.directory().join("roots");
    let _ = fs::create_dir(&directory);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// What a member's `run` sends, as a listener of root's hears it.
fn request(lab: &Lab, account: &Account, options: &[&str], command: &[&str]) -> Value {
    let path = lab.work().join("heard.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let all = [options, &["--"], command].concat();
    let mut client = words(account, &path, &all);
    let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut heard, _) = listener.accept().unwrap();
    let mut length = [0; 4];
    heard.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_ne_bytes(length) as usize];
    heard.read_exact(&mut body).unwrap();
    drop(heard);
    assert_eq!(client.wait().unwrap().code(), Some(125));
    fs::remove_file(&path).unwrap();
    serde_json::from_slice(&body).unwrap()
}

/// Sends a request as it is told on standard input: what to send, and which descriptors. Prints
/// what it is told until the end, and what the command wrote.
const SEND: &str = r"
import json, os, socket, struct, sys
path, told = sys.argv[1], json.load(sys.stdin)
s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect(path)
read, write = os.pipe()
records = os.pipe()
null = os.open('/dev/null', os.O_RDWR)
kinds = {
    'null': lambda: null, 'out': lambda: write, 'records': lambda: records[1],
    'home': lambda: os.open(os.environ['HOME'], os.O_RDONLY),
    'root': lambda: os.open('/', os.O_RDONLY),
    'path': lambda: os.open('/etc/hostname', os.O_PATH),
    'file': lambda: os.open('/etc/hostname', os.O_RDONLY),
    'tcp': lambda: socket.socket().detach(),
    'udp': lambda: socket.socket(type=socket.SOCK_DGRAM).detach(),
    'unix': lambda: socket.socketpair()[0].detach(),
    'epoll': lambda: __import__('select').epoll().fileno() and os.dup(null),
    'proc': lambda: os.open('/proc/self', os.O_RDONLY),
}
sent = [kinds[kind]() for kind in told['descriptors']]
body = told['raw'].encode('latin1') if 'raw' in told else json.dumps(told['request']).encode()
head = struct.pack('=I', told.get('length', len(body)))
try:
    if sent: socket.send_fds(s, [head], sent)
    else: s.sendall(head)
    s.sendall(body[:told.get('cut', len(body))])
    if told.get('hang'): s.shutdown(socket.SHUT_WR)
except OSError as e: print('SENDING', e)
os.close(write)
events = b''
try:
    while True:
        data = s.recv(65536)
        if not data: break
        events += data
except OSError as e: print('RECEIVING', e)
while events:
    length, = struct.unpack('=I', events[:4])
    print('EVENT', events[4:4 + length].decode()); events = events[4 + length:]
os.set_blocking(read, False)
try: print('OUT', os.read(read, 65536).decode())
except BlockingIOError: pass
";

/// Sends it as the member, and returns what came back.
fn send(account: &Account, socket: &Path, told: &Value) -> String {
    let mut python = account.shell("exec /usr/bin/python3 -c \"$@\"", &[SEND]);
    python.arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(told.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

const USUAL: [&str; 5] = ["home", "null", "out", "out", "records"];

#[test]
fn p8_nothing_is_read_or_written_that_the_member_may_not() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = daemon(lab, &account);
        let key = lab.another_key();
        let file = secret(lab, "key", &format!("{key}\n"));
        let policy = secret(lab, "policy.json", r#"{"network":{"allow":["secret.test"]}}"#);
        let pem = fs::read_to_string(lab.directory().join("upstream-ca.pem")).unwrap();
        let bundle = secret(lab, "bundle.pem", &pem);
        for (name, target) in [("key", &file), ("policy.json", &policy), ("bundle.pem", &bundle)] {
            std::os::unix::fs::symlink(target, account.home().join(name)).unwrap();
        }
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let whole = format!("openai=file:{}", file.display());
        let denied = [
            vec!["--policy".to_owned(), path(&policy)],
            vec!["--policy".to_owned(), "./policy.json".to_owned()],
            vec!["--allow".into(), "a.test".into(), "--key".into(), whole],
            vec!["--allow".into(), "a.test".into(), "--key".into(), "openai=file:key".into()],
            vec!["--allow".into(), "a.test".into(), "--ca-bundle".into(), "bundle.pem".into()],
            vec!["--allow".into(), "a.test".into(), "--upstream-ca".into(), path(&bundle)],
            vec!["--allow".into(), "a.test".into(), "--audit".into(), path(&file)],
        ];
        for options in &denied {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            let output = run(&account, &daemon, &options, &["true"]);
            let said = [text(&output.stdout), text(&output.stderr)].concat();
            assert_eq!(output.status.code(), Some(125), "{options:?}: {said}");
            assert!(said.contains("ermission denied"), "{options:?}: {said}");
            assert!(!said.contains(&key) && !said.contains("secret.test"), "{options:?}: {said}");
        }
        // Root's own process is behind no path of /proc.
        for of in ["environ", "fd/0", "maps", "root/etc/shadow", "cwd/x"] {
            let key = format!("openai=file:/proc/self/{of}");
            let options = ["--allow", "a.test", "--key", &key];
            let output = run(&account, &daemon, &options, &["true"]);
            assert_eq!(output.status.code(), Some(125), "{of}: {}", text(&output.stderr));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{key}\n"));
        daemon.finish();
    });
}

#[test]
fn p8_a_request_that_lies_gets_its_own_user_nothing_of_roots() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = daemon(lab, &account);
        let socket = daemon.members();
        let own = account.file("own.key", "sk-own-key-of-the-member");
        let key = lab.another_key();
        let roots = secret(lab, "key", &format!("{key}\n"));
        let pem = fs::read_to_string(lab.directory().join("upstream-ca.pem")).unwrap();
        let bundle = secret(lab, "bundle.pem", &pem);
        let source = format!("openai=file:{}", own.display());
        let options = ["--allow", "api.openai.com", "--key", &source, "--no-history"];
        let script = format!("id -u; pwd; cat {} {} 2>&1", bundle.display(), roots.display());
        let honest = request(lab, &account, &options, &["sh", "-c", &script]);
        let send = |change: &dyn Fn(&mut Value)| {
            let mut request = honest.clone();
            change(&mut request);
            let told = json!({ "request": request, "descriptors": USUAL });
            let said = send(&account, &socket, &told);
            assert!(!said.contains(&key) && !said.contains("BEGIN CERTIFICATE"), "{said}");
            said
        };
        let usual = send(&|_| {});
        assert!(usual.contains(&format!("OUT {}\n", account.uid())), "{usual}");
        assert!(usual.contains(r#""status":1"#), "{usual}");
        // A path of root's in the place of every path; what it was sent for is not read again.
        use base64::Engine as _;
        let encoded = |path: &Path| {
            let bytes = path.as_os_str().as_encoded_bytes();
            json!(base64::engine::general_purpose::STANDARD.encode(bytes))
        };
        let (roots_sent, bundle_sent) = (encoded(&roots), encoded(&bundle));
        let handed = send(&|all| {
            all["policy"]["Own"]["keys"]["keys"][0]["file"] = roots_sent.clone();
        });
        assert!(handed.contains(r#""status":1"#), "{handed}");
        let refused = |change: &dyn Fn(&mut Value), why: &str| {
            let said = send(change);
            assert!(said.contains("Failed") && said.contains(why), "{why}: {said}");
        };
        refused(&|all| all["plan"]["bundles"] = json!([bundle_sent]), "ermission denied");
        refused(&|all| all["plan"]["id"] = json!("../../x"), "an id is");
        refused(&|all| all["plan"]["command"] = json!(""), "there is no command");
        refused(&|all| all["plan"]["bundles"] = json!([encoded(Path::new("x"))]), "not absolute");
        refused(&|all| all["plan"]["processes"] = json!("Unlimited"), "at most");
        refused(&|all| all["plan"]["memory"] = json!({ "Most": 1_u64 << 60 }), "at most");
        refused(&|all| all["version"] = json!("0"), "version");
        let many: Vec<Value> = (0..5000).map(|_| encoded(Path::new("/x"))).collect();
        refused(&|all| all["hidden"] = json!(many), "too many paths");
        let named = json!({ "Named": { "name": "../../etc/shadow", "secret": null } });
        refused(&|all| all["policy"] = named.clone(), "that you may use");
        let placeholder = "\r\nset-cookie: x";
        let change = |all: &mut Value| {
            all["policy"]["Own"]["keys"]["keys"][0]["placeholder"]["text"] = json!(placeholder);
        };
        refused(&change, "openai");
        // The directory and the limits are the kernel's to say, and the home is no road to root's.
        let said = send(&|all| {
            all["plan"]["directory"] = encoded(Path::new("/root"));
            all["plan"]["umask"] = json!(0o7777);
            let home = format!("HOME={}\0LD_PRELOAD=/nonexistent.so\0", roots.display());
            let home = base64::engine::general_purpose::STANDARD.encode(home);
            all["plan"]["environment"] = json!(home);
        });
        assert!(said.contains(&account.home().display().to_string()), "{said}");
        // Whatever it hides is hidden from itself alone.
        let all = ["/etc", "/usr/bin/id", "/proc/sys/kernel/cap_last_cap", "/etc/passwd"];
        let hidden: Vec<Value> = all.iter().map(|path| encoded(Path::new(path))).collect();
        send(&|all| {
            all["hidden"] = json!(hidden);
            all["plan"]["secrets"]["hidden"] = json!(hidden);
            all["plan"]["hidden_directories"] = json!(hidden);
        });
        for path in all {
            assert!(!fs::read(path).unwrap_or_default().is_empty() || Path::new(path).is_dir());
        }
        out(&run(&account, &daemon, &OPEN, &["true"]));
        daemon.finish();
    });
}

#[test]
fn p8_garbage_half_messages_and_wrong_descriptors_end_one_connection_each() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = daemon(lab, &account);
        let socket = daemon.members();
        let honest = request(lab, &account, &OPEN, &["id", "-u"]);
        let with = |descriptors: &[&str]| json!({ "request": honest, "descriptors": descriptors });
        let told = send(&account, &socket, &with(&USUAL));
        assert!(told.contains(&format!("OUT {}\n", account.uid())), "{told}");
        let many: Vec<&str> = std::iter::repeat_n("null", 60).collect();
        for (descriptors, why) in [
            (&[][..], "0 descriptors"),
            (&USUAL[..4], "4 descriptors"),
            (&["home", "null", "out", "out", "records", "null", "null"], "7 descriptors"),
            (&many[..], "cannot be read"),
            (&["file", "null", "out", "out", "records"], "is no directory"),
            (&["path", "null", "out", "out", "records"], "is no directory"),
            (&["home", "root", "out", "out", "records"], "neither a file"),
            (&["home", "tcp", "out", "out", "records"], "network socket"),
            (&["home", "null", "udp", "out", "records"], "network socket"),
            (&["home", "null", "out", "out", "file"], "go to no pipe"),
            (&["home", "null", "out", "out", "unix"], "go to no pipe"),
            (&["home", "null", "out", "out", "records", "file"], "the terminal is none"),
        ] {
            let told = send(&account, &socket, &with(descriptors));
            assert!(told.contains("Failed") && told.contains(why), "{descriptors:?}: {told}");
        }
        for told in [
            json!({ "raw": "", "length": 0, "descriptors": USUAL }),
            json!({ "raw": "{}", "descriptors": USUAL }),
            json!({ "raw": "\u{0}\u{ff}\u{1}".repeat(500), "descriptors": [] }),
            json!({ "raw": "[".repeat(100_000), "descriptors": USUAL }),
            json!({ "raw": "x", "length": u32::MAX, "descriptors": USUAL }),
            json!({ "raw": "x", "length": 4000, "hang": true, "descriptors": USUAL }),
            json!({ "raw": "", "length": 9_000_000, "hang": true, "descriptors": [] }),
        ] {
            let said = send(&account, &socket, &told);
            assert!(!said.contains("Starts"), "{said}");
        }
        out(&run(&account, &daemon, &OPEN, &["true"]));
        daemon.finish();
    });
}

#[test]
fn p8_what_a_members_policy_and_placeholders_cost_is_bounded() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = daemon(lab, &account);
        let limits = |name: &str, most: u64| {
            let policy = json!({ "network": { "allow": ["a.test"] }, "limits": { name: most } });
            account.file("own.json", &policy.to_string());
            run(&account, &daemon, &["--policy", "./own.json"], &["true"])
        };
        for (name, most) in [
            ("connections", 1024),
            ("requests", 512),
            ("header_bytes", 65_536),
            ("headers", 128),
            ("mints_per_second", 20),
            ("mints_burst", 200),
            ("audit_backlog", 8192),
        ] {
            let why = format!("limits.{name}: without sudo");
            refused(&limits(name, most + 1), &why);
            refused(&limits(name, u64::MAX), &why);
            out(&limits(name, most));
        }
        let credential = |number: usize| {
            let key = format!("sk-key-number-{number}");
            let rules = json!([{ "methods": [], "paths": ["/"] }]);
            let hosts = [format!("h{number}.test")];
            (format!("c{number}"), json!({ "key": key, "hosts": hosts, "endpoints": rules }))
        };
        let many: serde_json::Map<String, Value> = (0..257).map(credential).collect();
        account.file("own.json", &json!({ "credentials_v2": many }).to_string());
        refused(&run(&account, &daemon, &["--policy", "./own.json"], &["true"]), "at most 256");
        // What a member's process would never send.
        account.file("own.key", "sk-own-key-of-the-member");
        let options = ["--allow", "api.openai.com", "--key", "openai=file:own.key"];
        let honest = request(lab, &account, &options, &["true"]);
        for (field, value) in [("text", json!("k".repeat(1 << 20))), ("probe", json!(1))] {
            let mut request = honest.clone();
            request["policy"]["Own"]["keys"]["keys"][0]["placeholder"][field] = value;
            let told = json!({ "request": request, "descriptors": USUAL });
            let said = send(&account, &daemon.members(), &told);
            assert!(said.contains("Failed") && said.contains("openai"), "{field}: {said}");
        }
        daemon.finish();
    });
}

#[test]
fn p8_a_member_who_says_nothing_costs_no_program_in_the_kernel_and_is_told_why_it_ended() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = daemon(lab, &account);
        let knock = "import socket, sys\ns = socket.socket(socket.AF_UNIX); \
                     s.connect(sys.argv[1]); print(s.makefile('rb').read().decode('latin1'))";
        let mut silent = account.shell("exec /usr/bin/python3 -c \"$@\"", &[knock]);
        let silent = silent.arg(daemon.members()).stdout(Stdio::piped()).spawn().unwrap();
        let names = |process: u32| {
            let tasks = fs::read_dir(format!("/proc/{process}/task"));
            let tasks = tasks.into_iter().flatten().flatten();
            tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        };
        let waits = |process: &u32| names(*process).any(|name| name == "deadline\n");
        let found = || {
            let all = descendants(daemon.running().pid());
            all.into_iter().map(|pid| pid.as_raw().cast_unsigned()).find(waits)
        };
        assert!(until(|| found().is_some()));
        let process = found().unwrap();
        assert!(!names(process).any(|name| name == "loading\n"), "it loads programs");
        for descriptor in fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten() {
            let what = fs::read_link(descriptor.path()).unwrap_or_default();
            assert!(!what.to_string_lossy().contains("bpf"), "{}", what.display());
        }
        let said = out(&silent.wait_with_output().unwrap());
        assert!(said.contains("no whole request came in time"), "{said}");
        daemon.finish();
    });
}

/// Holds connections, and says how many there are.
const CONNECT: &str = r"
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
for n in range(10000):
    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
    held.append(s)
    if len(held) > hard - 50: held.pop(0)
print('connected', n + 1, flush=True)
sys.stdin.read()
";

#[test]
fn p8_a_member_who_connects_ten_thousand_times_takes_nothing_from_the_others() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let other = Account::new(lab.directory());
        other.join(&account);
        let daemon = daemon(lab, &account);
        let mut hostile = account.shell("exec /usr/bin/python3 -c \"$@\"", &[CONNECT]);
        hostile.arg(daemon.members()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hostile = Hostile(hostile.spawn().unwrap());
        let mut said = [0; 16];
        hostile.0.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(text(&said), "connected 10000\n");
        // As many processes as one user may have, and never more.
        let own = descendants(daemon.running().pid()).len();
        assert!(own <= 40, "{own} processes");
        out(&run(&other, &daemon, &OPEN, &["true"]));
        drop(hostile);
        let freed = || run(&account, &daemon, &OPEN, &["true"]).status.success();
        assert!(until(freed));
        daemon.finish();
    });
}

struct Hostile(Child);

impl Drop for Hostile {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn p8_other_users_sandboxes_keys_and_records_are_out_of_reach() {
    Lab::test(|lab| {
        let (account, other) = (Account::new(lab.directory()), Account::new(lab.directory()));
        other.join(&account);
        let daemon = daemon(lab, &account);
        let key = lab.another_key();
        account.file("own.key", &key);
        fs::set_permissions(account.home().join("own.key"), fs::Permissions::from_mode(0o600))
            .unwrap();
        let options = ["--allow", "a.test", "--key", "openai=file:own.key", "--name", "victim"];
        let all = [&options[..], &["--", "sh", "-c", "echo ready; exec sleep 600"]].concat();
        let mut running = words(&account, &daemon.members(), &all);
        let mut running = Hostile(running.stdout(Stdio::piped()).spawn().unwrap());
        running.0.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let processes: Vec<String> =
            descendants(daemon.running().pid()).iter().map(ToString::to_string).collect();
        let client = running.0.id();
        let home = account.home().display();
        // The other one, outside of every sandbox and inside of one.
        let script = format!(
            "for pid in {client} {}; do
               for file in environ mem maps fd/0 cwd/own.key root/etc/shadow; do
                 head -c 1 /proc/$pid/$file 2>/dev/null | grep -q . && echo read $pid $file
               done; kill -0 $pid 2>/dev/null && echo may signal $pid
             done
             cat {home}/own.key {home}/.local/state/interceptor/*/* 2>/dev/null
             for cgroup in /sys/fs/cgroup/interceptor/victim* \
                           /sys/fs/cgroup/*/interceptor/victim*; do
               echo $$ > $cgroup/cgroup.procs && echo joined
               echo 1 > $cgroup/cgroup.kill && echo killed
             done 2>/dev/null; true",
            processes.join(" ")
        );
        assert_eq!(out(&other.run(&script, &[])), "");
        for net in ["isolated", "host"] {
            let options = [&OPEN[..], &["--net", net]].concat();
            let inside = run(&other, &daemon, &options, &["sh", "-c", &script]);
            let said = out(&inside);
            // A number means another process inside.
            assert!(!said.contains(&key) && !said.contains("joined"), "{said}");
            assert!(!said.contains("killed") && !said.contains("shadow"), "{said}");
        }
        // The name is the victim's as little as anybody's.
        out(&run(&other, &daemon, &[&OPEN[..], &["--name", "victim"]].concat(), &["true"]));
        assert!(running.0.try_wait().unwrap().is_none(), "it runs");
        daemon.finish();
    });
}

#[test]
fn p8_a_process_in_a_sandbox_a_container_or_without_a_way_to_gain_rights_is_refused() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let daemon = daemon(lab, &account);
        let socket = daemon.members();
        let program = binary("interceptor");
        let again = format!(
            "{} run --daemon {} --profile unrestricted -- id -u; echo status $?",
            program.display(),
            socket.display()
        );
        for options in [&OPEN[..], &["--profile", "unrestricted", "--net", "host", "--nesting"]] {
            let inside = run(&account, &daemon, options, &["sh", "-c", &again]);
            assert_eq!(out(&inside), "status 125\n", "{}", text(&inside.stderr));
        }
        let knock = "import socket, sys\ns = socket.socket(socket.AF_UNIX); \
                     s.connect(sys.argv[1]); print(s.makefile('rb').read().decode('latin1'))";
        for (before, why) in [
            (&["setpriv", "--no-new-privs"][..], "no_new_privs"),
            (&["unshare", "-U"], "its user namespace"),
            (&["unshare", "-Ur"], "its user namespace"),
            (&["unshare", "-Um"], "its mnt namespace"),
        ] {
            let python = ["/usr/bin/python3", "-c", knock, socket.to_str().unwrap()];
            let output = account.run("exec \"$@\"", &[before, &python].concat());
            let said = [text(&output.stdout), text(&output.stderr)].concat();
            assert!(said.contains("Failed") && said.contains(why), "{before:?}: {said}");
        }
        // A server at a socket that is not root's learns nothing.
        let fake = lab.work().join("fake.sock");
        let script = "import os, socket, sys\ns = socket.socket(socket.AF_UNIX); \
                      s.bind(sys.argv[1]); s.listen(); os.chmod(sys.argv[1], 0o666); \
                      print('ready', flush=True); \
                      c, _ = s.accept(); print(len(c.recv(1000)), flush=True)";
        let mut python = account.shell("exec /usr/bin/python3 -c \"$@\"", &[script]);
        let mut python = python.arg(&fake).stdout(Stdio::piped()).spawn().unwrap();
        python.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let output = words(&account, &fake, &[&OPEN[..], &["--", "true"]].concat()).output();
        refused(&output.unwrap(), "is not root");
        assert_eq!(text(&python.wait_with_output().unwrap().stdout), "0\n");
        daemon.finish();
    });
}

#[test]
fn p8_a_users_ps_and_ctl_reach_own_runs_only_and_change_no_policy() {
    Lab::test(|lab| {
        let (account, other) = (Account::new(lab.directory()), Account::new(lab.directory()));
        other.join(&account);
        let daemon = daemon(lab, &account);
        let options = ["--allow", "a.test", "--name", "mine", "--", "sh", "-c"];
        let all = [&options[..], &["echo ready; exec sleep 600"]].concat();
        let mut running = words(&account, &daemon.members(), &all);
        let mut running = Hostile(running.stdout(Stdio::piped()).spawn().unwrap());
        running.0.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let program = binary("interceptor");
        let type_ = |who: &Account, words: &str| {
            let output = who.run(&format!("{} {words} 2>&1", program.display()), &[]);
            text(&output.stdout)
        };
        let listed: Value = serde_json::from_str(&type_(&account, "ps --json")).unwrap();
        assert_eq!(listed[0]["id"], "mine", "{listed}");
        assert_eq!(listed[0]["user"], account.name(), "{listed}");
        assert!(type_(&account, "ctl policy get mine").contains("a.test"));
        account.file("wider.json", r#"{ "network": { "allow": ["10.0.0.0/8"] } }"#);
        let put = type_(&account, "ctl policy put mine wider.json");
        assert!(put.contains("settled when it starts"), "{put}");
        assert!(!type_(&account, "ctl policy get mine").contains("10.0.0.0"));

        assert_eq!(type_(&other, "ps"), "no runs\n");
        for words in ["ctl policy get mine", "ctl audit mine", "ctl policy put mine /dev/null"] {
            let said = type_(&other, words);
            assert!(!said.contains("a.test") && !said.is_empty(), "{words}: {said}");
        }
        let socket = account.run("echo ~/.local/state/interceptor/control/mine*", &[]);
        let socket = out(&socket);
        let said = type_(&other, &format!("ctl --control {} policy get mine", socket.trim()));
        assert!(said.contains("ermission denied"), "{said}");
        assert!(running.0.try_wait().unwrap().is_none(), "it runs");
        daemon.finish();
    });
}
