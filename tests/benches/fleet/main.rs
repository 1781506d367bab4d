//! What many sandboxes cost one daemon: the real one, with real cgroups and programs, and a request
//! a second from each sandbox through the wall.
//!
//! `cargo xtask bench fleet [OPTION…]`, as root. Everything runs on loopback and in cgroups of its
//! own, and is removed at the end.

mod options;
mod reading;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use interceptor_tests::Lab;
use interceptor_tests::client::paced::Load;
use interceptor_tests::daemon::{Answered, Daemon};
use interceptor_tests::fleet::Fleet;
use interceptor_tests::measure::spread::percentile;
use interceptor_tests::measure::table::{Table, number};
use options::Options;
use reading::Reading;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";
/// What is asked for: 1 KB.
const PATH: &str = "/bytes/1000";
/// How long the whole may take.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// The creations and removals that a figure is the median of, at most.
const LATEST: usize = 100;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What is measured, by name; without a value where it was not.
type Measures = Vec<(&'static str, Option<f64>)>;

fn main() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "this makes cgroups and loads eBPF: it needs root"
    );
    let _signals = hold_signals()?;
    let lab = Lab::new(&["http/1.1"]);
    let policy = lab.governed(HOST, json!([{ "methods": ["GET"], "paths": ["/bytes/*"] }]));
    let most = options.largest().to_string();
    let daemon = lab.daemon().at_origin(HOST).option("--max-sandboxes").option(most);
    let daemon = daemon.option("--trust-dir").option(lab.directory().join("trust"));
    let daemon = daemon.quiet_log().limit(LIMIT).start();
    let empty = Reading::take(&daemon)?;
    let mut fleet = Fleet::default();
    let mut columns = Vec::new();
    let mut full = None;
    for (size, loaded) in options.sizes() {
        let before = fleet.guests().len();
        let mut created = Vec::new();
        while full.is_none() && fleet.guests().len() < size {
            go_on()?;
            match fleet.add(&daemon, &policy) {
                Ok(took) => created.push(took),
                Err(refused) => full = Some(end(&refused, fleet.guests().len())?),
            }
        }
        let size = fleet.guests().len();
        if size == before {
            break;
        }
        let mut measures = vec![("create one, ms", median(&created))];
        measures.extend(idle(&daemon, &empty, size, &options)?);
        if loaded && full.is_none() {
            measures.extend(busy(&lab, &daemon, &fleet, &options)?);
        }
        eprintln!("{size} sandboxes measured");
        columns.push((size, measures));
    }
    let left = fleet.guests().len().saturating_sub(LATEST);
    let removed = median(&fleet.shrink(&daemon, left));
    let began = Instant::now();
    daemon.finish();
    let all = began.elapsed().as_secs_f64();
    if let Some((_, measures)) = columns.last_mut() {
        measures.extend([("remove one, ms", removed), ("end of the daemon, s", Some(all))]);
    }
    report(&columns, &empty, options.json)?;
    full.iter().for_each(|end| eprintln!("{end}"));
    Ok(())
}

/// What to say where the daemon takes no further sandbox because a limit of the host is reached.
fn end(refused: &Answered, size: usize) -> Result<String> {
    anyhow::ensure!(refused.status == 503, "{refused:?}");
    let problem: Value = serde_json::from_str(&refused.body)?;
    Ok(format!("It ends at {size} sandboxes here: {}", problem["detail"].as_str().unwrap_or("?")))
}

/// SIGINT and SIGTERM end the run cleanly: it removes its sandboxes and their cgroups.
fn hold_signals() -> Result<tokio::runtime::Runtime> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build()?;
    let entered = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signal = signal(kind)?;
        runtime.spawn(async move {
            while signal.recv().await.is_some() {
                INTERRUPTED.store(true, Ordering::SeqCst);
            }
        });
    }
    drop(entered);
    Ok(runtime)
}

/// An error once the run was interrupted.
fn go_on() -> Result<()> {
    anyhow::ensure!(!INTERRUPTED.load(Ordering::SeqCst), "interrupted");
    Ok(())
}

/// What sandboxes cost in which nothing happens.
fn idle(daemon: &Daemon<'_>, empty: &Reading, size: usize, options: &Options) -> Result<Measures> {
    let now = Reading::take(daemon)?;
    let each = |now: u64, before: u64| Some(now.saturating_sub(before) as f64 / size as f64);
    let kib = |now: u64, before: u64| each(now, before).map(|bytes| bytes / 1024.0);
    let cpu = Reading::cpu(daemon)?;
    let began = Instant::now();
    while began.elapsed() < options.idle {
        go_on()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let (spent, took) = (Reading::cpu(daemon)? - cpu, began.elapsed().as_secs_f64());
    Ok(vec![
        ("idle: memory of the daemon, KiB each", kib(now.memory, empty.memory)),
        ("idle: memory of the kernel, KiB each", kib(now.kernel, empty.kernel)),
        ("idle: trust files, KiB each", kib(now.trust, empty.trust)),
        ("idle: descriptors, each", each(now.descriptors, empty.descriptors)),
        ("idle: CPU, µs a second each", Some(spent * 1e6 / took / size as f64)),
    ])
}

/// What one request a second from each costs.
fn busy(lab: &Lab, daemon: &Daemon<'_>, fleet: &Fleet<'_>, options: &Options) -> Result<Measures> {
    let before = Reading::take(daemon)?.memory;
    let mut clients = fleet.clients(HOST, PATH);
    let cpu = Reading::cpu(daemon)?;
    let report = clients.run(Load { requests: options.requests, every_ms: 1000 });
    let spent = Reading::cpu(daemon)? - cpu;
    let held = Reading::take(daemon)?.memory;
    lab.forget();
    anyhow::ensure!(report.failed == 0, "{} requests failed: {:?}", report.failed, report.failures);
    let size = fleet.guests().len() as f64;
    let at = |part| percentile(&report.milliseconds, part);
    Ok(vec![
        ("a request a second: CPU s per 10,000", Some(spent * 1e4 / report.answered as f64)),
        ("a request a second: p50 ms", at(0.5)),
        ("a request a second: p99 ms", at(0.99)),
        (
            "a kept connection and its certificate, KiB each",
            Some(held.saturating_sub(before) as f64 / size / 1024.0),
        ),
    ])
}

/// The median of the last ones, in milliseconds.
fn median(times: &[Duration]) -> Option<f64> {
    let last = &times[times.len().saturating_sub(LATEST)..];
    let milliseconds: Vec<f64> = last.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
    percentile(&milliseconds, 0.5)
}

fn report(columns: &[(usize, Measures)], empty: &Reading, as_json: bool) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in columns.iter().flat_map(|(_, measures)| measures) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let titles: Vec<String> = columns.iter().map(|(size, _)| size.to_string()).collect();
    let mut table = Table::new(titles.iter().map(String::as_str));
    let of = |measures: &Measures, name: &str| {
        measures.iter().find(|(known, _)| *known == name).and_then(|(_, value)| *value)
    };
    for name in &names {
        table.row(name, columns.iter().map(|(_, measures)| number(of(measures, name))));
    }
    let mib = empty.memory as f64 / f64::from(1 << 20);
    let text = format!("{}\nThe daemon without a sandbox: {mib:.1} MiB.\n", table.text());
    if as_json {
        eprintln!("{text}");
        let column = |(size, measures): &(usize, Measures)| {
            let measures: serde_json::Map<String, Value> =
                measures.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            json!({ "sandboxes": size, "measures": measures })
        };
        let all: Vec<Value> = columns.iter().map(column).collect();
        let whole = json!({ "empty_mib": mib, "columns": all });
        println!("{}", serde_json::to_string_pretty(&whole)?);
    } else {
        println!("{text}");
    }
    Ok(())
}
