//! The real binary, `interceptor run`, with a policy and a command, started as by a user.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::fetch::{Plan, Report};
use crate::lab::{Lab, Road, Sweep};
use crate::outcome::Outcome;
use crate::people;
use crate::running::{Output, Running};

/// A run, not yet started: a policy, options, an environment.
#[derive(Debug)]
pub struct Sandbox<'lab> {
    lab: &'lab Lab,
    policy: String,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Option<Vec<u8>>,
    piped: bool,
    bare: bool,
    trusted: bool,
    host_net: bool,
    audit: Option<OsString>,
    resolver: Option<SocketAddr>,
    limit: Duration,
}

impl<'lab> Sandbox<'lab> {
    pub(crate) fn new(lab: &'lab Lab, policy: String) -> Sandbox<'lab> {
        let environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LANG", "C.UTF-8"),
            ("RUST_BACKTRACE", "1"),
            ("RUST_LOG", "trace"),
            ("NO_COLOR", "1"),
        ];
        Sandbox {
            lab,
            policy,
            options: vec![],
            environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
            input: None,
            piped: false,
            bare: false,
            trusted: false,
            host_net: false,
            audit: None,
            resolver: None,
            limit: Duration::from_secs(60),
        }
    }

    /// `name` is at the lab's origins: over TLS on port 443, in the clear on port 80. On other
    /// ports it resolves to the destination that must receive nothing.
    #[must_use]
    pub fn at_origin(self, name: &str) -> Self {
        let (tls, plain, forbidden) = (self.lab.origin(), self.lab.plain(), self.lab.forbidden());
        let own = self.resolve(&format!("{name}:443"), tls).resolve(&format!("{name}:80"), plain);
        own.resolve(name, forbidden)
    }

    /// `name` resolves to the destination that must receive nothing, on every port.
    #[must_use]
    pub fn at_forbidden(self, name: &str) -> Self {
        let address = self.lab.forbidden();
        self.resolve(name, address)
    }

    /// `--resolve NAME[:PORT]:ADDRESS`.
    #[must_use]
    pub fn resolve(self, name: &str, address: SocketAddr) -> Self {
        self.option("--resolve").option(format!("{name}:{address}"))
    }

    /// An option of `interceptor run`.
    #[must_use]
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// `--user USER`. Without sudo, the user is always the member.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        match self.lab.road() {
            Road::Root => self.option("--user").option(user),
            Road::Daemon => self,
        }
    }

    /// `--net host`.
    #[must_use]
    pub fn host_net(mut self) -> Self {
        self.host_net = true;
        self.option("--net").option("host")
    }

    /// A variable in the environment of the interceptor.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Logs at the default level instead of trace, for tests that move gigabytes or check standard
    /// error.
    #[must_use]
    pub fn quiet_log(mut self) -> Self {
        self.environment.retain(|(name, _)| name != "RUST_LOG");
        self
    }

    /// The standard input of the command.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Leaves standard input open, for [`Running::write`].
    #[must_use]
    pub fn open_stdin(mut self) -> Self {
        self.piped = true;
        self
    }

    /// Starts the command without the wrapper that sweeps the sandbox afterwards, for tests of
    /// signals, exit statuses and process trees.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Types `interceptor trust` for the policy before, which one that names programs needs.
    #[must_use]
    pub fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Writes audit records to this file, `-` for standard error, instead of the lab's file, which
    /// the oracles read.
    #[must_use]
    pub fn audit_to(mut self, file: &str) -> Self {
        self.audit = Some(file.into());
        self
    }

    /// Makes the interceptor resolve names with this server (port 53): starts it in a mount
    /// namespace with a matching `/etc/resolv.conf`.
    #[must_use]
    pub fn resolver(mut self, server: SocketAddr) -> Self {
        self.resolver = Some(server);
        self
    }

    /// The time limit; by default a minute.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it takes too long, or the product's binary is missing.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(self, command: &[S]) -> Outcome {
        self.start(command).finish()
    }

    /// Runs a shell script to its end.
    #[track_caller]
    pub fn shell(self, script: &str) -> Outcome {
        self.run(&["sh", "-c", script])
    }

    /// Runs a Python program to its end, with Debian's interpreter: others may be in a home that a
    /// sandbox cannot read.
    #[track_caller]
    pub fn python(self, program: &str) -> Outcome {
        self.run(&["/usr/bin/python3", "-c", program])
    }

    /// Runs a plan of requests with the lab's client; returns one report per connection.
    #[track_caller]
    pub fn fetch(self, plan: &Plan) -> Vec<Report> {
        self.fetch_outcome(plan).0
    }

    /// [`Sandbox::fetch`], and the outcome of the run.
    #[track_caller]
    pub fn fetch_outcome(self, plan: &Plan) -> (Vec<Report>, Outcome) {
        let client = client();
        let plan = serde_json::to_string(plan).expect("a plan is plain data");
        let outcome = self.stdin(plan).run(&[client.as_os_str(), OsStr::new("fetch")]);
        outcome.success();
        match serde_json::from_slice(&outcome.stdout) {
            Ok(reports) => (reports, outcome),
            Err(error) => panic!("{error}: {}\n{}", outcome.out(), outcome.tail()),
        }
    }

    /// Sends bytes with the lab's client to `HOST:PORT`, over TLS if a name is given, and returns
    /// the answer up to the other side's close.
    #[track_caller]
    pub fn send(self, to: &str, sni: Option<&str>, bytes: &[u8]) -> Outcome {
        let client = client();
        let mut command = vec![client.as_os_str(), OsStr::new("raw"), OsStr::new(to)];
        command.extend(sni.map(OsStr::new));
        self.stdin(bytes).run(&command)
    }

    /// Starts a command.
    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(self, command: &[S]) -> Running<'lab> {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let number = RUNS.fetch_add(1, Ordering::SeqCst);
        let directory = self.lab.directory();
        self.lab.permits(&self.policy);
        let policy = self.lab.secret_file(&format!("policy-{number}.json"), &self.policy);
        let audit = directory.join(format!("audit-{number}.jsonl"));
        let sweep = self.lab.work().join(format!("sweep-{number}"));
        let binary = binary("interceptor");
        let mut process = match self.lab.member() {
            None => Command::new("env"),
            Some(member) => member.command("env"),
        };
        // The parent of the tests may ignore signals (a background job, nohup), and a command
        // inherits that.
        process.arg("--default-signal");
        match self.resolver {
            None => {
                process.arg(&binary);
            }
            Some(server) => {
                let file = directory.join(format!("resolv-{number}.conf"));
                fs::write(
                    &file,
                    format!("nameserver {}\noptions timeout:1 attempts:1\n", server.ip()),
                )
                .expect("own directory");
                let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
                process
                    .args(["unshare", "--mount", "--propagation", "private", "sh", "-c", script])
                    .arg(file)
                    .arg(&binary);
            }
        }
        process.arg("run").arg("--policy").arg(&policy);
        let mut state = directory.join("state");
        if let Some(member) = self.lab.member() {
            process.arg("--daemon").arg(member.socket());
            state = member.own_directory(directory, "member-state");
            member.own_file(&audit);
            // What root keeps for the test the member keeps here.
            member.own_secrets(directory);
        }
        process.arg("--audit").arg(self.audit.as_deref().unwrap_or(audit.as_os_str()));
        process
            .arg("--upstream-ca")
            .arg(directory.join("upstream-ca.pem"))
            .args(&self.options)
            .arg("--");
        if !self.bare {
            process.arg(client()).arg("wrap").arg(&sweep).arg("--");
        }
        process.args(command).current_dir(self.lab.work());
        process.env_clear().env("HOME", self.lab.work());
        process.env("XDG_STATE_HOME", &state).envs(self.environment);
        if self.trusted {
            let mut trust = Command::new(&binary);
            trust.arg("trust").arg(&policy).env_clear().env("HOME", self.lab.work());
            people::out(&trust.env("XDG_STATE_HOME", &state).output().expect("the binary"));
        }
        let piped = self.piped || self.input.is_some();
        process.stdin(if piped { Stdio::piped() } else { Stdio::null() });
        let child = process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let stdout = Output::of(child.stdout.take().expect("piped"));
        let stderr = Output::of(child.stderr.take().expect("piped"));
        let mut stdin = child.stdin.take();
        if let (Some(bytes), Some(mut pipe)) = (self.input, stdin.take_if(|_| !self.piped)) {
            // In a thread, because a command that never reads must not block the test. The command
            // may close the pipe.
            thread::spawn(move || pipe.write_all(&bytes));
        }
        Running {
            lab: self.lab,
            deadline: Instant::now() + self.limit,
            sweep: (!self.bare).then_some(Sweep {
                file: sweep,
                isolated: !self.host_net,
                required: true,
            }),
            child,
            stdin,
            stdout,
            stderr,
            audit,
            ended: false,
        }
    }
}

/// The product's binary, or another one of the workspace: beside the test binary, or at
/// `INTERCEPTOR_BIN`.
///
/// # Panics
/// If it is missing: `cargo xtask test` builds it.
#[track_caller]
pub fn binary(name: &str) -> PathBuf {
    if let (Some(path), "interceptor") = (std::env::var_os("INTERCEPTOR_BIN"), name) {
        return path.into();
    }
    let own = std::env::current_exe().expect("this test is a file");
    let directory = own.parent().expect("a file has a directory");
    let directory = if directory.ends_with("deps") {
        directory.parent().expect("target/PROFILE")
    } else {
        directory
    };
    let path = directory.join(name);
    assert!(path.exists(), "{} is not built: run `cargo xtask test`", path.display());
    path
}

/// The lab's client, at a path that an unprivileged sandbox can reach.
pub fn client() -> PathBuf {
    // The tests of one process run in parallel, so only one of them copies.
    static CLIENT: OnceLock<PathBuf> = OnceLock::new();
    CLIENT.get_or_init(reachable_client).clone()
}

fn reachable_client() -> PathBuf {
    let built = binary("lab-client");
    let open = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o001 != 0);
    if built.ancestors().all(open) {
        return built;
    }
    // The checkout may be in a home directory, so the sandbox gets a copy, made once per build.
    let built_at = fs::metadata(&built).map(|metadata| metadata.mtime()).unwrap_or_default();
    let copy = std::env::temp_dir().join(format!("interceptor-lab-client-{built_at}"));
    if !copy.exists() {
        let partial = copy.with_extension(std::process::id().to_string());
        fs::copy(&built, &partial).expect("a copy of the lab's client");
        fs::rename(&partial, &copy).expect("a copy of the lab's client");
    }
    copy
}
