//! Keeps one connection in each of many sandboxes and sends requests over all of them at a steady
//! pace.
//!
//! A socket belongs to the cgroup in which it was made (`Documentation/admin-guide/cgroup-v2.rst`),
//! wherever its process goes afterwards. So one process enters each sandbox in turn and takes a
//! connection along, and a thousand sandboxes need no thousand clients.
//!
//! Standard input: a [`Plan`] on the first line, then one [`Load`] a line. Standard output:
//! [`READY`], then one [`Report`] a line. The end of the input ends it.

use std::fs;
use std::io::{BufRead, Write};
use std::net::{TcpStream as StdStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

use super::tls;

/// What it says once every connection has had an answer.
pub const READY: &str = "ready";
/// How many failures a report names.
const NAMED: usize = 5;

/// Where the connections are, and what goes over them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The host, at port 443.
    pub host: String,
    /// The path of each request.
    pub path: String,
    /// The sandboxes.
    pub places: Vec<Place>,
}

/// One sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its CA.
    pub ca_pem: String,
    /// What stands for the key.
    pub placeholder: String,
}

/// A load: each connection sends so many requests, one at each interval, evenly spread over all.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    /// The number of requests of each connection.
    pub requests: u32,
    /// The time between two of one connection, in milliseconds.
    pub every_ms: u64,
}

/// What became of a load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// How many were answered with 200.
    pub answered: u64,
    /// How many were not.
    pub failed: u64,
    /// Why, for some of them.
    pub failures: Vec<String>,
    /// The milliseconds of each answer.
    pub milliseconds: Vec<f64>,
}

/// Runs it.
///
/// # Errors
/// If the plan is invalid, or a sandbox lets no connection through.
pub fn main() -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines = std::io::stdin().lock().lines();
    let plan = lines.next().context("no plan")??;
    let plan: Plan = serde_json::from_str(&plan).context("the plan")?;
    let mut kept = runtime.block_on(connect_all(&plan))?;
    say(READY)?;
    for load in lines {
        let load: Load = serde_json::from_str(&load?).context("a load")?;
        let report = runtime.block_on(run(&mut kept, &plan, load));
        say(&serde_json::to_string(&report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A kept connection.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
    placeholder: String,
}

async fn connect_all(plan: &Plan) -> Result<Vec<Kept>> {
    let mut kept = Vec::with_capacity(plan.places.len());
    for place in &plan.places {
        let within = || format!("in {}", place.cgroup.display());
        let stream = enter(&place.cgroup, &plan.host).with_context(within)?;
        let mut one = shake_hands(stream, place, &plan.host).await.with_context(within)?;
        ask(&mut one, plan).await.with_context(within)?;
        kept.push(one);
    }
    Ok(kept)
}

/// A connection from within a cgroup. Blocks, so that nothing else makes a socket meanwhile.
fn enter(cgroup: &Path, host: &str) -> Result<StdStream> {
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    let address = (host, 443).to_socket_addrs()?.next().context("no address")?;
    let stream = StdStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

async fn shake_hands(stream: StdStream, place: &Place, host: &str) -> Result<Kept> {
    let config = tls::trusting(place.ca_pem.as_bytes(), &["http/1.1".to_owned()])?;
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TcpStream::from_std(stream)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(Kept { sender, placeholder: place.placeholder.clone() })
}

async fn ask(kept: &mut Kept, plan: &Plan) -> Result<()> {
    let request = Request::get(&plan.path)
        .header("host", &plan.host)
        .header("authorization", format!("Bearer {}", kept.placeholder))
        .body(Full::default())?;
    kept.sender.ready().await?;
    let answer = kept.sender.send_request(request).await?;
    let status = answer.status();
    answer.into_body().collect().await?;
    ensure!(status == 200, "{status}");
    Ok(())
}

async fn run(kept: &mut Vec<Kept>, plan: &Plan, load: Load) -> Report {
    let plan = Arc::new(plan.clone());
    let (began, every) = (Instant::now(), Duration::from_millis(load.every_ms));
    let all = u32::try_from(kept.len()).unwrap_or(u32::MAX).max(1);
    let mut loads = tokio::task::JoinSet::new();
    for (number, mut one) in (0..).zip(kept.drain(..)) {
        let (plan, first) = (plan.clone(), began + every * number / all);
        loads.spawn(async move {
            let mut report = Report::default();
            for turn in 0..load.requests {
                sleep_until(first + every * turn).await;
                let sent = Instant::now();
                match ask(&mut one, &plan).await {
                    Ok(()) => report.answered(sent.elapsed()),
                    Err(error) => report.failed(format!("{error:#}")),
                }
            }
            (number, one, report)
        });
    }
    let mut done: Vec<(u32, Kept, Report)> = loads.join_all().await;
    done.sort_by_key(|(number, ..)| *number);
    let mut whole = Report::default();
    for (_, one, report) in done {
        kept.push(one);
        whole.add(report);
    }
    whole
}

impl Report {
    fn answered(&mut self, time: Duration) {
        self.answered += 1;
        self.milliseconds.push(time.as_secs_f64() * 1000.0);
    }

    fn failed(&mut self, why: String) {
        self.failed += 1;
        self.failures.push(why);
        self.failures.truncate(NAMED);
    }

    fn add(&mut self, other: Report) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(NAMED);
        self.milliseconds.extend(other.milliseconds);
    }
}
