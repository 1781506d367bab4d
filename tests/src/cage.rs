//! An environment for `interceptor attach`: a cgroup, and a network namespace with a route to
//! another one, where an observer logs every packet from inside and a server answers at every
//! address.
//!
//! Unlike the namespace that `interceptor run` makes, this one has a device and a default route,
//! like a container's, so packets that the wall lets through arrive. It never touches the host's
//! own network.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::binary;

/// The time limit for everything here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Debian's interpreter.
pub const PYTHON: &str = "/usr/bin/python3";

/// Prints a line for every packet from inside, except the kernel's own neighbour and group messages
/// (ARP, and ICMPv6 130 to 143), and echoes TCP and UDP at ports 443, 53 and 9 of every address.
const OBSERVER: &str = r"
import socket, struct, threading
watch = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
watch.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)
watch.bind(('outside', 0))
def echo(stream):
    try:
        while data := stream.recv(4096): stream.sendall(data)
    except OSError: pass
def serve(family, address, port):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port)); listener.listen(128)
    def accept():
        while True: threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
for port in (443, 53, 9):
    serve(socket.AF_INET, '0.0.0.0', port); serve(socket.AF_INET6, '::', port)
print('ready', flush=True)
while True:
    frame, where = watch.recvfrom(65535)
    if where[2] == 4: continue
    kind = struct.unpack('!H', frame[12:14])[0]
    if kind == 0x0800:
        print('packet', 4, frame[23], socket.inet_ntoa(frame[30:34]), len(frame), flush=True)
    elif kind == 0x86dd:
        protocol = frame[20]
        # A hop-by-hop header stands before the kernel's own reports of multicast groups.
        if protocol == 58 and 130 <= frame[54] <= 143 or protocol == 0 and frame[54] == 58: continue
        to = socket.inet_ntop(socket.AF_INET6, frame[38:54])
        print('packet', 6, protocol, to, len(frame), flush=True)
    elif kind not in (0x0806,):
        print('packet', hex(kind), 0, '-', len(frame), flush=True)
";

/// The place.
#[derive(Debug)]
pub struct Cage {
    cgroup: PathBuf,
    inside: File,
    outside: File,
    observer: Child,
    seen: crate::running::Output,
    /// The number of times its packets were requested.
    asked: AtomicUsize,
}

/// The EtherType of the cage's own packets, as the observer prints it: one for local experiments
/// (IEEE Std 802). Their length distinguishes them.
const OWN: &str = "0x88b5";
const OWN_LENGTH: usize = 64;

impl Cage {
    /// Makes it.
    ///
    /// # Panics
    /// Without root, cgroup v2 or `ip`.
    pub fn new() -> Cage {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let cgroup = cgroup2().join(format!("interceptor-cage-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).expect("tests of attach need root and cgroup v2");
        let (inside, outside) = (namespace(), namespace());
        let observer = Command::new("true").spawn().expect("true");
        let mut cage = Cage {
            cgroup,
            inside,
            outside,
            observer,
            seen: crate::running::Output::of(&[][..]),
            asked: AtomicUsize::default(),
        };
        cage.observer.wait().expect("true ends");
        cage.connect();
        let mut observer = cage.outside(PYTHON);
        observer.args(["-c", OBSERVER]).stdout(Stdio::piped());
        cage.observer = observer.spawn().expect("python3");
        cage.seen = crate::running::Output::of(cage.observer.stdout.take().expect("piped"));
        assert!(
            cage.seen.wait_for(b"ready", Instant::now() + PATIENCE),
            "the observer does not start"
        );
        cage
    }

    /// A link between the two namespaces, the default route of the one, and every address in the
    /// other.
    fn connect(&self) {
        let outside = path(&self.outside);
        let inner = format!(
            "ip link add inside type veth peer name outside netns {outside}
             ip addr add 10.99.0.1/24 dev inside; ip -6 addr add fd99::1/64 dev inside nodad
             ip link set inside up; ip route add default via 10.99.0.2; ip -6 route add default \
             via fd99::2 dev inside"
        );
        let outer = "ip addr add 10.99.0.2/24 dev outside; ip -6 addr add fd99::2/64 dev outside \
                     nodad
             ip link set outside up
             for net in 203.0.113.0/24 192.0.2.0/24 198.51.100.0/24 8.8.8.0/24 198.18.0.0/15; do \
                     ip route add local $net dev lo; done
             for net in 2001:db8::/32 2001:4860::/32 2001:2::/48; do ip -6 route add local $net \
                     dev lo; done";
        // The far end exists when the first half of the inner script has run; the routes need both
        // ends up.
        let (link, rest) = inner.split_once('\n').expect("two lines");
        for (mut command, script) in
            [(self.beside("sh"), link), (self.outside("sh"), outer), (self.beside("sh"), rest)]
        {
            let output = command.args(["-ec", script]).output().expect("sh");
            assert!(
                output.status.success(),
                "{script}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    /// The cgroup's directory.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A command in the namespace and in the cgroup.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.beside("sh");
        let script =
            format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.cgroup.display());
        command.args(["-c", &script, program]);
        command
    }

    /// A command in the namespace, not in the cgroup.
    pub fn beside(&self, program: &str) -> Command {
        enter(&self.inside, program)
    }

    /// A command in the outer namespace.
    pub fn outside(&self, program: &str) -> Command {
        enter(&self.outside, program)
    }

    /// Runs a Python program in the cgroup to its end. Returns both output streams.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn python(&self, program: &str) -> String {
        let output = self.command(PYTHON).args(["-c", program]).output().expect("python3");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    /// Starts a Python program in the cgroup, to exchange lines with.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn talk(&self, mut command: Command, program: &str) -> Talk {
        command.args(["-u", "-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let (input, output) =
            (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Talk { child, input, output: BufReader::new(output) }
    }

    /// Starts `interceptor attach` with further arguments.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn attach(&self, arguments: &[&str]) -> Attach {
        let mut command = Command::new(binary("interceptor"));
        command.args(["attach", "--cgroup"]).arg(&self.cgroup).args(arguments);
        // The namespace is that of the cgroup's processes, so keep this one alive until it is
        // looked up.
        let mut member = self.command("sleep");
        let member = member.arg("3600").spawn().expect("sleep");
        wait_until(|| members(&self.cgroup).contains(&member.id()));
        command.arg("--pid").arg(member.id().to_string());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Attach { child: child.expect("interceptor"), member }
    }

    /// The packets from inside so far, one per line: family, protocol, destination, length. Sends
    /// one of the cage's own packets after them and waits for it.
    ///
    /// # Panics
    /// If that packet does not arrive.
    pub fn packets(&self) -> Vec<String> {
        let length = OWN_LENGTH + self.asked.fetch_add(1, Ordering::SeqCst);
        // Bypass routes and rules, which a test may have removed.
        let program = format!(
            "import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('inside', 0))
s.send((b'\\xff' * 12 + b'\\x88\\xb5').ljust({length}, b'.'))"
        );
        let sent = self.beside(PYTHON).args(["-c", &program]).status().expect("python3");
        assert!(sent.success(), "{sent}");
        let line = format!("packet {OWN} 0 - {length}\n");
        let came = self.seen.wait_for(line.as_bytes(), Instant::now() + PATIENCE);
        assert!(came, "the observer does not see the cage's own packet");
        let text = self.seen.text();
        let packets = text.lines().filter_map(|line| line.strip_prefix("packet "));
        let others = packets.filter(|line| !line.starts_with(OWN));
        others.map(str::to_owned).collect()
    }
}

impl Default for Cage {
    fn default() -> Cage {
        Cage::new()
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = self.observer.kill();
        let _ = self.observer.wait();
        for directory in below(&self.cgroup).iter().rev() {
            for _ in 0..200 {
                for member in members(directory) {
                    let _ = kill(Pid::from_raw(member.cast_signed()), Signal::SIGKILL);
                }
                if fs::remove_dir(directory).is_ok() || !directory.exists() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A program inside that exchanges lines with the test.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Talk {
    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it writes.
    ///
    /// # Panics
    /// When its output cannot be read.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    /// Sends it a line.
    ///
    /// # Panics
    /// When it does not read.
    pub fn say(&mut self, line: &str) {
        use std::io::Write;
        writeln!(self.input, "{line}").expect("the program reads");
    }

    /// Sends a line, and returns the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `interceptor attach`.
#[derive(Debug)]
pub struct Attach {
    child: Child,
    member: Child,
}

impl Attach {
    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits for the line that says that enforcement is in place.
    ///
    /// # Panics
    /// With its output, if it ends before.
    #[track_caller]
    pub fn enforcing(mut self) -> Attach {
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().expect("piped"))
            .read_line(&mut line)
            .expect("text");
        assert!(line.contains("enforcing on"), "{line}{}", self.errors());
        self
    }

    /// Kills it, and waits.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for it to end by itself. Returns whether it succeeded, and its output.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn wait(mut self) -> (bool, String) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return (status.success(), self.errors());
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("attach does not end");
    }

    /// Ends it cleanly, and returns its standard error.
    ///
    /// # Panics
    /// If it does not succeed.
    #[track_caller]
    pub fn end(mut self) -> String {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        let status = self.child.wait().expect("a child");
        let errors = self.errors();
        assert!(status.success(), "{status}: {errors}");
        errors
    }

    fn errors(&mut self) -> String {
        let mut text = String::new();
        if let Some(errors) = self.child.stderr.as_mut() {
            let _ = errors.read_to_string(&mut text);
        }
        text
    }
}

impl Drop for Attach {
    fn drop(&mut self) {
        for child in [&mut self.child, &mut self.member] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for a condition.
///
/// # Panics
/// If it is not true within half a minute.
#[track_caller]
pub fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Where cgroup v2 is mounted.
///
/// # Panics
/// When it is not.
pub fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc");
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    PathBuf::from(
        fields.find(|fields| fields[2] == "cgroup2").expect("cgroup v2 is not mounted")[1],
    )
}

fn members(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// A directory and all below it, parents first.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
        next += 1;
    }
    found
}

/// A network namespace with `lo`, for as long as the file is open.
fn namespace() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of attach need root");
        let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
        assert!(status.success());
        File::open("/proc/thread-self/ns/net").expect("/proc")
    };
    thread::spawn(make).join().expect("a namespace")
}

fn path(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

fn enter(namespace: &File, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path(namespace))).arg(program);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}
