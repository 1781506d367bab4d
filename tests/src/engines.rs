//! A host for container engines and runtimes: a mount namespace with cgroup v2 at the usual place
//! and an empty `/run`, and a PID namespace that ends with the test. The network is the machine's,
//! so that supervisors reach the lab's origins.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::running::processes;
use crate::sandbox::binary;

/// The time limit of everything that is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes the host. Children of its first process are reaped because that ignores SIGCHLD.
const SETUP: &str = r#"
set -e
if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
    ! mountpoint -q /sys/fs/cgroup || umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mount -t tmpfs tmpfs /run
! mountpoint -q /sys/fs/bpf || umount /sys/fs/bpf
mkdir "/sys/fs/cgroup$1"
# A writable copy of /etc, with the policies in their usual place.
mkdir -p /run/etc/upper /run/etc/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mkdir -p /etc/interceptor/policies
mount --bind "$3" /etc/interceptor/policies
trap '' CHLD
echo ready > "$2"
exec sleep infinity
"#;

/// The host, with a policy called `lab`.
#[derive(Debug)]
pub struct Host<'lab> {
    lab: &'lab Lab,
    directory: PathBuf,
    holder: Child,
    init: i32,
    /// The parent of all its cgroups, below the root.
    cgroup: String,
    options: Vec<String>,
    runs: AtomicUsize,
}

/// A command that ran, and its output, to which a container may still write.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    out: PathBuf,
    err: PathBuf,
}

impl Ran {
    /// Standard output so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).expect("own file")).into_owned()
    }

    /// Standard error so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).expect("own file")).into_owned()
    }

    /// Asserts that it succeeded.
    ///
    /// # Panics
    /// With the output, if it did not.
    #[track_caller]
    pub fn success(&self) -> &Ran {
        assert!(self.status.success(), "{}: {}{}", self.status, self.out(), self.err());
        self
    }
}

impl<'lab> Host<'lab> {
    /// With this policy, and `host` at the lab's origins.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(lab: &'lab Lab, policy: &Value, host: &str) -> Host<'lab> {
        static HOSTS: AtomicUsize = AtomicUsize::new(0);
        let number = HOSTS.fetch_add(1, Ordering::SeqCst);
        let directory = lab.directory().join(format!("host-{number}"));
        for name in ["policies", "rootfs", "runs"] {
            fs::create_dir_all(directory.join(name)).expect("own directory");
        }
        for path in [directory.clone(), directory.join("policies")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("own directory");
        }
        File::create(directory.join("audit")).expect("own directory");
        root_of(lab, &directory.join("rootfs"));
        let cgroup = format!("/interceptor-host-{}-{number}", std::process::id());
        let ready = directory.join("ready");
        let mut holder = Command::new("unshare");
        holder.args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]);
        holder.args(["--kill-child", "sh", "-c", SETUP, "host", &cgroup]);
        holder.arg(&ready).arg(directory.join("policies"));
        let holder = holder.stdin(Stdio::null()).spawn().expect("unshare(1)");
        until("the host is made", || fs::read(&ready).is_ok_and(|text| text == b"ready\n"));
        let pid = holder.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let init = children.expect("procfs").trim().parse().expect("one child");
        let path = |name: &str| directory.join(name).display().to_string();
        let pairs = [
            ("--policies", path("policies")),
            ("--state", path("state")),
            ("--audit", path("audit")),
            ("--supervisor-log", path("log")),
            ("--upstream-ca", lab.directory().join("upstream-ca.pem").display().to_string()),
            ("--resolve", format!("{host}:443:{}", lab.origin())),
            ("--resolve", format!("{host}:80:{}", lab.plain())),
            ("--resolve", format!("evil.test:{}", lab.forbidden())),
        ];
        let options = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let options = options.collect();
        let runs = AtomicUsize::new(0);
        let made = Host { lab, directory, holder, init, cgroup, options, runs };
        made.policy("lab", &policy.to_string());
        made
    }

    /// Puts a policy into the operator's directory.
    pub fn policy(&self, name: &str, text: &str) {
        self.lab.permits(text);
        let path = self.path("policies").join(format!("{name}.json"));
        fs::write(&path, text).expect("own directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    }

    /// A path of this host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The parent of the containers' cgroups.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The arguments of `interceptor` that make it the runtime.
    pub fn runtime(&self) -> Vec<String> {
        std::iter::once("oci-runtime".to_owned()).chain(self.options.iter().cloned()).collect()
    }

    /// A command on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--pid", "--target", &self.init.to_string(), "--"]).arg(program);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        // What a container writes about its own end must be in English.
        command.env("LC_ALL", "C").env("HOME", &self.directory).env("RUST_LOG", "trace");
        command.stdin(Stdio::null());
        command
    }

    /// Starts a command, with its output in files: a container may hold it open.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&self, mut command: Command) -> (Child, PathBuf, PathBuf) {
        let number = self.runs.fetch_add(1, Ordering::SeqCst);
        let at = |kind: &str| self.path("runs").join(format!("{number}-{kind}"));
        let make = |path: &Path| File::create(path).expect("own directory");
        command.stdout(make(&at("out"))).stderr(make(&at("err")));
        (command.spawn().expect("nsenter(1)"), at("out"), at("err"))
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it takes too long.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Ran {
        let mut command = self.command(program);
        command.args(arguments);
        self.finish(command)
    }

    /// Runs a prepared command to its end.
    ///
    /// # Panics
    /// If it takes too long.
    #[track_caller]
    pub fn finish(&self, command: Command) -> Ran {
        let shown = format!("{command:?}");
        let (mut child, out, err) = self.start(command);
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().expect("own child") {
                break status;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let text = [fs::read(&out), fs::read(&err), fs::read(self.path("log"))];
                let text: Vec<u8> = text.into_iter().flatten().flatten().collect();
                panic!("{shown} takes too long: {}", String::from_utf8_lossy(&text));
            }
            thread::sleep(Duration::from_millis(10));
        };
        Ran { status, out, err }
    }

    /// Calls the runtime, with these options of its own before the wrapped one's arguments.
    #[track_caller]
    pub fn oci<S: AsRef<str>>(&self, own: &[S], arguments: &[&str]) -> Ran {
        let mut all = self.runtime();
        all.extend(own.iter().map(|option| option.as_ref().to_owned()));
        let root = self.path("root").display().to_string();
        all.extend(["--root".into(), root]);
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.run(&binary("interceptor").display().to_string(), &all)
    }

    /// A bundle with this command, as `runc spec` makes it, and `/usr` of the host.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn bundle(&self, name: &str, command: &[&str], edit: impl FnOnce(&mut Value)) -> String {
        let bundle = self.path(name);
        fs::create_dir_all(&bundle).expect("own directory");
        let path = bundle.display().to_string();
        let _ = fs::remove_file(bundle.join("config.json"));
        self.run("runc", &["spec", "--bundle", &path]).success();
        let file = bundle.join("config.json");
        let text = fs::read_to_string(&file).expect("runc spec");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["root"] = json!({ "path": "../rootfs", "readonly": true });
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(command);
        config["linux"]["cgroupsPath"] = format!("{}/{name}", self.cgroup).into();
        let bind = json!({
            "destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"],
        });
        let work = json!({
            "destination": "/work", "type": "bind", "source": self.lab.work(),
            "options": ["rbind", "rw"],
        });
        config["mounts"].as_array_mut().expect("mounts").extend([bind, work]);
        edit(&mut config);
        fs::write(file, config.to_string()).expect("own file");
        path
    }

    /// The supervisors of this host's containers.
    pub fn supervisors(&self) -> Vec<Pid> {
        self.processes("--supervise=serve")
    }

    /// This host's processes that have an argument which begins like this.
    pub fn processes(&self, beginning: &str) -> Vec<Pid> {
        let own = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let is_one = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word.starts_with(beginning.as_bytes()))
                && own(*pid) == own(self.init)
        };
        processes().filter(is_one).map(Pid::from_raw).collect()
    }

    /// Removes what a killed runtime has left of its cgroups, which is empty.
    pub fn remove_empty_cgroups(&self) {
        let parent = format!("/proc/{}/root/sys/fs/cgroup{}", self.init, self.cgroup);
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
    }

    /// What is left of containers: state, pins, cgroups, supervisors.
    pub fn left(&self) -> Vec<String> {
        let inside = |path: &str| PathBuf::from(format!("/proc/{}/root{path}", self.init));
        let names = |directory: PathBuf| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        };
        let state = names(self.path("state")).chain(names(inside("/run/interceptor/oci")));
        let pins = names(inside("/sys/fs/bpf/interceptor"));
        let cgroups = names(inside(&format!("/sys/fs/cgroup{}", self.cgroup)));
        // Podman's monitors stay in one of theirs.
        let cgroups = cgroups.filter(|entry| entry.file_name() != "conmon");
        let all = state.chain(pins).chain(cgroups);
        let mut left: Vec<String> = all.map(|entry| entry.path().display().to_string()).collect();
        left.extend(self.supervisors().iter().map(|pid| format!("supervisor {pid}")));
        left
    }

    /// Waits until nothing is left of containers.
    ///
    /// # Panics
    /// If something stays.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let deadline = Instant::now() + LIMIT;
        while !self.left().is_empty() {
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "left: {:#?}\n{}", self.left(), log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let mounts = fs::read_to_string("/proc/mounts").expect("procfs");
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|fields| fields[2] == "cgroup2").expect("cgroup v2")[1].to_owned();
        let cgroup = Path::new(&mount).join(&self.cgroup[1..]);
        let deadline = Instant::now() + LIMIT;
        while cgroup.exists() && Instant::now() < deadline {
            remove(&cgroup);
            thread::sleep(Duration::from_millis(5));
        }
        let files = fs::read_dir(self.path("runs")).into_iter().flatten().flatten();
        let mut heard: Vec<u8> =
            files.filter_map(|file| fs::read(file.path()).ok()).flatten().collect();
        heard.extend(fs::read(self.path("log")).unwrap_or_default());
        self.lab.ran(heard, &self.path("audit"));
    }
}

/// Removes a tree of cgroups, as far as they are empty.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

/// Waits for a condition.
///
/// # Panics
/// If it does not come true.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not so for {LIMIT:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Makes a root file system: links into `/usr`, to be mounted, and a bundle of roots of its own.
///
/// # Panics
/// If it cannot be made.
pub fn root_of(lab: &Lab, root: &Path) {
    for name in ["etc/ssl/certs", "usr", "tmp", "work", "proc", "sys", "dev", "run"] {
        fs::create_dir_all(root.join(name)).expect("own directory");
    }
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        if fs::symlink_metadata(Path::new("/").join(name)).is_ok() {
            symlink(format!("usr/{name}"), root.join(name)).expect("own directory");
        }
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n",
    )
    .expect("own directory");
    fs::write(root.join("etc/ssl/certs/ca-certificates.crt"), lab.ca().pem())
        .expect("own directory");
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))
        .expect("own directory");
}
