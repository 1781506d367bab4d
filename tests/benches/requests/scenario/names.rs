//! Names that the contender has never seen, so that it mints a certificate for each: many at once,
//! and one after another.

use anyhow::Result;

use super::{Measure, PER, Scenario, Values, lower, median, tail};
use crate::contender::Contender;
use crate::load::Task;

pub(super) static TOGETHER: Scenario = Scenario {
    name: "names",
    title: "500 new names, 8 at once",
    measures: MEASURES,
    fresh: false,
    run: |_, contender, options| run(contender, options.count(500), 8),
};

pub(super) static ALONE: Scenario = Scenario {
    name: "names-alone",
    title: "100 new names, one by one",
    measures: MEASURES,
    fresh: false,
    run: |_, contender, options| run(contender, options.count(100), 1),
};

const MEASURES: &[Measure] =
    &[lower("CPU s/10,000"), lower("p50 ms"), lower("p99 ms"), lower("failed at first, %")];

fn run(contender: &mut Contender, number: usize, at_once: usize) -> Result<Values> {
    let names = contender.fresh_names(number);
    let (done, cpu) = contender.measure(&Task::Names { names, at_once })?;
    let requests = done.requests as f64;
    Ok(vec![
        cpu.map(|cpu| cpu / requests * PER),
        median(&done, "name"),
        tail(&done, "name"),
        Some(done.failed as f64 / requests * 100.0),
    ])
}
