//! By which policy a member's run is judged, and whether the member may have that.
//!
//! The operator's policies are used, and nothing of them is told: neither their text nor what is
//! wrong with it, which goes to the operator's log. No option of the member's has an effect on
//! them: with `--resolve` or `--upstream-ca` the member could have the keys sent elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use interceptor_policy::{Document, KeySource, Limits, Policy};

use super::access::Grants;
use super::wire::{OwnPolicy, Wanted};
use crate::cli::perform::Rules;
use crate::cli::{discovery, policy_file, registries, setup};
use crate::control::model::OwnPolicies;
use crate::credential::{KeyError, Keyring, Means, SECRET, Seed, Sources};
use crate::ipc::{Secret, SentPath};
use crate::notice;
use crate::proxy::asking::LeaseScope;
use crate::sandbox::handover::ShownPolicy;

/// Why no program is run for a member.
const NO_SOURCES: &str = "keys from programs and services are not there for runs without sudo yet";

/// The most files that a policy may hide.
const MOST_FILES: usize = 1024;
/// The most credentials of a policy that a member brings.
const MOST_CREDENTIALS: usize = 256;

/// The options of a member that have to do with addresses.
pub(super) struct Asked<'a> {
    pub(super) resolve: &'a [String],
    pub(super) upstream_ca: &'a [String],
}

/// The rules of a run.
pub(super) struct Judgement {
    pub(super) rules: Rules,
    /// Whether they are the member's own.
    pub(super) own: bool,
}

/// Finds the rules of a run.
///
/// # Errors
/// If the member may not have them, or they are not valid.
pub(super) fn judge(
    wanted: Wanted,
    grants: &Grants,
    asked: &Asked<'_>,
    uid: u32,
) -> anyhow::Result<Judgement> {
    match wanted {
        Wanted::Named { name, secret } => {
            ensure!(
                grants.policies.contains(&name),
                "there is no policy {name:?} of yours, and none of the operator's of this name \
                 that you may use (yours are: {}); a file is named with a slash or a dot: \
                 --policy ./{name}",
                grants.named()
            );
            ensure!(
                asked.resolve.is_empty() && asked.upstream_ca.is_empty(),
                "--resolve and --upstream-ca cannot be used with the operator's policy {name}"
            );
            let rules = operators(&name, secret, uid).map_err(|error| {
                // Standard error is the daemon's still.
                notice::error(format_args!("the policy {name}: {error:#}"));
                anyhow::anyhow!(
                    "the operator's policy {name} cannot be used; the daemon's log says why"
                )
            })?;
            Ok(Judgement { rules, own: false })
        }
        Wanted::Own(policy) => {
            ensure!(
                grants.own > OwnPolicies::No,
                "you may use the operator's policies only, with --policy NAME; yours are: {}",
                grants.named()
            );
            let mut rules = own(*policy)?;
            if grants.own < OwnPolicies::AnyAddress {
                public_only(&rules, asked)?;
                rules.leases = LeaseScope::Public;
            }
            Ok(Judgement { rules, own: true })
        }
    }
}

/// Checks that a policy and its options reach public addresses only, and nothing by another way.
fn public_only(rules: &Rules, asked: &Asked<'_>) -> anyhow::Result<()> {
    const OPERATOR: &str = "the operator can permit it (`own_policies`: \"any-address\")";
    ensure!(
        asked.resolve.is_empty() && asked.upstream_ca.is_empty(),
        "--resolve and --upstream-ca are not yours to use without sudo; {OPERATOR}"
    );
    // What the member's process has read counts, whatever the policy says.
    ensure!(
        rules.keyring.outward().is_usual(),
        "the policy's `upstream` (and --upstream-proxy) is not yours to use without sudo; \
         {OPERATOR}"
    );
    let special = rules.policy.allowed_special();
    if !special.is_empty() {
        bail!(
            "the policy allows addresses that are not public, which is not yours to do without \
             sudo: {}; {OPERATOR}",
            special.join(", ")
        );
    }
    Ok(())
}

/// A policy that the member brought, with its keys.
fn own(policy: OwnPolicy) -> anyhow::Result<Rules> {
    let OwnPolicy { name, text, registries: hosts, mut keys, key_variables, hidden, shown } =
        policy;
    ensure!(hidden.len() <= MOST_FILES, "the policy names too many files");
    let all = hidden.iter().chain(shown.iter().map(|(path, _)| path));
    ensure!(all.into_iter().all(|path| path.0.is_absolute()), "a path is not absolute");
    let catalogue = registries::with_hosts(hosts)?;
    let report = interceptor_policy::check(text.expose(), &catalogue);
    let Some(policy) = report.policy else {
        let what: Vec<String> = report.errors.iter().map(policy_file::describe).collect();
        bail!("{name}: {}", what.join("; "));
    };
    affordable(&policy)?;
    // What the member's process has read is all that there is: a file would be read by root.
    keys.begin_anew();
    let keyring = Keyring::restore(policy.credentials(), keys, &Sources::none(NO_SOURCES))
        .map_err(|errors| anyhow::anyhow!("{name}: {}", joined(&errors)))?;
    let shown = shown.map(|(path, text)| ShownPolicy { path, text });
    let leases = LeaseScope::Any;
    Ok(Rules { policy, keyring, key_variables, hidden, shown, leases })
}

/// Checks that a policy asks for no more of what root's process has than is usual.
fn affordable(policy: &Policy) -> anyhow::Result<()> {
    let (asked, usual) = (policy.limits(), Limits::default());
    for (name, asked, most) in [
        ("connections", asked.connections, usual.connections),
        ("requests", asked.requests, usual.requests),
        ("header_bytes", asked.header_bytes, usual.header_bytes),
        ("headers", asked.headers, usual.headers),
        ("mints_per_second", asked.mints_per_second, usual.mints_per_second),
        ("mints_burst", asked.mints_burst, usual.mints_burst),
        ("audit_backlog", asked.audit_backlog, usual.audit_backlog),
    ] {
        ensure!(
            asked <= most,
            "limits.{name}: without sudo, a policy of your own may have at most {most}"
        );
    }
    ensure!(
        policy.credentials().len() <= MOST_CREDENTIALS,
        "without sudo, a policy of your own may have at most {MOST_CREDENTIALS} credentials"
    );
    Ok(())
}

/// The operator's policy of a name, with its keys.
fn operators(name: &str, secret: Option<Secret>, uid: u32) -> anyhow::Result<Rules> {
    let file = discovery::of_the_system(name).context("there is no such file")?;
    let text = policy_file::read(&file)?;
    let text = zeroize::Zeroizing::new(text);
    let report = interceptor_policy::check(&text, &registries::catalogue(None)?);
    let Some(policy) = report.policy else {
        let what: Vec<String> = report.errors.iter().map(policy_file::describe).collect();
        bail!(what.join("; "));
    };
    if let Ok(parsed) = Document::parse(&text) {
        for warning in &parsed.warnings {
            notice::warning(format_args!("{}: {}", file.display(), policy_file::describe(warning)));
        }
    }
    let seed = secret.and_then(|secret| seed(&secret, uid, &file));
    let environment = |name: &str| std::env::var_os(name);
    let means = Means::without_sources(&environment, seed.as_ref(), NO_SOURCES);
    let keyring = Keyring::load_with(&policy, None, &means)
        .map_err(|errors| anyhow::anyhow!(joined(&errors)))?;
    let mut hidden = vec![SentPath(file)];
    let mut key_variables = Vec::new();
    for key in setup::secrets(&policy) {
        match key {
            KeySource::Env(variable) => key_variables.push(variable.clone()),
            KeySource::File(path) => hidden.extend(setup::regular_file(path).map(SentPath)),
            KeySource::Literal(_)
            | KeySource::Exec(_)
            | KeySource::Fetched(_)
            | KeySource::Aws(_) => {}
        }
    }
    // A lease could send the operator's keys elsewhere, and the member can pass for whoever gives
    // one: the run's socket is in the member's directory.
    let leases = LeaseScope::Nothing;
    Ok(Rules { policy, keyring, key_variables, hidden, shown: None, leases })
}

fn joined(errors: &[KeyError]) -> String {
    errors.iter().map(KeyError::to_string).collect::<Vec<_>>().join("; ")
}

/// What the placeholders of a member are derived from.
fn seed(secret: &Secret, uid: u32, file: &Path) -> Option<Seed> {
    let text = secret.expose().as_bytes();
    let mut bytes = zeroize::Zeroizing::new([0; SECRET]);
    let digits = text.chunks_exact(2).map(|pair| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    if text.len() != 2 * SECRET {
        return None;
    }
    for (byte, digit) in bytes.iter_mut().zip(digits) {
        *byte = digit?;
    }
    let policy = [b"operator's\0", PathBuf::from(file).as_os_str().as_encoded_bytes()].concat();
    Some(Seed::new(&bytes, uid, &policy))
}
