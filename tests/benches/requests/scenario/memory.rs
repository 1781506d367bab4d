//! Memory: after the start, per idle connection, and after a load.

use anyhow::Result;

use super::keepalive::{steady, warm_up};
use super::{Scenario, Values, lower};
use crate::contender::Contender;
use crate::load::Task;
use crate::options::Options;
use crate::world::{SMALL, World};

pub(super) static SCENARIO: Scenario = Scenario {
    name: "memory",
    title: "memory",
    measures: &[
        lower("fresh, MiB"),
        lower("after a load, MiB"),
        lower("per idle connection of 1,000, KiB"),
    ],
    fresh: true,
    run,
};

fn run(_: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    let Some(fresh) = contender.memory()? else { return Ok(vec![None; 3]) };
    let connections = options.count(1000);
    let hold = |connections| Task::Hold { path: SMALL.to_owned(), connections };
    // The first request sets up state that belongs to no connection.
    let mut first = contender.run(&hold(1));
    for _ in 0..3 {
        if first.is_err() {
            first = contender.run(&hold(1));
        }
    }
    first?;
    let before = contender.memory()?.unwrap_or(0);
    contender.run(&hold(connections))?;
    let held = contender.memory()?.unwrap_or(0);
    contender.run(&hold(0))?;
    let load = steady(options);
    warm_up(contender, options, &load)?;
    contender.run(&Task::Steady(load))?;
    contender.run(&hold(0))?;
    let after = contender.memory()?.unwrap_or(0);
    let mib = |bytes: u64| Some(bytes as f64 / f64::from(1 << 20));
    let each = held.saturating_sub(before) as f64 / connections as f64 / 1024.0;
    Ok(vec![mib(fresh), mib(after), Some(each)])
}
