//! The results: samples, table and JSON.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::Result;
use interceptor_tests::measure::spread::Spread;
use interceptor_tests::measure::table::{Table, cell, median};
use serde_json::{Value, json};

use crate::contender::Kind;
use crate::options::Options;
use crate::scenario::Scenario;

/// Rows of the short table: title, scenario and measure.
const SUMMARY: &[(&str, &[(&str, &str)])] = &[
    ("HTTP/1.1, 32 connections: CPU s per 10,000", &[("keepalive", "CPU s/10,000")]),
    ("HTTP/2, 4 × 8 streams: CPU s per 10,000", &[("http2", "CPU s/10,000")]),
    ("full handshakes: CPU s per 10,000", &[("handshakes", "CPU s/10,000")]),
    (
        "new names: CPU s per 10,000; one by one, p50 ms",
        &[("names", "CPU s/10,000"), ("names-alone", "p50 ms")],
    ),
    ("100 MiB down, 8 streams; up: CPU s per GiB", &[("down-8", "CPU s/GiB"), ("up", "CPU s/GiB")]),
    ("100 MiB down over HTTP/2: MiB/s", &[("down-h2", "MiB/s")]),
    ("one request at a time: p50 ms", &[("single", "p50 ms")]),
    (
        "first event; delay of each: p50 ms",
        &[("events", "first event, p50 ms"), ("events", "delay of each, p50 ms")],
    ),
    (
        "memory: fresh, MiB; per idle connection, KiB",
        &[("memory", "fresh, MiB"), ("memory", "per idle connection of 1,000, KiB")],
    ),
];

#[derive(Default)]
pub(crate) struct Report {
    /// By scenario, measure and contender.
    samples: BTreeMap<(&'static str, &'static str, &'static str), Vec<f64>>,
    /// Failures: scenario, contender, reason.
    pub(crate) failures: Vec<(&'static str, &'static str, String)>,
}

impl Report {
    /// Adds a round.
    pub(crate) fn add(&mut self, scenario: &Scenario, kind: &Kind, values: &[Option<f64>]) {
        for (measure, value) in scenario.measures.iter().zip(values) {
            if let Some(value) = value {
                self.samples
                    .entry((scenario.name, measure.name, kind.name))
                    .or_default()
                    .push(*value);
            }
        }
    }

    fn spread(&self, scenario: &Scenario, measure: &'static str, kind: &Kind) -> Option<Spread> {
        self.samples
            .get(&(scenario.name, measure, kind.name))
            .and_then(|samples| Spread::of(samples))
    }

    pub(crate) fn table(&self, scenarios: &[&Scenario], kinds: &[&Kind]) -> String {
        let mut table = Table::new(kinds.iter().map(|kind| kind.title));
        for scenario in scenarios {
            for (number, measure) in scenario.measures.iter().enumerate() {
                let name = match number {
                    0 => format!("**{}**: {}", scenario.title, measure.name),
                    _ => measure.name.to_owned(),
                };
                let failed = |kind: &Kind| {
                    self.failures.iter().any(|(of, by, _)| *of == scenario.name && *by == kind.name)
                };
                let cells =
                    kinds.iter().map(|kind| match self.spread(scenario, measure.name, kind) {
                        Some(spread) => cell(Some(&spread)),
                        None if failed(kind) => "failed".to_owned(),
                        None => cell(None),
                    });
                table.row(&name, cells);
            }
        }
        table.text()
    }

    /// The short table of medians.
    pub(crate) fn summary(&self, scenarios: &[&Scenario], kinds: &[&Kind]) -> String {
        let mut table = Table::new(kinds.iter().map(|kind| kind.title));
        let known = |name: &str| scenarios.iter().find(|scenario| scenario.name == name);
        for (title, parts) in SUMMARY {
            let parts: Vec<(&Scenario, &'static str)> = parts
                .iter()
                .filter_map(|(name, measure)| Some((*known(name)?, *measure)))
                .collect();
            if parts.is_empty() {
                continue;
            }
            let cells = kinds.iter().map(|kind| {
                let medians =
                    parts.iter().map(|(scenario, measure)| self.spread(scenario, measure, kind));
                let medians: Vec<String> = medians.map(|spread| median(spread.as_ref())).collect();
                medians.join("; ")
            });
            table.row(title, cells);
        }
        table.text()
    }

    pub(crate) fn json(
        &self,
        scenarios: &[&Scenario],
        kinds: &[&Kind],
        options: &Options,
        circumstances: &Value,
    ) -> Value {
        let scenarios: Vec<Value> = scenarios
            .iter()
            .map(|scenario| {
                let measures = scenario.measures.iter().map(|measure| {
                    let of = |kind: &&&Kind| {
                        Some((kind.name, self.spread(scenario, measure.name, kind)?))
                    };
                    let contenders: BTreeMap<&str, Spread> =
                        kinds.iter().filter_map(|kind| of(&kind)).collect();
                    json!({
                        "name": measure.name, "better": measure.better.word(),
                        "contenders": contenders,
                    })
                });
                let measures: Vec<Value> = measures.collect();
                json!({ "name": scenario.name, "title": scenario.title, "measures": measures })
            })
            .collect();
        let failures: Vec<Value> = self
            .failures
            .iter()
            .map(|(of, by, why)| json!({ "scenario": of, "contender": by, "why": why }))
            .collect();
        json!({
            "rounds": options.rounds, "quick": options.quick, "seed": options.seed,
            "circumstances": circumstances, "scenarios": scenarios, "failures": failures,
        })
    }
}

/// The machine and the versions of the programs.
pub(crate) fn circumstances(options: &Options) -> Result<Value> {
    let envoy = options
        .envoy
        .as_ref()
        .map_or_else(|| "envoy".to_owned(), |path| path.display().to_string());
    let hudsucker = include_str!("../../peers/hudsucker/Cargo.toml");
    let hudsucker =
        hudsucker.lines().find_map(|line| line.split_once("hudsucker = { version = \"="));
    Ok(json!({
        "commit": said("git", &["rev-parse", "--short", "HEAD"]),
        "kernel": said("uname", &["-r"]),
        "processors": std::thread::available_parallelism()?.get(),
        "load_average": load_average(),
        "versions": {
            "nginx": said("nginx", &["-v"]),
            "haproxy": said("haproxy", &["-v"]),
            "envoy": said(&envoy, &["--version"]),
            "hudsucker": hudsucker.and_then(|(_, rest)| rest.split('"').next()),
            "wrk": said("wrk", &["-v"]),
            "h2load": said("h2load", &["--version"]),
        },
    }))
}

/// The load averages of the last one, five and fifteen minutes.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// The first non-empty line that a program prints.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}
