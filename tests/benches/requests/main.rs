//! The cost of a request through the interceptor, compared with going direct and with peers: in one
//! run, against one origin, in rounds of shuffled order. docs/benchmarks.md explains each row, and
//! where a comparison is unfair.
//!
//! `cargo xtask bench requests [OPTION…]`, as root. Everything runs on loopback or in the sandbox's
//! own network, and is removed at the end.

mod contender;
mod events;
mod load;
mod options;
mod origin;
mod process;
mod report;
mod scenario;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use contender::{Contender, KINDS, Kind};
use options::Options;
use report::{Report, circumstances, load_average};
use scenario::{ALL, Scenario};
use world::World;

/// Set in the environment of the load process.
pub(crate) const LOAD: &str = "INTERCEPTOR_BENCH_LOAD";

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> Result<()> {
    if std::env::var_os(LOAD).is_some() {
        return load::main();
    }
    let options = Options::read(std::env::args().skip(1))?;
    if options.list {
        println!("scenarios:  {}", ALL.iter().map(|one| one.name).collect::<Vec<_>>().join(" "));
        println!("contenders: {}", KINDS.iter().map(|one| one.name).collect::<Vec<_>>().join(" "));
        return Ok(());
    }
    let scenarios = Options::chosen(ALL, &options.scenarios, |one| one.name)?;
    let scenarios: Vec<&Scenario> = scenarios.into_iter().copied().collect();
    let kinds = Options::chosen(KINDS, &options.contenders, |one| one.name)?;
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "this makes cgroups and loads eBPF: it needs root"
    );
    let _signals = hold_signals()?;
    let mut circumstances = circumstances(&options)?;
    let world = World::new(options.large())?;
    let report = measure(&world, &scenarios, &kinds, &options)?;
    circumstances["load_average_at_end"] = load_average().into();

    for (scenario, contender, why) in &report.failures {
        eprintln!("failed: {scenario}, {contender}: {why}");
    }
    let mut text = format!("{}\n", report.summary(&scenarios, &kinds));
    text += &report.table(&scenarios, &kinds);
    text += &format!(
        "\nMedians of {} rounds (least–greatest); {} processors, load average {} before and {} \
         after.\n",
        options.rounds,
        circumstances["processors"],
        circumstances["load_average"].as_str().unwrap_or_default(),
        circumstances["load_average_at_end"].as_str().unwrap_or_default(),
    );
    if options.json {
        eprintln!("{text}");
        let json = report.json(&scenarios, &kinds, &options, &circumstances);
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        println!("{text}");
    }
    Ok(())
}

/// Every scenario in turn, with all contenders in each round.
fn measure(
    world: &World,
    scenarios: &[&Scenario],
    kinds: &[&Kind],
    options: &Options,
) -> Result<Report> {
    let mut report = Report::default();
    let mut running: Vec<Option<Contender>> = Vec::new();
    for kind in kinds {
        let contender = kind.start(world, options);
        // A missing contender is reported and skipped.
        running.push(contender.map_err(|error| eprintln!("left out: {error:#}")).ok());
    }
    anyhow::ensure!(running.iter().any(Option::is_some), "nobody is left");
    let mut state = options.seed;
    for scenario in scenarios {
        let began = Instant::now();
        for _ in 0..options.rounds {
            for place in shuffled(kinds.len(), &mut state) {
                if INTERRUPTED.load(Ordering::SeqCst) {
                    bail!("interrupted");
                }
                let (kind, Some(contender)) = (kinds[place], &mut running[place]) else { continue };
                let values = if scenario.fresh {
                    kind.start(world, options)
                        .and_then(|mut own| (scenario.run)(world, &mut own, options))
                } else {
                    (scenario.run)(world, contender, options)
                };
                match values {
                    Ok(values) => report.add(scenario, kind, &values),
                    Err(error) => {
                        report.failures.push((scenario.name, kind.name, format!("{error:#}")))
                    }
                }
            }
        }
        eprintln!("{}: {:.0} s", scenario.name, began.elapsed().as_secs_f64());
    }
    Ok(report)
}

/// The numbers below `length` in random order (xorshift, Fisher-Yates).
fn shuffled(length: usize, state: &mut u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    for last in (1..length).rev() {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        order.swap(last, (*state % (last as u64 + 1)) as usize);
    }
    order
}

/// SIGINT and SIGTERM end the run cleanly: it stops its processes and removes its files.
fn hold_signals() -> Result<tokio::runtime::Runtime> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let entered = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signal = signal(kind).context("cannot hold back signals")?;
        runtime.spawn(async move {
            while signal.recv().await.is_some() {
                INTERRUPTED.store(true, Ordering::SeqCst);
            }
        });
    }
    drop(entered);
    Ok(runtime)
}
