//! Server-sent events, one every five milliseconds: the time from connecting to the first event,
//! and from the origin writing each event to its arrival.

use anyhow::Result;

use super::{Scenario, Values, lower, median, tail};
use crate::contender::Contender;
use crate::load::Task;
use crate::options::Options;
use crate::world::World;

pub(super) static SCENARIO: Scenario = Scenario {
    name: "events",
    title: "server-sent events",
    measures: &[lower("first event, p50 ms"), lower("delay of each, p50 ms"), lower("p99 ms")],
    fresh: false,
    run,
};

fn run(_: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    let task = |streams| Task::Events { path: "/events".to_owned(), streams };
    // The first stream causes the certificate to be minted.
    let _ = contender.run(&task(1));
    let done = contender.run(&task(options.count(10)))?;
    Ok(vec![median(&done, "first"), median(&done, "delay"), tail(&done, "delay")])
}
