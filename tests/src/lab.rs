//! One test's world, and the three oracles that judge every test at its end:
//!
//! - *reach*: nothing but the permitted destinations received a byte, no origin was asked for a
//!   name that the test did not permit, and an isolated sandbox has no device but `lo`;
//! - *canary*: no real key, raw or encoded, is in anything the sandbox could read (its client's
//!   input, the files it wrote, its readable `/proc`), in the product's logs at trace level, or in
//!   its audit file;
//! - *agreement*: the requests that the audit file calls allowed are those the origins parsed, in
//!   order.

mod oracles;
mod road;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};
use tokio_rustls::server::TlsStream;

use crate::audit::Record;
use crate::ca::{Ca, Flaw};
use crate::canary;
use crate::daemon::{Daemon, ToServe};
use crate::origin::listen::{Listener, Recorder};
use crate::origin::names::NameServer;
use crate::origin::record::Seen;
use crate::origin::{Origin, Shared};
use crate::people::Account;
use crate::sandbox::Sandbox;

pub use self::road::{Member, Road};

/// One test's world.
#[derive(Debug)]
pub struct Lab {
    runtime: Runtime,
    directory: TempDir,
    ca: Arc<Ca>,
    shared: Arc<Shared>,
    origin: Origin,
    plain: Origin,
    forbidden: Recorder,
    key: String,
    keys: Mutex<Vec<String>>,
    runs: Mutex<Vec<Run>>,
    /// Every policy of the test, as text.
    policies: Mutex<Vec<String>>,
    leniency: Mutex<Leniency>,
    /// Whose sandboxes the daemon makes; unset where they are root's.
    member: OnceLock<Member>,
}

/// What the oracles need to know about one run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) transcript: Vec<(&'static str, Vec<u8>)>,
    pub(crate) audit: Vec<Record>,
    /// The sweep that the wrapper must have left.
    pub(crate) sweep: Option<Sweep>,
}

/// What the wrapper records about a sandbox after the command.
#[derive(Clone, Debug)]
pub(crate) struct Sweep {
    pub(crate) file: PathBuf,
    /// Whether the sandbox had a network of its own.
    pub(crate) isolated: bool,
    /// Whether the wrapper finished, so that the file must exist.
    pub(crate) required: bool,
}

/// Exemptions that a test declares from an oracle.
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
    /// Without root, and if an oracle objects.
    #[track_caller]
    pub fn test(body: impl FnOnce(&Lab)) {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes cgroups and namespaces and loads eBPF: it needs root. Run `cargo \
             xtask test`, which calls sudo"
        );
        let lab = Lab::new(&["h2", "http/1.1"]);
        body(&lab);
        lab.objections();
    }

    /// Runs a test twice: its sandboxes are made by `interceptor run` as root, and then by the
    /// daemon, for an ordinary user.
    ///
    /// # Panics
    /// As [`Lab::test`].
    #[track_caller]
    pub fn test_on_both_roads(body: impl Fn(&Lab)) {
        Lab::test(&body);
        eprintln!("the same, without sudo:");
        Lab::test_without_sudo(body);
    }

    /// Runs a test whose sandboxes the daemon makes, for an ordinary user.
    ///
    /// # Panics
    /// As [`Lab::test`].
    #[track_caller]
    pub fn test_without_sudo(body: impl FnOnce(&Lab)) {
        Lab::test(|lab| {
            let account = Account::new(lab.directory());
            let daemon = lab.daemon_for(&account);
            assert!(lab.member.set(Member::of(&account, &daemon)).is_ok(), "there is one already");
            body(lab);
            daemon.finish();
        });
    }

    #[track_caller]
    fn objections(&self) {
        let problems = self.judge();
        assert!(problems.is_empty(), "the oracles object:\n{}", problems.join("\n"));
    }

    /// A daemon that makes sandboxes for this user, by any policy of the user's own.
    #[track_caller]
    pub fn daemon_for(&self, account: &Account) -> Daemon<'_> {
        let access = json!([{ "group": account.group(), "own_policies": "any-address" }]);
        let config = json!({ "group": account.group(), "access": access });
        let config = self.secret_file("daemon-members.json", &config.to_string());
        self.daemon().option("--config").option(config).start()
    }

    /// Whose sandboxes the daemon makes; `None` where they are root's.
    pub fn member(&self) -> Option<&Member> {
        self.member.get()
    }

    /// The road of the sandboxes.
    pub fn road(&self) -> Road {
        if self.member.get().is_some() { Road::Daemon } else { Road::Root }
    }

    /// A lab without the oracles, for the demonstration. `protocols`: what the TLS origin offers by
    /// ALPN.
    pub fn new(protocols: &[&str]) -> Lab {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let handle = runtime.handle().clone();
        let directory =
            tempfile::Builder::new().prefix("interceptor-lab-").tempdir().expect("a directory");
        let open = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(directory.path(), open(0o755)).expect("own directory");
        fs::create_dir(directory.path().join("work")).expect("own directory");
        fs::set_permissions(directory.path().join("work"), open(0o777)).expect("own directory");
        let ca = Arc::new(Ca::new());
        fs::write(directory.path().join("upstream-ca.pem"), ca.pem()).expect("own directory");
        let shared = Arc::new(Shared::default());
        let key = canary::key();
        Lab {
            origin: Origin::tls(&handle, shared.clone(), ca.clone(), protocols, vec![]),
            plain: Origin::plain(&handle, shared.clone()),
            forbidden: Recorder::start(&handle),
            keys: Mutex::new(vec![key.clone()]),
            runs: Mutex::default(),
            policies: Mutex::default(),
            leniency: Mutex::default(),
            member: OnceLock::new(),
            runtime,
            directory,
            ca,
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

    /// A policy: `host` is allowed and governed by the credential `lab` (variable `LAB_API_KEY`)
    /// with these endpoint rules.
    pub fn governed(&self, host: &str, endpoints: Value) -> Value {
        let policy = json!({
            "network": { "allow": [host] },
            "credentials_v2": { "lab": {
                "key": { "file": self.key_file() }, "hosts": [host], "env": "LAB_API_KEY",
                "endpoints": endpoints,
            } },
        });
        self.permits(&policy.to_string());
        policy
    }

    /// Registers a policy of this test, which tells the reach oracle what is permitted.
    pub fn permits(&self, policy: &str) {
        self.policies.lock().expect("no test thread panicked").push(policy.to_owned());
    }

    /// A sandbox with this policy, to be configured further.
    pub fn sandbox(&self, policy: &Value) -> Sandbox<'_> {
        Sandbox::new(self, policy.to_string())
    }

    /// A daemon, to be configured further.
    pub fn daemon(&self) -> ToServe<'_> {
        ToServe::new(self)
    }

    /// A sandbox with this text as its policy, valid or not.
    pub fn sandbox_with_text(&self, policy: &str) -> Sandbox<'_> {
        Sandbox::new(self, policy.to_owned())
    }

    /// The directory of the test, owned by root.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The working directory of the sandboxes, writable by anyone.
    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// The TLS origin.
    pub fn origin(&self) -> SocketAddr {
        self.origin.address()
    }

    /// The plain HTTP origin.
    pub fn plain(&self) -> SocketAddr {
        self.plain.address()
    }

    /// The destination that must receive nothing.
    pub fn forbidden(&self) -> SocketAddr {
        self.forbidden.address()
    }

    /// Another TLS origin with these ALPN names and bad certificates.
    pub fn another_origin(&self, protocols: &[&str], flaws: Vec<(String, Flaw)>) -> Origin {
        Origin::tls(self.handle(), self.shared.clone(), self.ca.clone(), protocols, flaws)
    }

    /// A TLS origin that asks for a certificate of this root (PEM), and requires one if `required`.
    pub fn mutual_origin(&self, protocols: &[&str], root: (&str, bool)) -> Origin {
        Origin::mutual(self.handle(), self.shared.clone(), self.ca.clone(), protocols, root)
    }

    /// Has the canary oracle look for this text too.
    pub fn hides(&self, text: &str) {
        self.keys.lock().expect("no test thread panicked").push(text.to_owned());
    }

    /// A TLS origin that answers with these bytes.
    pub fn scripted(&self, answer: &'static [u8]) -> Listener {
        Listener::scripted(self.handle(), self.shared.clone(), self.ca.clone(), answer)
    }

    /// A TLS origin that passes each connection to `talk`, with the head of its first request as
    /// text.
    pub fn talking<F>(
        &self,
        talk: impl Fn(String, TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
    ) -> Listener
    where
        F: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        Listener::talking(self.handle(), self.shared.clone(), self.ca.clone(), talk)
    }

    /// A name server with this table.
    pub fn names(&self, table: &[(&str, &[&[IpAddr]])]) -> NameServer {
        NameServer::start(self.handle(), table)
    }

    /// The lab's CA.
    pub fn ca(&self) -> &Arc<Ca> {
        &self.ca
    }

    /// The runtime of the lab's servers.
    pub fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// The state that the origins share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Every request that an origin parsed, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.records.all()
    }

    /// Forgets every request so far, for measurements, whose requests are not checked.
    pub fn forget(&self) {
        self.shared.records.clear();
    }

    /// Opens the gate of one `/gated` answer.
    pub fn open_gate(&self) {
        self.shared.gate.notify_one();
    }

    /// Has every `/said` answer, begun or not, say this; an empty piece ends them.
    pub fn say(&self, piece: impl Into<Vec<u8>>) {
        let piece = piece.into();
        self.shared.said.send_modify(|said| said.push(piece.into()));
    }

    /// This test sends concurrent requests: the agreement oracle ignores their order.
    pub fn unordered(&self) {
        self.leniency.lock().expect("no test thread panicked").unordered = true;
    }

    /// Requests to `host` go through a tunnel, so they have no audit records.
    pub fn tunnelled(&self, host: &str) {
        self.leniency.lock().expect("no test thread panicked").tunnelled.push(host.to_owned());
    }

    /// `host` is at an origin outside the lab, so nothing records what it parsed.
    pub fn unseen(&self, host: &str) {
        self.leniency.lock().expect("no test thread panicked").unseen.push(host.to_owned());
    }

    /// This test kills the interceptor: its last records may be lost, but every record must be
    /// true.
    pub fn audit_may_be_lost(&self) {
        self.leniency.lock().expect("no test thread panicked").audit_lost = true;
    }

    /// Registers a run made without [`Lab::sandbox`] and [`Lab::daemon`]: all its output, and its
    /// audit file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn ran(&self, heard: Vec<u8>, audit: &Path) {
        let records = crate::audit::read(audit).expect("an audit file");
        let text = fs::read(audit).expect("an audit file");
        let transcript = vec![("what was heard", heard), ("the audit file", text)];
        self.ended(Run { transcript, audit: records, sweep: None });
    }

    pub(crate) fn ended(&self, run: Run) {
        self.runs.lock().expect("no test thread panicked").push(run);
    }
}
