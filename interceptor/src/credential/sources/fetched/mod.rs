//! Sources that are asked over HTTP, each a file: how the request is made of the secrets that it
//! presents, and how its answer is read.

#[cfg(test)]
pub(super) mod doubles;
mod inputs;
mod jwt;
mod oauth2;
mod rotation;
#[cfg(test)]
mod tests;
mod token;
mod vault;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use interceptor_policy::FetchedSource;
use jiff::Timestamp;

pub(super) use self::inputs::Inputs;
use super::household::Household;
use super::printed::Printed;
use super::problem::SourceProblem;
use crate::fetch::{Answer, Client, FetchError, Request};

/// A source that is asked over HTTP, with what it presents and the road to it.
#[derive(Debug)]
pub(crate) struct Fetched {
    source: FetchedSource,
    inputs: Inputs,
    client: Arc<Client>,
    /// What tells one road from another.
    road: String,
    household: Arc<dyn Household>,
    /// What a Vault server gave beside keys.
    vault: Mutex<vault::Session>,
}

impl From<FetchError> for SourceProblem {
    fn from(error: FetchError) -> SourceProblem {
        match error {
            FetchError::Timeout(limit) => SourceProblem::Silent(limit),
            other => SourceProblem::Unfetched(other.to_string()),
        }
    }
}

impl Fetched {
    pub(super) fn new(
        source: FetchedSource,
        inputs: Inputs,
        (client, road): (Arc<Client>, String),
        household: Arc<dyn Household>,
    ) -> Fetched {
        Fetched { source, inputs, client, road, household, vault: Mutex::default() }
    }

    /// Whether another would give the same keys, with the same rights, by the same road.
    pub(super) fn is(&self, other: &Fetched) -> bool {
        self.source == other.source
            && self.inputs == other.inputs
            && self.road == other.road
            && self.household.whose() == other.household.whose()
    }

    /// Whether it is what a policy describes so.
    pub(super) fn is_of(&self, source: &FetchedSource) -> bool {
        self.source == *source
    }

    /// How long it may take, with the programs that it runs.
    pub(super) fn timeout(&self) -> Duration {
        self.source.timeout() + self.inputs.timeout()
    }

    /// Asks for a key. Waits for it on this thread.
    pub(super) fn fetch(&self, now: Timestamp) -> Result<Printed, SourceProblem> {
        match &self.source {
            FetchedSource::Oauth2(source) => self.oauth2(source, now),
            FetchedSource::Vault(source) => self.vault(source, now),
        }
    }

    /// Sends a request.
    fn send(&self, request: &Request) -> Result<Answer, SourceProblem> {
        Ok(self.client.send(request, self.source.timeout())?)
    }
}
