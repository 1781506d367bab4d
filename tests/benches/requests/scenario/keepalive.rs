//! HTTP/1.1 on kept connections: the usual traffic of an SDK.

use anyhow::Result;

use super::{Measure, Scenario, Values, higher, lower, median, per_requests, rate, tail};
use crate::contender::Contender;
use crate::load::{Steady, Task};
use crate::options::Options;
use crate::world::{SMALL, World};

pub(super) static SCENARIO: Scenario = Scenario {
    name: "keepalive",
    title: "HTTP/1.1, 32 connections, 1 KiB",
    measures: MEASURES,
    fresh: false,
    run,
};

/// The measures of all scenarios with small requests.
pub(super) const MEASURES: &[Measure] =
    &[lower("CPU s/10,000"), higher("requests/s"), lower("p50 ms"), lower("p99 ms")];

pub(super) const CONNECTIONS: usize = 32;

fn run(_: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    measure(contender, options, &steady(options))
}

pub(super) fn steady(options: &Options) -> Steady {
    Steady {
        path: SMALL.to_owned(),
        h2: false,
        connections: CONNECTIONS,
        streams: 1,
        fresh: false,
        seconds: options.seconds(),
    }
}

/// A load, after a short one that fills pools and mints certificates.
pub(super) fn measure(
    contender: &mut Contender,
    options: &Options,
    load: &Steady,
) -> Result<Values> {
    warm_up(contender, options, load)?;
    let (done, cpu) = contender.measure(&Task::Steady(load.clone()))?;
    let cpu = per_requests(cpu, done.requests);
    Ok(vec![cpu, rate(&done), median(&done, "request"), tail(&done, "request")])
}

/// A contender may fail the first connections to a name.
pub(super) fn warm_up(contender: &mut Contender, options: &Options, load: &Steady) -> Result<()> {
    const TRIES: usize = 4;
    let task = Task::Steady(Steady { seconds: options.seconds() / 8.0, ..load.clone() });
    for _ in 1..TRIES {
        if contender.run(&task).is_ok() {
            return Ok(());
        }
    }
    contender.run(&task).map(|_| ())
}
