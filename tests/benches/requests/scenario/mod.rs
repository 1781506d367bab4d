//! The scenarios, one per file.

mod bulk;
mod confirm;
mod events;
mod handshakes;
mod http2;
mod keepalive;
mod memory;
mod names;
mod single;

use anyhow::Result;

use crate::contender::Contender;
use crate::load::Done;
use crate::options::Options;
use crate::world::World;

/// Small requests.
pub(crate) const PER: f64 = 10_000.0;

/// A value for each measure; `None` if the contender does not have it.
pub(crate) type Values = Vec<Option<f64>>;

/// A scenario.
pub(crate) struct Scenario {
    /// Its name for `--scenario`.
    pub(crate) name: &'static str,
    /// Its title in the table.
    pub(crate) title: &'static str,
    pub(crate) measures: &'static [Measure],
    /// Whether each round starts its contender anew.
    pub(crate) fresh: bool,
    /// One round.
    pub(crate) run: fn(&World, &mut Contender, &Options) -> Result<Values>,
}

/// A measure of a scenario.
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) better: Better,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

const fn lower(name: &'static str) -> Measure {
    Measure { name, better: Better::Lower }
}

const fn higher(name: &'static str) -> Measure {
    Measure { name, better: Better::Higher }
}

/// All scenarios, in the order of the table.
pub(crate) const ALL: &[&Scenario] = &[
    &keepalive::SCENARIO,
    &confirm::WRK,
    &http2::SCENARIO,
    &confirm::H2LOAD,
    &handshakes::SCENARIO,
    &names::TOGETHER,
    &names::ALONE,
    &bulk::DOWN_1,
    &bulk::DOWN_8,
    &bulk::DOWN_H2,
    &bulk::UP,
    &single::SCENARIO,
    &events::SCENARIO,
    &memory::SCENARIO,
];

/// CPU time per request: `cpu` seconds over this many requests.
fn per_requests(cpu: Option<f64>, requests: usize) -> Option<f64> {
    cpu.map(|cpu| cpu / requests as f64 * PER)
}

fn rate(done: &Done) -> Option<f64> {
    Some(done.requests as f64 / done.seconds)
}

fn median(done: &Done, of: &str) -> Option<f64> {
    done.times.get(of).map(|times| times.p50)
}

fn tail(done: &Done, of: &str) -> Option<f64> {
    done.times.get(of).map(|times| times.p99)
}

impl Better {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Better::Lower => "lower",
            Better::Higher => "higher",
        }
    }
}
