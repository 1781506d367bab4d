//! What a living source asks for its keys.

use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::{ExecSource, KeySource};
use jiff::Timestamp;

use super::fetched::Fetched;
use super::printed::{self, Printed};
use super::problem::SourceProblem;
use super::programs::Programs;

/// What a living source asks for its keys.
#[derive(Debug)]
pub(crate) enum Origin {
    /// A program, and what runs it.
    Program(ExecSource, Arc<dyn Programs>),
    /// A service.
    Service(Box<Fetched>),
}

impl Origin {
    /// Whether another would give the same keys, with the same rights.
    pub(super) fn is(&self, other: &Origin) -> bool {
        match (self, other) {
            (Origin::Program(one, runs), Origin::Program(other, others)) => {
                one == other && runs.whose() == others.whose()
            }
            (Origin::Service(one), Origin::Service(other)) => one.is(other),
            _ => false,
        }
    }

    /// Whether it is what a policy describes so.
    pub(super) fn is_of(&self, source: &KeySource) -> bool {
        match (self, source) {
            (Origin::Program(own, _), KeySource::Exec(source)) => own == source,
            (Origin::Service(own), KeySource::Fetched(source)) => own.is_of(source),
            _ => false,
        }
    }

    /// How long it may take.
    pub(super) fn timeout(&self) -> Duration {
        match self {
            Origin::Program(source, _) => source.timeout,
            Origin::Service(fetched) => fetched.timeout(),
        }
    }

    /// A key. Waits for it on this thread.
    pub(super) fn fetch(&self) -> Result<Printed, SourceProblem> {
        match self {
            Origin::Program(source, programs) => {
                printed::read(programs.run(source)?, source, Timestamp::now())
            }
            Origin::Service(fetched) => fetched.fetch(Timestamp::now()),
        }
    }
}
