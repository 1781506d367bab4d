//! Podman containers with the hook as shipped (`contrib/oci`); each test has its own storage.
//!
//! The image is built here and is small: links into the host's `/usr`, mounted read-only, and its
//! own bundle of roots. Engines know only the usual path of cgroup v2; on a host that has it
//! elsewhere, podman gets a mount namespace with the usual path, and containers get no cgroup of
//! their own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Finished, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::engines::root_of;
use crate::lab::{Lab, Run, Sweep};
use crate::outcome::Outcome;
use crate::running::{Output, Running, processes};
use crate::sandbox::{binary, client};

/// The image's name.
pub const IMAGE: &str = "localhost/lab:latest";
/// The time limit of a container.
const LIMIT: Duration = Duration::from_secs(120);
/// The time limit for cleaning up after a container's end.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// An engine with an image, and the hook installed.
#[derive(Debug)]
pub struct Engine<'lab> {
    lab: &'lab Lab,
    /// The directory of all of podman's and the hook's files.
    directory: PathBuf,
    hook: String,
    options: Vec<String>,
}

/// A container that runs.
#[derive(Debug)]
pub struct Started<'lab> {
    lab: &'lab Lab,
    /// Podman's process, which lives as long as the container.
    pub running: Running<'lab>,
    state: PathBuf,
    log: PathBuf,
}

impl<'lab> Engine<'lab> {
    /// With this policy, called `lab`, and `host` at the lab's origins.
    ///
    /// # Panics
    /// If podman is missing or cannot make the image.
    pub fn new(lab: &'lab Lab, policy: &Value, host: &str) -> Engine<'lab> {
        static ENGINES: AtomicUsize = AtomicUsize::new(0);
        let number = ENGINES.fetch_add(1, Ordering::SeqCst);
        let directory = lab.directory().join(format!("engine-{number}"));
        let engine = Engine {
            lab,
            directory,
            hook: "podman.json".into(),
            options: vec![
                "--upstream-ca".into(),
                lab.directory().join("upstream-ca.pem").display().to_string(),
                "--resolve".into(),
                format!("{host}:443:{}", lab.origin()),
                "--resolve".into(),
                format!("{host}:80:{}", lab.plain()),
                "--resolve".into(),
                format!("evil.test:{}", lab.forbidden()),
            ],
        };
        for name in ["policies", "hooks", "rootfs", "state"] {
            fs::create_dir_all(engine.path(name)).expect("own directory");
            fs::set_permissions(engine.path(name), fs::Permissions::from_mode(0o755))
                .expect("own directory");
        }
        // Keep locks in its own files: all engines share those in shared memory.
        let configuration = "[engine]\nlock_type = \"file\"\nevents_logger = \
                             \"none\"\ncgroup_manager = \"cgroupfs\"\n";
        fs::write(engine.path("containers.conf"), configuration).expect("own directory");
        engine.policy("lab", &policy.to_string());
        engine.image();
        engine
    }

    /// Calls the hook as in another file of `contrib/oci`.
    #[must_use]
    pub fn hook(mut self, file: &str) -> Self {
        self.hook = file.into();
        self
    }

    /// Adds an argument of the hook.
    #[must_use]
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    /// Puts a policy into the operator's directory.
    pub fn policy(&self, name: &str, text: &str) {
        self.lab.permits(text);
        let path = self.path("policies").join(format!("{name}.json"));
        fs::write(&path, text).expect("own directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("own file");
    }

    /// A path of this engine.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn image(&self) {
        let root = self.path("rootfs");
        root_of(self.lab, &root);
        let archive = self.path("image.tar");
        let made =
            Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
        assert!(made.expect("tar").success());
        let archive = archive.display().to_string();
        let imported = self.podman(&["import", "--quiet", &archive, "lab"]);
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    }

    /// A command of podman.
    fn command(&self, hooks: &Path) -> Command {
        let usual = nix::sys::statfs::statfs("/sys/fs/cgroup")
            .expect("a cgroup file system")
            .filesystem_type();
        let mut command = if usual == nix::sys::statfs::CGROUP2_SUPER_MAGIC {
            Command::new("podman")
        } else {
            let mut command = Command::new("unshare");
            let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec podman \"$@\"";
            command.args(["--mount", "--propagation", "private", "sh", "-c", script, "podman"]);
            command
        };
        for (option, name) in [("--root", "storage"), ("--runroot", "runroot"), ("--tmpdir", "tmp")]
        {
            command.arg(option).arg(self.path(name));
        }
        command.args(["--storage-driver", "vfs"]).arg("--hooks-dir").arg(hooks);
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a podman command that starts no container.
    ///
    /// # Panics
    /// When there is no podman.
    pub fn podman<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        self.command(&self.path("hooks")).args(arguments).output().expect("podman is installed")
    }

    /// Runs a command in a container with these further options of `podman run`, to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, options: &[&str], command: &[S]) -> Outcome {
        self.start(options, command).finish()
    }

    /// Runs a shell script in a container under the lab's policy.
    #[track_caller]
    pub fn shell(&self, options: &[&str], script: &str) -> Outcome {
        let mut all = vec!["--annotation", "io.interceptor.policy=lab"];
        all.extend(options);
        self.run(&all, &["/bin/sh", "-c", script])
    }

    /// Runs a Python program in a container under the lab's policy.
    #[track_caller]
    pub fn python(&self, options: &[&str], program: &str) -> Outcome {
        let mut all = vec!["--annotation", "io.interceptor.policy=lab"];
        all.extend(options);
        self.run(&all, &["/usr/bin/python3", "-c", program])
    }

    /// Starts a command in a container.
    ///
    /// # Panics
    /// When there is no podman.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(&self, options: &[&str], command: &[S]) -> Started<'lab> {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let number = RUNS.fetch_add(1, Ordering::SeqCst);
        let (audit, log) =
            (self.path(&format!("audit-{number}")), self.path(&format!("log-{number}")));
        let (hooks, state) = (self.path(&format!("hooks-{number}")), self.path("state"));
        fs::create_dir(&hooks).expect("own directory");
        fs::write(hooks.join("interceptor.json"), self.hook_file(&state, &audit, &log))
            .expect("own directory");
        // Only written blocks.
        fs::File::create(&audit).expect("own directory");
        let sweep = format!("sweep-container-{number}");

        let mut podman = self.command(&hooks);
        podman.args(["run", "--rm", "--pull", "never"]);
        if !options.contains(&"--network") {
            podman.args(["--network", "none"]);
        }
        // The engine's default may be more than this host grants.
        podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        if !podman.get_program().eq("podman") {
            podman.arg("--cgroups=disabled");
        }
        let mut volume = |from: &Path, to: &str| {
            let mut value = OsString::from(from);
            value.push(":");
            value.push(to);
            podman.arg("--volume").arg(value);
        };
        volume(Path::new("/usr"), "/usr:ro");
        volume(&client(), "/lab-client:ro");
        volume(&self.lab.work(), "/work");
        podman.args(["--workdir", "/work"]).args(options).arg(IMAGE);
        podman.args(["/lab-client", "wrap", &format!("/work/{sweep}"), "--"]).args(command);
        let mut child = podman.spawn().expect("podman is installed");
        let stdout = Output::of(child.stdout.take().expect("piped"));
        let stderr = Output::of(child.stderr.take().expect("piped"));
        let running = Running {
            lab: self.lab,
            deadline: Instant::now() + LIMIT,
            sweep: Some(Sweep {
                file: self.lab.work().join(sweep),
                isolated: true,
                required: true,
            }),
            child,
            stdin: None,
            stdout,
            stderr,
            audit,
            ended: false,
        };
        Started { lab: self.lab, running, state, log }
    }

    /// The file of `contrib/oci` with this engine's paths.
    fn hook_file(&self, state: &Path, audit: &Path, log: &Path) -> String {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/oci").join(&self.hook);
        let mut hook: Value =
            serde_json::from_str(&fs::read_to_string(shipped).expect("contrib/oci")).expect("JSON");
        let path = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = vec!["interceptor".into(), "oci-hook".into()];
        for (option, value) in [
            ("--policies", &*self.path("policies")),
            ("--state", state),
            ("--audit", audit),
            ("--log", log),
        ] {
            arguments.extend([option.into(), path(value)]);
        }
        arguments.extend(self.options.iter().cloned());
        hook["hook"]["path"] = path(&binary("interceptor")).into();
        hook["hook"]["args"] = arguments.into();
        hook["hook"]["env"] = json!(["RUST_LOG=trace", "NO_COLOR=1", "RUST_BACKTRACE=1"]);
        hook.to_string()
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        let removed = self.podman(&["rm", "--all", "--force", "--time", "0"]);
        for pid in of_state(&self.path("state")) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        if !removed.status.success() {
            let _ = std::io::stderr().write_all(&removed.stderr);
        }
    }
}

impl Started<'_> {
    /// The supervisors of this engine's containers.
    pub fn supervisors(&self) -> Vec<Pid> {
        of_state(&self.state)
    }

    /// Waits for the container's end, and until the hook has cleaned up after it.
    ///
    /// # Panics
    /// If that takes too long.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        while !matches!(self.running.child.try_wait(), Ok(Some(_)))
            && Instant::now() < self.running.deadline
        {
            thread::sleep(Duration::from_millis(10));
        }
        let deadline = Instant::now() + GONE_WITHIN;
        let left =
            || fs::read_dir(&self.state).map_or(0, Iterator::count) + of_state(&self.state).len();
        while left() > 0 {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < deadline, "something is left of the container:\n{}", log());
            thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read(&self.log).unwrap_or_default();
        self.lab.ended(Run {
            transcript: vec![("the hook's log", log.clone())],
            audit: vec![],
            sweep: None,
        });
        let mut outcome = self.running.finish();
        // For the messages of failed tests.
        outcome.stderr.extend(log);
        outcome
    }
}

/// The supervisors whose state is in that directory.
fn of_state(state: &Path) -> Vec<Pid> {
    let state = state.as_os_str().as_encoded_bytes();
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0);
        arguments.clone().any(|argument| argument == b"--supervise")
            && arguments.any(|argument| argument == state)
    };
    processes().filter(is_one).map(Pid::from_raw).collect()
}
