//! One test's world, and the three oracles that judge every test at its end:
//!
//! - *reach*: nothing but the permitted destinations received a byte, and an isolated sandbox has no device but `lo`;
//! - *canary*: no real key, raw or encoded, is in anything the sandbox could read: what its client received, the files
//!   it wrote, its readable `/proc`, nor in the product's logs at trace level or its audit file;
//! - *agreement*: the requests that the audit file says were allowed are those the origins parsed, in order.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};
use tokio_rustls::server::TlsStream;

use crate::audit::Record;
use crate::authority::{Authority, Flaw};
use crate::canary;
use crate::daemon::ToServe;
use crate::origin::listen::{Listener, Recorder};
use crate::origin::names::NameServer;
use crate::origin::record::Seen;
use crate::origin::{Origin, Shared};
use crate::sandbox::Sandbox;

/// One test's world.
#[derive(Debug)]
pub struct Lab {
    runtime: Runtime,
    directory: TempDir,
    authority: Arc<Authority>,
    shared: Arc<Shared>,
    origin: Origin,
    plain: Origin,
    forbidden: Recorder,
    key: String,
    keys: Mutex<Vec<String>>,
    runs: Mutex<Vec<Run>>,
    leniency: Mutex<Leniency>,
}

/// What the oracles need of one run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) transcript: Vec<(&'static str, Vec<u8>)>,
    pub(crate) audit: Vec<Record>,
    /// The sweep that the wrapper must have left, and whether the sandbox had a network of its own.
    pub(crate) sweep: Option<(PathBuf, bool)>,
}

/// Where a test cannot hold the product to a whole oracle, and says so.
#[derive(Debug, Default)]
struct Leniency {
    unordered: bool,
    unseen: Vec<String>,
    tunnelled: Vec<String>,
    audit_lost: bool,
}

impl Lab {
    /// Runs a test in a fresh lab, then the oracles.
    ///
    /// # Panics
    /// Without root, and with everything that an oracle found.
    #[track_caller]
    pub fn test(body: impl FnOnce(&Lab)) {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes cgroups and namespaces and loads eBPF: it needs root. Run `cargo xtask test`, which calls sudo"
        );
        let lab = Lab::new(&["h2", "http/1.1"]);
        body(&lab);
        let problems = lab.judge();
        assert!(problems.is_empty(), "the oracles object:\n{}", problems.join("\n"));
    }

    /// A lab without the oracles, for the demonstration. `protocols`: what the TLS origin offers by ALPN.
    pub fn new(protocols: &[&str]) -> Lab {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.handle().clone();
        let directory = tempfile::Builder::new().prefix("interceptor-lab-").tempdir().expect("a directory");
        let open = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(directory.path(), open(0o755)).expect("own directory");
        fs::create_dir(directory.path().join("work")).expect("own directory");
        fs::set_permissions(directory.path().join("work"), open(0o777)).expect("own directory");
        let authority = Arc::new(Authority::new());
        fs::write(directory.path().join("upstream-ca.pem"), authority.pem()).expect("own directory");
        let shared = Arc::new(Shared::default());
        let key = canary::key();
        Lab {
            origin: Origin::tls(&handle, shared.clone(), authority.clone(), protocols, vec![]),
            plain: Origin::plain(&handle, shared.clone()),
            forbidden: Recorder::start(&handle),
            keys: Mutex::new(vec![key.clone()]),
            runs: Mutex::default(),
            leniency: Mutex::default(),
            runtime,
            directory,
            authority,
            shared,
            key,
        }
    }

    /// The real key of this test.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A file, readable by root alone, that holds the real key and a newline.
    pub fn key_file(&self) -> PathBuf {
        self.secret_file("key", &format!("{}\n", self.key))
    }

    /// Another fresh real key; the canary oracle looks for it too.
    pub fn another_key(&self) -> String {
        let key = canary::key();
        self.keys.lock().expect("no test thread panicked").push(key.clone());
        key
    }

    /// A file with mode 0600.
    pub fn secret_file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        std::io::Write::write_all(&mut file.expect("own directory"), content.as_bytes())
            .expect("own directory");
        path
    }

    /// A policy: `host` is allowed and governed by the credential `lab` (variable `LAB_API_KEY`) with these endpoint rules.
    pub fn governed(&self, host: &str, endpoints: Value) -> Value {
        json!({
            "network": { "allow": [host] },
            "credentials_v2": { "lab": {
                "key": { "file": self.key_file() }, "hosts": [host], "env": "LAB_API_KEY", "endpoints": endpoints,
            } },
        })
    }

    /// A sandbox with this policy, to be configured further.
    pub fn sandbox(&self, policy: &Value) -> Sandbox<'_> {
        Sandbox::new(self, policy.to_string())
    }

    /// A daemon, to be configured further.
    pub fn daemon(&self) -> ToServe<'_> {
        ToServe::new(self)
    }

    /// A sandbox with a policy that is this text, be it JSON or not.
    pub fn sandbox_with_text(&self, policy: &str) -> Sandbox<'_> {
        Sandbox::new(self, policy.to_owned())
    }

    /// The directory of the test; root's.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The working directory of the sandboxes; anyone may write.
    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// The TLS origin.
    pub fn origin(&self) -> SocketAddr {
        self.origin.address()
    }

    /// The origin in the clear.
    pub fn plain(&self) -> SocketAddr {
        self.plain.address()
    }

    /// The destination that must receive nothing.
    pub fn forbidden(&self) -> SocketAddr {
        self.forbidden.address()
    }

    /// Another TLS origin: these ALPN names, these bad certificates.
    pub fn another_origin(&self, protocols: &[&str], flaws: Vec<(String, Flaw)>) -> Origin {
        Origin::tls(self.handle(), self.shared.clone(), self.authority.clone(), protocols, flaws)
    }

    /// A TLS origin that answers with these bytes.
    pub fn scripted(&self, answer: &'static [u8]) -> Listener {
        Listener::scripted(self.handle(), self.shared.clone(), self.authority.clone(), answer)
    }

    /// A TLS origin that hands the first request of each connection, its head as text, and the connection to `talk`.
    pub fn talking<F>(
        &self,
        talk: impl Fn(String, TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
    ) -> Listener
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        Listener::talking(self.handle(), self.shared.clone(), self.authority.clone(), talk)
    }

    /// A name server with this table.
    pub fn names(&self, table: &[(&str, &[&[IpAddr]])]) -> NameServer {
        NameServer::start(self.handle(), table)
    }

    /// The lab's authority.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Where the lab's servers run.
    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// What the origins share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Every request that an origin parsed, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.records.all()
    }

    /// Forgets every request so far: for measurements, whose requests nobody looks at.
    pub fn forget(&self) {
        self.shared.records.clear();
    }

    /// Opens the gate of one `/gated` answer.
    pub fn open_gate(&self) {
        self.shared.gate.notify_one();
    }

    /// This test makes requests at the same time: the agreement oracle compares without order.
    pub fn unordered(&self) {
        self.leniency.lock().expect("no test thread panicked").unordered = true;
    }

    /// Requests to `host` go through a tunnel, so that no audit record tells of each.
    pub fn tunnelled(&self, host: &str) {
        self.leniency.lock().expect("no test thread panicked").tunnelled.push(host.to_owned());
    }

    /// `host` is at an origin that is not the lab's, so that nothing tells what it parsed.
    pub fn unseen(&self, host: &str) {
        self.leniency.lock().expect("no test thread panicked").unseen.push(host.to_owned());
    }

    /// This test kills the interceptor: its last records may be lost, but nothing may be recorded that did not happen.
    pub fn audit_may_be_lost(&self) {
        self.leniency.lock().expect("no test thread panicked").audit_lost = true;
    }

    pub(crate) fn ended(&self, run: Run) {
        self.runs.lock().expect("no test thread panicked").push(run);
    }

    /// What the three oracles object to.
    pub fn judge(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.judge_reach(&mut problems);
        self.judge_canary(&mut problems);
        self.judge_agreement(&mut problems);
        problems
    }

    fn judge_reach(&self, problems: &mut Vec<String>) {
        if let Some(reached) = self.forbidden.reached() {
            problems.push(format!("reach: the forbidden destination received {reached}"));
        }
        for (path, isolated) in
            self.runs.lock().expect("no test thread panicked").iter().filter_map(|run| run.sweep.as_ref())
        {
            let Ok(sweep) = fs::read(path) else {
                problems.push(format!("canary: the sweep of a sandbox is missing: {}", path.display()));
                continue;
            };
            let text = String::from_utf8_lossy(&sweep);
            let devices = text
                .split("== /proc/net/dev\n")
                .nth(1)
                .map(|part| part.split("\n== ").next().unwrap_or(part));
            let other = devices
                .unwrap_or("the sweep lists no devices: x")
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(device, _)| device.trim() != "lo");
            if let (true, Some((device, _))) = (isolated, other) {
                problems.push(format!("reach: an isolated sandbox had the network device {device:?}"));
            }
        }
    }

    fn judge_canary(&self, problems: &mut Vec<String>) {
        let keys = self.keys.lock().expect("no test thread panicked");
        let search = canary::Search::new(keys.iter().map(String::as_str));
        for run in self.runs.lock().expect("no test thread panicked").iter() {
            for (what, bytes) in &run.transcript {
                problems.extend(search.find(bytes).map(|found| format!("canary: in {what}: {found}")));
            }
        }
        for file in files_below(&self.work()) {
            let found = fs::read(&file).ok().and_then(|bytes| search.find(&bytes));
            problems.extend(found.map(|found| format!("canary: in {}: {found}", file.display())));
        }
    }

    fn judge_agreement(&self, problems: &mut Vec<String>) {
        let leniency = self.leniency.lock().expect("no test thread panicked");
        let runs = self.runs.lock().expect("no test thread panicked");
        let records = || runs.iter().flat_map(|run| &run.audit).filter(|record| record.kind == "request");
        let mut allowed: Vec<String> =
            records().filter(|r| r.is_request("allow")).map(Record::line).collect();
        allowed.retain(|line| !leniency.unseen.iter().any(|host| line.contains(&format!(" {host}/"))));
        // A request that the policy permits and the origin received, but whose answer failed, is recorded as refused for
        // the origin's fault: the origin may or may not have parsed it.
        let failed = |record: &&Record| {
            record.is_request("deny")
                && record.reason.as_deref().is_some_and(|reason| reason.starts_with("upstream_"))
        };
        let mut faults: BTreeMap<String, usize> = BTreeMap::new();
        for record in records().filter(failed) {
            *faults.entry(record.line()).or_default() += 1;
        }
        let mut seen: Vec<String> = self.seen().iter().map(Seen::line).collect();
        seen.retain(|line| {
            let tunnelled = leniency.tunnelled.iter().any(|host| line.contains(&format!(" {host}/")));
            let fault = faults.get_mut(line).filter(|left| **left > 0);
            let excused = fault.is_some();
            if let Some(left) = fault {
                *left -= 1;
            }
            !tunnelled && !excused
        });
        if leniency.unordered {
            allowed.sort();
            seen.sort();
        }
        if leniency.audit_lost && leniency.unordered {
            let mut told = allowed.clone();
            seen.retain(|line| {
                told.iter().position(|known| known == line).map(|at| told.swap_remove(at)).is_some()
            });
        } else if leniency.audit_lost {
            seen.truncate(allowed.len());
        }
        if allowed != seen {
            let text =
                |lines: &[String]| lines.iter().map(|line| format!("\n    {line}")).collect::<String>();
            problems.push(format!(
                "agreement: the audit file allowed {} requests:{}\n  the origins parsed {}:{}",
                allowed.len(),
                text(&allowed[..allowed.len().min(40)]),
                seen.len(),
                text(&seen[..seen.len().min(40)])
            ));
        }
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}
