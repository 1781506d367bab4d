//! A connection with a full handshake for each request, to a known name.

use anyhow::Result;

use super::keepalive::{MEASURES, measure, steady};
use super::{Scenario, Values};
use crate::contender::Contender;
use crate::load::Steady;
use crate::options::Options;
use crate::world::World;

pub(super) static SCENARIO: Scenario = Scenario {
    name: "handshakes",
    title: "full handshakes, 8 at once",
    measures: MEASURES,
    fresh: false,
    run,
};

fn run(_: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    measure(contender, options, &Steady { fresh: true, connections: 8, ..steady(options) })
}
