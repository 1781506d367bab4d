//! 100 MiB, down and up.

use anyhow::Result;

use super::keepalive::{steady, warm_up};
use super::{Measure, Scenario, Values, higher, lower};
use crate::contender::Contender;
use crate::load::{Steady, Task};
use crate::options::Options;
use crate::world::LARGE;

pub(super) static DOWN_1: Scenario = Scenario {
    name: "down",
    title: "100 MiB down, 1 stream",
    measures: MEASURES,
    fresh: false,
    run: |_, contender, options| down(contender, options, false, 1),
};

pub(super) static DOWN_8: Scenario = Scenario {
    name: "down-8",
    title: "100 MiB down, 8 streams",
    measures: MEASURES,
    fresh: false,
    run: |_, contender, options| down(contender, options, false, 8),
};

pub(super) static DOWN_H2: Scenario = Scenario {
    name: "down-h2",
    title: "100 MiB down over HTTP/2",
    measures: MEASURES,
    fresh: false,
    run: |_, contender, options| down(contender, options, true, 1),
};

pub(super) static UP: Scenario = Scenario {
    name: "up",
    title: "100 MiB up",
    measures: MEASURES,
    fresh: false,
    run: |_, contender, options| {
        let (path, up) = ("/up/file".to_owned(), Some(options.large()));
        run(contender, options, false, &Task::Bulk { path, up, h2: false, streams: 1 })
    },
};

const MEASURES: &[Measure] = &[lower("CPU s/GiB"), higher("MiB/s")];

const MIB: f64 = 1048576.0;

fn down(contender: &mut Contender, options: &Options, h2: bool, streams: usize) -> Result<Values> {
    let path = LARGE.to_owned();
    run(contender, options, h2, &Task::Bulk { path, up: None, h2, streams })
}

fn run(contender: &mut Contender, options: &Options, h2: bool, task: &Task) -> Result<Values> {
    warm_up(contender, options, &Steady { h2, connections: 1, ..steady(options) })?;
    let (done, cpu) = contender.measure(task)?;
    let mib = done.bytes as f64 / MIB;
    Ok(vec![cpu.map(|cpu| cpu / mib * 1024.0), Some(mib / done.seconds)])
}
