//! For tests: households in a directory, and sources as a policy describes them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interceptor_policy::{Catalogue, FetchedSource, KeySource, check};
use zeroize::Zeroizing;

use super::super::{Household, Living, Origin, StateWork};
use super::{Fetched, Inputs};
use crate::fetch::Client;
use crate::files;
use crate::tls::client::{self, ClientConfigs};
use crate::upstream::{NameServers, Road, Upstream, UpstreamOptions};

/// A household whose state is in a directory.
#[derive(Debug)]
pub(crate) struct Home {
    whose: String,
    state: PathBuf,
}

impl Home {
    pub(crate) fn at(state: &Path) -> Arc<dyn Household> {
        Arc::new(Home { whose: state.display().to_string(), state: state.to_owned() })
    }
}

impl Household for Home {
    fn whose(&self) -> &str {
        &self.whose
    }

    fn accepts(&self, _: &Path) -> bool {
        true
    }

    fn read(&self, file: &Path, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        files::read(file, most).map(|(text, _)| text)
    }

    fn with_state(&self, work: StateWork<'_>) -> io::Result<()> {
        work(&self.state)
    }
}

/// The source that a policy describes so.
pub(crate) fn described(key: &serde_json::Value) -> FetchedSource {
    let text = serde_json::json!({
        "credentials_v2": { "lab": { "key": key, "hosts": ["api.test"], "env": "LAB" } } });
    let report = check(&text.to_string(), &Catalogue::builtin());
    let policy = report.policy.unwrap_or_else(|| panic!("{:?}", report.errors));
    match &policy.credentials()[0].key {
        KeySource::Fetched(source) => source.clone(),
        other => panic!("{other:?}"),
    }
}

/// The source of a policy, for a household.
pub(crate) fn fetched(key: &serde_json::Value, household: &Arc<dyn Household>) -> Fetched {
    let source = described(key);
    let upstream = Upstream::new(UpstreamOptions {
        name_servers: NameServers::These(Vec::new()),
        ..UpstreamOptions::default()
    });
    let verifier = client::verifier(&[], &[]).unwrap();
    let road = Road::direct(ClientConfigs::new(client::base(verifier).unwrap()));
    let client = Arc::new(Client::new(upstream, road).unwrap());
    let inputs = Inputs::of(
        &source,
        &|_| None,
        &|path| path.to_owned(),
        &Err("not in this test"),
        household.clone(),
    );
    Fetched::new(source, inputs, (client, "direct".to_owned()), household.clone())
}

/// The same, alive.
pub(crate) fn living(key: &serde_json::Value, household: &Arc<dyn Household>) -> Arc<Living> {
    super::super::living(Origin::Service(Box::new(fetched(key, household))), "lab")
}
