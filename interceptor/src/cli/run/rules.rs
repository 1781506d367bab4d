//! By which policy a run is judged.

use std::ffi::OsString;

use interceptor_policy::Catalogue;
use serde_json::Value;

use super::hidden;
use super::options::Run;
use super::setting::Setting;
use crate::cli::live::Origin;
use crate::cli::members::Judged;
use crate::cli::setup::{self, LoadedPolicy};
use crate::cli::stable::Typed;
use crate::cli::which::Chosen;
use crate::cli::written::Written;
use crate::cli::{Common, authors, outbound, perform, programs, registries, shown_policy};
use crate::credential::{Asks, Sources};
use crate::ipc::SentPath as Sent;
use crate::proxy::asking::LeaseScope;
use crate::sandbox::handover::ShownPolicy;

/// The policy of a run, and what belongs to it.
pub(super) struct ChosenRules {
    /// By what it is judged.
    pub(super) judged: Judged,
    /// The policy to learn from.
    pub(super) taught: Option<Value>,
    /// Variables that it comes with, `NAME=VALUE` each.
    pub(super) variables: Vec<OsString>,
    /// The services and profiles.
    pub(super) catalogue: Catalogue,
    /// Where it comes from.
    pub(super) origin: Origin,
    /// What asks services for keys.
    pub(super) asks: Asks,
}

impl ChosenRules {
    /// Chooses and reads it.
    ///
    /// # Errors
    /// If there is none, or it is not valid, or a key cannot be read.
    pub(super) fn of(
        arguments: &Run,
        setting: &Setting,
        by_daemon: bool,
    ) -> anyhow::Result<ChosenRules> {
        let Run { common, which, .. } = arguments;
        let Setting { person, directory, identity, .. } = setting;
        let taught = arguments.learning.document(&setting.caller)?;
        let catalogue = registries::catalogue(None)?;
        let (chosen, variables) = match &taught {
            Some(document) => {
                let written = Written::without_file("--learn", document.to_string());
                (Chosen::Text(written), Vec::new())
            }
            None if by_daemon => which.choose_by_daemon(common, person, directory, &catalogue)?,
            None => {
                let (written, variables) = which.choose(common, person, directory, &catalogue)?;
                (Chosen::Text(written), variables)
            }
        };
        let fresh = arguments.fresh_placeholders;
        let sources = match by_daemon {
            true => Sources::none(
                "keys from programs and services are not there for runs without sudo yet",
            ),
            false => Sources {
                runs: Ok(programs::of_person(person, identity, directory)),
                asks: outbound::of_person(
                    (&common.resolve, &common.upstream_ca),
                    person,
                    (identity, directory),
                )?,
            },
        };
        let typed = Typed { person, runner: identity.uid, fresh, sources };
        let (origin, judged) = match chosen {
            Chosen::Text(written) => {
                let written = authors::require(written, person, &typed.sources, &catalogue)?;
                let origin = Origin::of(&written)?;
                let rules = setup::rules_of(common, written, &typed)?;
                // A member's own files are the member's to read; what is hidden inside is hidden
                // all the same.
                if !common.quiet && !by_daemon {
                    setup::warn_of_exposed(&rules, identity);
                }
                (origin, Judged::By(Box::new(rules)))
            }
            Chosen::Operators(name) => {
                (Origin::default(), Judged::ByOperators { secret: typed.secret(), name })
            }
        };
        let asks = typed.sources.asks;
        Ok(ChosenRules { judged, taught, variables, catalogue, origin, asks })
    }
}

/// What a sandbox is judged by, and what of it is hidden inside.
pub(super) fn for_sandbox(rules: LoadedPolicy, common: &Common) -> perform::Rules {
    let shown = shown_policy(&rules);
    let LoadedPolicy { policy, keyring, key_variables, secret_files, .. } = rules;
    let hidden = hidden::files(secret_files, shown.as_ref(), common);
    let leases = LeaseScope::Any;
    perform::Rules { policy, keyring, key_variables, hidden, shown, leases }
}

/// The policy's file and its text without keys, if it has both.
fn shown_policy(rules: &LoadedPolicy) -> Option<ShownPolicy> {
    let file = rules.file.as_deref()?;
    let text = shown_policy::masked(rules)?;
    Some(ShownPolicy { path: Sent(file.to_owned()), text })
}
