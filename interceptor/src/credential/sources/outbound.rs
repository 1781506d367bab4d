//! How services are reached: what makes a client for the road of a sandbox.

use std::fmt;
use std::sync::Arc;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use interceptor_policy::FetchedSource;
use rustls::ClientConfig;

use super::fetched::{Fetched, Inputs};
use super::household::Household;
use super::origin::Origin;
use super::problem::SourceProblem;
use super::programs::Runs;
use crate::fetch::Client;
use crate::tls::verify::CertificateVerifier;
use crate::tls::{TlsError, client};
use crate::upstream::{Road, Upstream};

/// What services are asked with.
#[derive(Clone)]
pub(crate) struct Outbound {
    /// Resolves and dials, by `--resolve`.
    pub(crate) upstream: Upstream,
    /// Verifies services, by `--upstream-ca`.
    pub(crate) verifier: Arc<CertificateVerifier>,
    /// What TLS towards services is made from.
    pub(crate) tls: Arc<ClientConfig>,
    /// Whose the sources are.
    pub(crate) household: Arc<dyn Household>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("household", &self.household).finish_non_exhaustive()
    }
}

impl Outbound {
    /// By these, for this household.
    ///
    /// # Errors
    /// If the TLS library refuses its own defaults.
    pub(crate) fn new(
        upstream: Upstream,
        verifier: Arc<CertificateVerifier>,
        household: Arc<dyn Household>,
    ) -> Result<Outbound, TlsError> {
        let tls = client::base(verifier.clone())?;
        Ok(Outbound { upstream, verifier, tls, household })
    }

    /// The same for another household.
    pub(crate) fn of_household(&self, household: Arc<dyn Household>) -> Outbound {
        Outbound { household, ..self.clone() }
    }

    /// What asks by this road, which this text tells from others.
    ///
    /// # Errors
    /// If there is no client for it.
    pub(crate) fn asker(&self, road: Road, told: String) -> Result<Asker, SourceProblem> {
        let client = Client::new(self.upstream.clone(), road)?;
        Ok(Asker { client: Arc::new(client), road: told, household: self.household.clone() })
    }
}

/// Asks services for one keyring.
#[derive(Debug)]
pub(crate) struct Asker {
    client: Arc<Client>,
    /// What tells its road from others.
    road: String,
    household: Arc<dyn Household>,
}

/// What asks for one keyring; or why nothing does.
pub(crate) type Asking = Result<Asker, SourceProblem>;

impl Asker {
    /// A source, whose variables are read now; `located` finds the file that a path means.
    pub(crate) fn origin(
        &self,
        source: &FetchedSource,
        variable: &dyn Fn(&str) -> Option<OsString>,
        located: &dyn Fn(&Path) -> PathBuf,
        runs: &Runs,
    ) -> Origin {
        let household = self.household.clone();
        let inputs = Inputs::of(source, variable, located, runs, household.clone());
        let road = (self.client.clone(), self.road.clone());
        Origin::Service(Box::new(Fetched::new(source.clone(), inputs, road, household)))
    }
}

/// What asks services; or why none is asked.
pub(crate) type Asks = Result<Arc<Outbound>, &'static str>;
