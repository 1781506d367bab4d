//! One request at a time on one connection: how long a caller waits.

use anyhow::Result;

use super::keepalive::{MEASURES, measure, steady};
use super::{Scenario, Values};
use crate::contender::Contender;
use crate::load::Steady;
use crate::options::Options;
use crate::world::World;

pub(super) static SCENARIO: Scenario = Scenario {
    name: "single",
    title: "one request at a time, 1 KiB",
    measures: MEASURES,
    fresh: false,
    run,
};

fn run(_: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    measure(contender, options, &Steady { connections: 1, ..steady(options) })
}
