//! What living sources are read with, and which kinds of them a policy names.

use std::path::Path;

use interceptor_policy::KeySource;

use super::outbound::Asks;
use super::programs::Runs;

/// What living sources are read with.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    /// Runs programs.
    pub(crate) runs: Runs,
    /// Asks services.
    pub(crate) asks: Asks,
}

impl Sources {
    /// None: for this reason, no program is run and no service asked.
    pub(crate) fn none(why: &'static str) -> Sources {
        Sources { runs: Err(why), asks: Err(why) }
    }

    /// For a policy in this file: those of the kinds that it may name. For the others, `why`.
    pub(crate) fn accepting(&self, file: &Path, why: &'static str) -> Sources {
        let runs = self.accept(file, Kinds { runs: true, asks: false });
        let asks = self.accept(file, Kinds { runs: false, asks: true });
        Sources {
            runs: if runs { self.runs.clone() } else { Err(why) },
            asks: if asks { self.asks.clone() } else { Err(why) },
        }
    }

    /// Whether a policy in this file may name sources of these kinds.
    pub(crate) fn accept(&self, file: &Path, kinds: Kinds) -> bool {
        let runs = self.runs.as_ref().is_ok_and(|programs| !programs.accepts(file));
        let asks = self.asks.as_ref().is_ok_and(|asks| !asks.household.accepts(file));
        !(kinds.runs && runs || kinds.asks && asks)
    }
}

/// Which kinds of living sources a policy names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// Programs.
    pub(crate) runs: bool,
    /// Services.
    pub(crate) asks: bool,
}

impl Kinds {
    /// Those among these sources.
    pub(crate) fn of<'a>(sources: impl Iterator<Item = &'a KeySource>) -> Kinds {
        sources.fold(Kinds::default(), |kinds, source| match source {
            KeySource::Exec(_) => Kinds { runs: true, ..kinds },
            KeySource::Fetched(_) => Kinds { asks: true, ..kinds },
            _ => kinds,
        })
    }
}
