//! HTTP/2: few connections, several streams on each.

use anyhow::Result;

use super::keepalive::{MEASURES, measure, steady};
use super::{Scenario, Values};
use crate::contender::Contender;
use crate::load::Steady;
use crate::options::Options;
use crate::world::World;

pub(super) static SCENARIO: Scenario = Scenario {
    name: "http2",
    title: "HTTP/2, 4 × 8 streams, 1 KiB",
    measures: MEASURES,
    fresh: false,
    run,
};

pub(super) const CONNECTIONS: usize = 4;
pub(super) const STREAMS: usize = 8;

fn run(_: &World, contender: &mut Contender, options: &Options) -> Result<Values> {
    let load = Steady { h2: true, connections: CONNECTIONS, streams: STREAMS, ..steady(options) };
    measure(contender, options, &load)
}
