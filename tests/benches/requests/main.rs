//! What a request costs on its way through the interceptor, beside the same request without it and through peers that are
//! installed here (HAProxy, mitmproxy): in turns, in one run, against one origin. All terminate TLS with a certificate made for the name,
//! put a key into each request, and verify the origin.
//!
//! `cargo xtask bench requests [WORDS]`, as root; with words, only loads whose names have one of them. Loads run for a time and not to a number, so that slow ones end too; ratios are to
//! going direct in the same run.

mod contender;
mod load;

use anyhow::{Context, Result};
use contender::Contender;
use interceptor_tests::Lab;
use load::{Done, Load};

pub(crate) const HOST: &str = "api.example.test";
/// Set for the process that is the load.
pub(crate) const LOAD: &str = "INTERCEPTOR_BENCH_LOAD";
/// Of every load for every contender, in turns; the median counts.
const ROUNDS: usize = 3;

struct Scenario {
    name: &'static str,
    load: Load,
    /// Whether it is about bytes, not requests.
    bulk: bool,
}

fn scenarios() -> Vec<Scenario> {
    let base = Load {
        host: HOST.to_owned(),
        to: None,
        trust: None,
        path: "/bytes/1000".to_owned(),
        h2: false,
        fresh: false,
        at_once: 1,
        seconds: 2.0,
    };
    let bulk = Load { path: "/bytes/67108864".to_owned(), ..base.clone() };
    let scenario = |name, load| Scenario { name, load, bulk: false };
    vec![
        scenario("HTTP/1.1, one after the other", base.clone()),
        scenario("HTTP/1.1, 16 connections", Load { at_once: 16, ..base.clone() }),
        scenario("HTTP/2, one after the other", Load { h2: true, ..base.clone() }),
        scenario("HTTP/2, 16 streams", Load { h2: true, at_once: 16, ..base.clone() }),
        scenario("a connection for each, 4 at once", Load { fresh: true, at_once: 4, ..base.clone() }),
        Scenario { name: "64 MiB over HTTP/1.1", load: bulk.clone(), bulk: true },
        Scenario { name: "64 MiB over HTTP/2", load: Load { h2: true, ..bulk }, bulk: true },
    ]
}

fn main() -> Result<()> {
    if std::env::var_os(LOAD).is_some() {
        return load::main();
    }
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let lab = Lab::new(&["h2", "http/1.1"]);
    let mut contenders = vec![Contender::direct(&lab)?, Contender::interceptor(&lab)?];
    for peer in [Contender::haproxy, Contender::mitmdump] {
        match peer(&lab) {
            Ok(peer) => contenders.push(peer),
            Err(error) => println!("left out: {error:#}"),
        }
    }
    for scenario in scenarios().into_iter().filter(|scenario| wanted(scenario.name)) {
        let mut runs: Vec<Vec<(Done, f64)>> = contenders.iter().map(|_| Vec::new()).collect();
        for contender in &mut contenders {
            if let Err(error) = contender.warm_up(&scenario.load) {
                println!("{error:#}");
            }
        }
        for _ in 0..ROUNDS {
            for (contender, runs) in contenders.iter_mut().zip(&mut runs) {
                match contender.run(&scenario.load) {
                    Ok(run) => runs.push(run),
                    Err(error) => println!("{error:#}"),
                }
                // What an origin remembers of requests is the lab's, and nobody asks for it here.
                lab.forget();
            }
        }
        let per = if scenario.bulk { "CPU s/GiB" } else { "CPU s/10,000" };
        let rate = if scenario.bulk { "MiB/s" } else { "requests/s" };
        println!(
            "\n{:<34} {rate:>11} {:>7} {:>10} {:>7} {:>10} {per:>13}",
            scenario.name, "ratio", "p50 µs", "ratio", "p99 µs"
        );
        let rows: Vec<Option<Row>> = runs.iter().map(|runs| Row::of(runs, scenario.bulk)).collect();
        let direct = rows[0].as_ref().context("going direct failed")?;
        for (contender, row) in contenders.iter().zip(&rows) {
            let Some(row) = row else {
                println!("  {:<32} failed", contender.name);
                continue;
            };
            println!(
                "  {:<32} {:>11.0} {:>6.2}x {:>10.0} {:>6.2}x {:>10.0} {:>13.2}",
                contender.name,
                row.rate,
                row.rate / direct.rate,
                row.p50,
                row.p50 / direct.p50,
                row.p99,
                row.cpu
            );
        }
    }
    Ok(())
}

struct Row {
    rate: f64,
    p50: f64,
    p99: f64,
    cpu: f64,
}

impl Row {
    /// The medians; `None` unless every round went well.
    fn of(runs: &[(Done, f64)], bulk: bool) -> Option<Row> {
        if runs.len() < ROUNDS {
            return None;
        }
        let median = |of: &dyn Fn(&(Done, f64)) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let amount = |done: &Done| {
            if bulk { done.bytes as f64 / f64::from(1 << 20) } else { done.requests as f64 }
        };
        let unit = if bulk { 1024.0 } else { 10_000.0 };
        Some(Row {
            rate: median(&|(done, _)| amount(done) / done.seconds),
            p50: median(&|(done, _)| done.p50),
            p99: median(&|(done, _)| done.p99),
            cpu: median(&|(done, cpu)| cpu / amount(done) * unit),
        })
    }
}
