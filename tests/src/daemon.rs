//! The real daemon, `interceptor serve`, used over its control socket as by an operator.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::UnixStream;

pub use crate::guest::{Cgroup, Guest};
use crate::lab::{Lab, Run};
use crate::outcome::Outcome;
use crate::running::{Output, Running};
use crate::sandbox::binary;

/// The time limit for one answer: a bound against hanging, generous for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon, not yet started.
#[derive(Debug)]
pub struct ToServe<'lab> {
    lab: &'lab Lab,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    control: Option<PathBuf>,
    wrapper: Vec<OsString>,
    limit: Duration,
    quiet: bool,
}

impl<'lab> ToServe<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> ToServe<'lab> {
        let limit = Duration::from_secs(180);
        ToServe {
            lab,
            options: vec![],
            environment: vec![],
            control: None,
            wrapper: vec![],
            limit,
            quiet: false,
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

    /// `--resolve NAME[:PORT]:ADDRESS`.
    #[must_use]
    pub fn resolve(self, name: &str, address: SocketAddr) -> Self {
        self.option("--resolve").option(format!("{name}:{address}"))
    }

    /// An option of `interceptor serve`.
    #[must_use]
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// A variable in the environment of the daemon.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Its control socket; by default in the lab's directory.
    #[must_use]
    pub fn control(mut self, path: PathBuf) -> Self {
        self.control = Some(path);
        self
    }

    /// Starts it through this program with these arguments, which must exec it.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(OsString::from).collect();
        self
    }

    /// How long it may run, for a measurement that takes longer than a test.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Logs at the default level instead of trace.
    #[must_use]
    pub fn quiet_log(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[track_caller]
    pub fn start(self) -> Daemon<'lab> {
        let daemon = self.spawn();
        daemon.running.as_ref().expect("it has just begun").wait_for("listening at");
        daemon
    }

    /// Starts it and waits for its end, for a daemon that refuses to start.
    #[track_caller]
    pub fn fail(self) -> Outcome {
        let mut daemon = self.spawn();
        let running = daemon.running.take().expect("it has just begun");
        let outcome = running.finish();
        assert!(!outcome.status.success(), "it ended well: {}", outcome.out());
        outcome
    }

    fn spawn(self) -> Daemon<'lab> {
        static DAEMONS: AtomicUsize = AtomicUsize::new(0);
        let number = DAEMONS.fetch_add(1, Ordering::SeqCst);
        let directory = self.lab.directory();
        let audit = directory.join(format!("audit-daemon-{number}.jsonl"));
        let control =
            self.control.unwrap_or_else(|| directory.join(format!("daemon-{number}/control.sock")));
        let whole: Vec<OsString> =
            self.wrapper.into_iter().chain([binary("interceptor").into()]).collect();
        let mut process = Command::new(&whole[0]);
        process
            .args(&whole[1..])
            .arg("serve")
            .arg("--control")
            .arg(&control)
            .arg("--audit")
            .arg(&audit);
        process.arg("--upstream-ca").arg(directory.join("upstream-ca.pem")).args(&self.options);
        process
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("NO_COLOR", "1")
            .envs(self.environment);
        if !self.quiet {
            process.env("RUST_LOG", "trace");
        }
        process
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = process.spawn().expect("the product's binary");
        let stdout = Output::of(child.stdout.take().expect("piped"));
        let stderr = Output::of(child.stderr.take().expect("piped"));
        let running = Running {
            lab: self.lab,
            deadline: Instant::now() + self.limit,
            sweep: None,
            child,
            stdin: None,
            stdout,
            stderr,
            audit: audit.clone(),
            ended: false,
        };
        Daemon { lab: self.lab, running: Some(running), control, audit, heard: Arc::default() }
    }
}

/// A running daemon. Dropping it shuts it down cleanly, so that a failed test leaves nothing
/// behind.
#[derive(Debug)]
pub struct Daemon<'lab> {
    lab: &'lab Lab,
    running: Option<Running<'lab>>,
    control: PathBuf,
    audit: PathBuf,
    /// All its answers, for the canary oracle.
    heard: Arc<Mutex<Vec<u8>>>,
}

/// An answer of the control API.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Answered {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that this is a problem document (RFC 9457) with this status, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.headers.get("content-type").map(String::as_str),
            Some("application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        for field in ["type", "title", "detail"] {
            assert!(
                problem[field].as_str().is_some_and(|text| !text.is_empty()),
                "{field}: {problem}"
            );
        }
        problem
    }
}

impl<'lab> Daemon<'lab> {
    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Its socket for members (`--group`).
    pub fn members(&self) -> PathBuf {
        self.control.with_file_name("run.sock")
    }

    /// The directory of its lab.
    pub fn directory(&self) -> &Path {
        self.lab.directory()
    }

    /// Its process.
    pub fn running(&self) -> &Running<'lab> {
        self.running.as_ref().expect("it runs until it is finished")
    }

    /// The current audit file.
    pub fn records(&self) -> Vec<crate::audit::Record> {
        let text = fs::read_to_string(&self.audit).unwrap_or_default();
        // The last line may be incomplete.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("an audit record")).collect()
    }

    /// One request to the control API; a body is JSON.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &str) -> Answered {
        self.lab.permits(body);
        let answered = self.lab.handle().block_on(async {
            tokio::time::timeout(PATIENCE, ask(self.control.clone(), method, path, body.to_owned()))
                .await
        });
        let answered = answered.expect("an answer in time").expect("an answer");
        self.hear(format!("{:?}\n{}", answered.headers, answered.body).as_bytes());
        answered
    }

    /// Every sandbox's id.
    #[track_caller]
    pub fn ids(&self) -> Vec<String> {
        let list = self.call("GET", "/v1/sandboxes", "").json();
        let sandboxes = list["sandboxes"].as_array().expect("a list");
        sandboxes.iter().map(|sandbox| sandbox["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// Puts a fresh cgroup under enforcement with this policy.
    #[track_caller]
    pub fn guest(&self, policy: &Value) -> Guest<'lab> {
        self.try_guest(policy).unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    /// Like [`Self::guest`], but returns the daemon's answer if that is a refusal.
    ///
    /// # Errors
    /// If the daemon refuses.
    #[track_caller]
    pub fn try_guest(&self, policy: &Value) -> Result<Guest<'lab>, Answered> {
        let cgroup = Cgroup::new();
        let mut body = policy.clone();
        body["cgroup"] = json!(cgroup.path());
        let made = self.call("POST", "/v1/sandboxes", &body.to_string());
        if made.status != 201 {
            return Err(made);
        }
        Ok(Guest::new(self.lab, self.heard.clone(), cgroup, &made.json()))
    }

    /// The guest that an answer describes, on this cgroup.
    #[track_caller]
    pub fn guest_of(&self, cgroup: Cgroup, made: &Value) -> Guest<'lab> {
        Guest::new(self.lab, self.heard.clone(), cgroup, made)
    }

    /// Replaces a guest's policy.
    #[track_caller]
    pub fn replace(&self, guest: &Guest<'_>, policy: &Value, close: bool) -> Answered {
        let query = if close { "?close=true" } else { "" };
        self.call("PUT", &format!("/v1/sandboxes/{}/policy{query}", guest.id), &policy.to_string())
    }

    /// Removes a guest's enforcement.
    #[track_caller]
    pub fn remove(&self, guest: &Guest<'_>) {
        let gone = self.call("DELETE", &format!("/v1/sandboxes/{}", guest.id), "");
        assert_eq!(gone.status, 204, "{gone:?}");
    }

    /// Follows an event stream.
    #[track_caller]
    pub fn follow(&self, path: &str) -> Events {
        let (control, path) = (self.control.clone(), path.to_owned());
        let text = Arc::new(Mutex::new((String::new(), false)));
        let (theirs, heard) = (text.clone(), self.heard.clone());
        let reading = self.lab.handle().spawn(async move {
            let _ = read_events(control, path, &theirs, &heard).await;
            theirs.lock().expect("no reader panicked").1 = true;
        });
        Events { text, reading }
    }

    /// Ends it with SIGTERM.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let running = self.running.take().expect("it runs until it is finished");
        running.signal(Signal::SIGTERM);
        let outcome = running.finish();
        self.hand_in();
        outcome.success();
        outcome
    }

    /// Kills it.
    #[track_caller]
    pub fn kill(mut self) -> Outcome {
        let running = self.running.take().expect("it runs until it is finished");
        running.signal(Signal::SIGKILL);
        let outcome = running.finish();
        self.hand_in();
        outcome
    }

    fn hear(&self, bytes: &[u8]) {
        self.heard.lock().expect("no test thread panicked").extend_from_slice(bytes);
    }

    fn hand_in(&self) {
        let transcript = vec![(
            "the control API's answers, or a guest's output",
            std::mem::take(&mut *self.heard.lock().expect("no test thread panicked")),
        )];
        self.lab.ended(Run { transcript, audit: vec![], sweep: None });
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let _ = nix::sys::signal::kill(running.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline && !matches!(running.child.try_wait(), Ok(Some(_)) | Err(_))
        {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn ask(control: PathBuf, method: &str, path: &str, body: String) -> anyhow::Result<Answered> {
    let stream = UnixStream::connect(control).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let headers = parts.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let headers = headers.collect();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Answered { status: parts.status.as_u16(), headers, body: String::from_utf8(body.to_vec())? })
}

async fn read_events(
    control: PathBuf,
    path: String,
    text: &Mutex<(String, bool)>,
    heard: &Mutex<Vec<u8>>,
) -> anyhow::Result<()> {
    let stream = UnixStream::connect(control).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Full::new(Bytes::new()))?;
    let mut body = sender.send_request(request).await?.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            heard.lock().expect("no test thread panicked").extend_from_slice(&data);
            text.lock().expect("no reader panicked").0.push_str(&String::from_utf8_lossy(&data));
        }
    }
    Ok(())
}

/// A live event stream.
#[derive(Debug)]
pub struct Events {
    text: Arc<Mutex<(String, bool)>>,
    reading: tokio::task::JoinHandle<()>,
}

impl Events {
    /// Everything so far.
    pub fn text(&self) -> String {
        self.text.lock().expect("no reader panicked").0.clone()
    }

    /// The data of every event of this name so far.
    pub fn data(&self, name: &str) -> Vec<Value> {
        let text = self.text();
        let events = text
            .split("\n\n")
            .filter(|event| event.lines().any(|line| line == format!("event: {name}")));
        let data =
            events.filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
        data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
    }

    /// Waits until it contains `text`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        assert!(until(|| self.text().contains(text)), "{text:?} never came: {}", self.text());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for_end(&self) {
        assert!(
            until(|| self.text.lock().expect("no reader panicked").1),
            "it never ended: {}",
            self.text()
        );
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Waits for a condition, with a time limit.
pub fn until(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}
