//! Private cgroups of a test, and guests: cgroups that a daemon has put under enforcement.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output as Finished, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::fetch::{Plan, Report};
use crate::lab::Lab;
use crate::sandbox::client;

/// A private cgroup of a test. Dropping it kills its processes, and removes it with everything
/// named after it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// Makes it.
    pub fn new() -> Cgroup {
        static CGROUPS: AtomicUsize = AtomicUsize::new(0);
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
        let mount = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&"cgroup2"))
            .map(|fields| fields[1].to_owned())
            .expect("cgroup v2 is mounted");
        let number = CGROUPS.fetch_add(1, Ordering::SeqCst);
        let path = Path::new(&mount).join(format!("lab-{}-{number}", std::process::id()));
        Cgroup::at(path)
    }

    /// Makes it at this path.
    pub fn at(path: PathBuf) -> Cgroup {
        fs::create_dir(&path).expect("a fresh cgroup");
        let id = fs::metadata(&path).expect("it was just made").ino();
        Cgroup { path, id }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id in the kernel.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Kills its processes and removes it.
    pub fn remove(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = fs::remove_dir(&self.path) {
            if error.kind() == std::io::ErrorKind::NotFound || Instant::now() > deadline {
                return;
            }
            let _ = fs::write(self.path.join("cgroup.kill"), "1");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A command that starts in it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&self.path)
            .arg(program);
        command
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Cgroup::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
        // The remains of a killed daemon.
        for kept in ["/sys/fs/bpf/interceptor", "/run/interceptor-trust"] {
            let _ = fs::remove_dir_all(Path::new(kept).join(self.id.to_string()));
        }
    }
}

/// A cgroup under enforcement, with the variables that the API gave for it.
#[derive(Debug)]
pub struct Guest<'lab> {
    /// The sandbox's id.
    pub id: String,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Its CA.
    pub ca_pem: String,
    /// The variables of its programs.
    pub env: BTreeMap<String, String>,
    lab: &'lab Lab,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl<'lab> Guest<'lab> {
    #[track_caller]
    pub(crate) fn new(
        lab: &'lab Lab,
        heard: Arc<Mutex<Vec<u8>>>,
        cgroup: Cgroup,
        made: &Value,
    ) -> Guest<'lab> {
        let text = |field: &str| {
            made[field].as_str().unwrap_or_else(|| panic!("{field}: {made}")).to_owned()
        };
        let env = serde_json::from_value(made["env"].clone()).expect("variables");
        Guest { id: text("id"), cgroup, ca_pem: text("ca_pem"), env, lab, heard }
    }

    /// A command in the sandbox, with its variables and no others.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.cgroup.command(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(&self.env);
        command
            .current_dir(self.lab.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Finished {
        let output = self.command(program).args(arguments).output().expect("a command");
        self.hear(&output);
        output
    }

    /// Runs a Python program to its end, and returns what it printed.
    #[track_caller]
    pub fn python(&self, program: &str) -> String {
        let output = self.run("/usr/bin/python3", &["-c", program]);
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    /// Starts a Python program that ends with the guest.
    pub fn python_start(&self, program: &str) -> Child {
        self.command("/usr/bin/python3").args(["-u", "-c", program]).spawn().expect("python3")
    }

    /// Runs a plan of requests with the lab's client.
    #[track_caller]
    pub fn fetch(&self, plan: &Plan) -> Vec<Report> {
        let plan = serde_json::to_vec(plan).expect("a plan is plain data");
        let mut child = self
            .command(client())
            .arg("fetch")
            .stdin(Stdio::piped())
            .spawn()
            .expect("the lab's client");
        let mut stdin = child.stdin.take().expect("piped");
        let writing = thread::spawn(move || stdin.write_all(&plan));
        let output = child.wait_with_output().expect("the lab's client");
        writing.join().expect("no panic").expect("the client reads its plan");
        self.hear(&output);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("a report")
    }

    fn hear(&self, output: &Finished) {
        let mut heard = self.heard.lock().expect("no test thread panicked");
        heard.extend_from_slice(&output.stdout);
        heard.extend_from_slice(&output.stderr);
    }
}
