//! What a sandbox at its limits costs its neighbour. Two sandboxes share a process. A child process
//! floods one with handshakes for new names, requests beyond its rate and connections beyond its
//! limit, while the other sends one request after another. Reports the latter's median and 99th
//! percentile with and without the flood, alternating in one run.
//!
//! `cargo xtask bench neighbours`. It needs no root, because it connects straight to the listeners.

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use interceptor::audit::Audit;
use interceptor_tests::Lab;
use interceptor_tests::inprocess::{Served, ask, client, connect, runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpStream;

const HOST: &str = "api.example.test";
/// The number of measurements with and without the flood, alternating.
const ROUNDS: usize = 4;
/// The length of each.
const ROUND: Duration = Duration::from_secs(4);
/// How many of the flood's connections send requests, shake hands, and stay open.
const ASKING: usize = 16;
const SHAKING: usize = 8;
const HANGING: usize = 200;

fn main() -> anyhow::Result<()> {
    if let (Ok(address), Ok(authority)) = (std::env::var("FLOOD"), std::env::var("FLOOD_CA")) {
        return flood(address.parse()?, &authority);
    }
    let lab = Lab::new(&["h2", "http/1.1"]);
    lab.handle().block_on(async {
        let runtime = runtime(&lab, Audit::to_file(lab.directory().join("audit.jsonl"))?, &[HOST]);
        let mut policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/"] }]));
        let quiet = Served::start(&runtime, "quiet", &policy);
        policy["network"]["allow"] = json!(["*.example.test"]);
        policy["limits"] =
            json!({ "connections": 64, "requests": 32, "requests_per_second_per_host": 200 });
        let loud = Served::start(&runtime, "loud", &policy);
        let mut sender = client(connect(quiet.tls, HOST, quiet.trust()).await?).await?;
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            measure(&mut sender, &mut alone).await?;
            let flood = Flood::start(loud.tls, loud.serving.sandbox().ca_pem())?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            measure(&mut sender, &mut beside).await?;
            drop(flood);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        println!("{:<24} {:>9} {:>12} {:>12}", "the quiet neighbour", "requests", "p50", "p99");
        let (alone, beside) = (Row::of("alone", alone), Row::of("beside the flood", beside));
        let ratio = |of: fn(&Row) -> Duration| of(&beside).as_secs_f64() / of(&alone).as_secs_f64();
        println!(
            "{:<24} {:>9} {:>11.2}x {:>11.2}x",
            "ratio",
            "",
            ratio(|row| row.p50),
            ratio(|row| row.p99)
        );
        println!("\nwhat the loud one was told:");
        let metrics = runtime.metrics().encode();
        for line in metrics.lines().filter(|line| line.contains("sandbox=\"loud\"")) {
            let told = [
                "requests_total",
                "connections_total",
                "mints_total",
                "connections_open",
                "handshakes_total",
            ];
            if told.iter().any(|name| line.contains(name)) {
                println!("  {line}");
            }
        }
        anyhow::Ok(())
    })
}

/// One line of the table.
struct Row {
    p50: Duration,
    p99: Duration,
}

impl Row {
    fn of(name: &str, mut times: Vec<Duration>) -> Row {
        times.sort_unstable();
        let row = Row { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] };
        println!("{name:<24} {:>9} {:>12.1?} {:>12.1?}", times.len(), row.p50, row.p99);
        row
    }
}

async fn measure(
    sender: &mut hyper::client::conn::http1::SendRequest<http_body_util::Full<bytes::Bytes>>,
    times: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < ROUND {
        let start = Instant::now();
        let answer = ask(sender, "GET", HOST, "/bytes/1000").await?;
        times.push(start.elapsed());
        anyhow::ensure!(answer.status() == 200, "the quiet one was answered {}", answer.status());
    }
    Ok(())
}

/// A child process that floods, until it is dropped.
struct Flood(Child);

impl Flood {
    fn start(to: SocketAddr, authority: &str) -> anyhow::Result<Flood> {
        let mut child = Command::new(std::env::current_exe()?);
        Ok(Flood(child.env("FLOOD", to.to_string()).env("FLOOD_CA", authority).spawn()?))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child: everything at once, as fast as possible.
fn flood(to: SocketAddr, authority: &str) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()?;
    let trust = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for _ in 0..ASKING {
            let trust = trust.clone();
            tokio::spawn(async move {
                loop {
                    let Ok(stream) = connect(to, HOST, trust.clone()).await else { continue };
                    let Ok(mut sender) = client(stream).await else { continue };
                    while ask(&mut sender, "GET", HOST, "/flood").await.is_ok() {}
                }
            });
        }
        for shaking in 0..SHAKING {
            let trust = trust.clone();
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let _ =
                        connect(to, &format!("n{number}-{shaking}.example.test"), trust.clone())
                            .await;
                }
            });
        }
        let mut held = Vec::new();
        for _ in 0..HANGING {
            held.extend(
                tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(to)).await,
            );
        }
        std::future::pending::<()>().await;
        drop(held);
    });
    Ok(())
}
