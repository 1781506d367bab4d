//! Set-up shared by `run`, `attach` and `serve`: reads the policy and its keys, opens the audit
//! log, creates the proxy's shared state.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use interceptor_policy::{
    BASE_URL_ADDRESS, Document, KeySource, Limits, Policy, Problem, Proxy, strict_json,
};
use zeroize::Zeroizing;

use super::person::{self, Person};
use super::stable::Typed;
use super::written::Written;
use super::{Common, findings, given, history, key_problems, registries, who};
use crate::audit::{Audit, AuditOptions, ChainKey, ChainOptions};
use crate::credential::{CREDENTIALS_DIRECTORY, KeyError, KeyProblem, Keyring, Means, Sources};
use crate::fleet::without_keys;
use crate::logging;
use crate::notice;
use crate::proxy::{Runtime, RuntimeOptions};
use crate::sandbox::user::UserIdentity;
use crate::sandbox::{environment, launch};
use crate::upstream::{OverrideError, Overrides, Upstream, UpstreamOptions};

/// Names of standard error for `--audit`.
const STDERR: [&str; 4] = ["-", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"];

/// Logs to standard error: errors and the interceptor's own warnings, more with `-v`, only errors
/// with `-q`; `RUST_LOG` overrides all.
pub(super) fn log(common: &Common) {
    logging::start(common.log_format.unwrap_or_default(), level(common));
}

/// What is logged unless `RUST_LOG` says otherwise, in its syntax.
pub(super) fn level(common: &Common) -> &'static str {
    match (common.quiet, common.verbose) {
        (true, _) => "error",
        (false, 0) => "error,interceptor=warn",
        (false, 1) => "interceptor=info",
        (false, 2) => "interceptor=debug",
        (false, _) => "trace",
    }
}

/// Why there is no living source where nobody typed `run`.
const NO_SOURCES: &str =
    "keys from programs and services are not there for `attach` and containers yet";

/// A policy with its keys, and the host files that hold them.
#[derive(Debug)]
pub(super) struct LoadedPolicy {
    /// What messages call it.
    pub(super) name: String,
    /// The compiled policy.
    pub(super) policy: Policy,
    /// The real keys and their placeholders.
    pub(super) keyring: Keyring,
    /// Regular files that the sandbox must not read.
    pub(super) secret_files: Vec<PathBuf>,
    /// Variables of the interceptor's environment that hold real keys.
    pub(super) key_variables: Vec<String>,
    /// The document that was compiled; it may hold keys.
    pub(super) document: Zeroizing<String>,
    /// The text of the policy's file as it was read; it may hold keys.
    pub(super) text: Zeroizing<String>,
    /// The policy's file, symlinks resolved.
    pub(super) file: Option<PathBuf>,
    /// The policy's file, if it contains no key.
    plain: Option<PathBuf>,
    /// The policy's file, if its content was trusted: a changed file is not used.
    trusted: Option<PathBuf>,
    /// What the history keeps of the policy.
    pub(super) kept: serde_json::Value,
    /// What the control API shows of the policy.
    pub(super) shown: serde_json::Value,
    /// The warnings of `check`.
    pub(super) warnings: Vec<Problem>,
}

/// Keys could not be loaded, and nobody typed a command.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct NoKeys {
    /// Which keys, and why; one per line.
    text: String,
    /// Whether one is in an unset variable.
    pub(super) unset: bool,
}

impl NoKeys {
    fn of(name: &str, errors: &[KeyError]) -> NoKeys {
        let lines: Vec<String> = errors.iter().map(|error| format!("{name}: {error}")).collect();
        let unset = errors.iter().any(|error| matches!(error.problem.itself(), KeyProblem::Unset));
        NoKeys { text: lines.join("\ninterceptor: "), unset }
    }
}

impl LoadedPolicy {
    /// The sandbox's variables: placeholders and, if requested, the services' base URLs.
    pub(super) fn variables(&self, base_urls: bool) -> Vec<(String, String)> {
        environment::variables(&self.policy, &self.keyring, base_urls)
    }

    /// Whether a text contains a real key, literally or in an encoding that redaction knows.
    /// Returns `true` if in doubt.
    pub(super) fn hold_key(&self, text: &[u8]) -> bool {
        self.keyring.may_hold(text)
    }
}

/// Reads the policy (empty without `--policy`), prints its warnings, and loads the keys.
pub(super) fn rules(common: &Common) -> anyhow::Result<LoadedPolicy> {
    load(common, given::of(common)?, &Loading::default())
}

/// The rules of the policy that a person named, with the variables of keys looked up where the
/// command was typed.
pub(super) fn rules_for(common: &Common, person: &Person) -> anyhow::Result<LoadedPolicy> {
    let loading = Loading { person: Some(person), ..Loading::default() };
    load(common, given::of(common)?, &loading)
}

/// The same for `run`, whose placeholders are stable.
pub(super) fn rules_of(
    common: &Common,
    written: Written,
    typed: &Typed<'_>,
) -> anyhow::Result<LoadedPolicy> {
    let loading = Loading { person: Some(typed.person), typed: Some(typed), previous: None };
    load(common, written, &loading)
}

/// [`rules_for`], keeping the previous placeholders.
pub(super) fn rules_after(
    common: &Common,
    person: &Person,
    previous: &Keyring,
) -> anyhow::Result<LoadedPolicy> {
    let loading = Loading { person: Some(person), typed: None, previous: Some(previous) };
    load(common, given::of(common)?, &loading)
}

/// For whom a policy is loaded.
#[derive(Default)]
struct Loading<'a> {
    /// The person who typed the command; problems are reported as by `check`.
    person: Option<&'a Person>,
    /// A run, whose placeholders are stable.
    typed: Option<&'a Typed<'a>>,
    /// The keys so far, whose placeholders are kept.
    previous: Option<&'a Keyring>,
}

fn load(common: &Common, written: Written, loading: &Loading<'_>) -> anyhow::Result<LoadedPolicy> {
    let Loading { person, typed, previous } = *loading;
    let Written { name, text, own: as_read, file, is_trusted } = written;
    let report = interceptor_policy::check(&text, &registries::catalogue(None)?);
    let policy = report.policy.ok_or_else(|| match person {
        Some(_) => findings::invalid(&name, &text, &report.errors),
        None => invalid(&name, &report.errors),
    })?;
    let policy = common.proxy()?.into_iter().fold(policy, Policy::with_proxy);
    if !common.quiet {
        warn_of_document(&name, &text);
    }
    base_urls_fit(common, &name, &policy)?;
    let caller = caller(person, &policy)?;
    let environment = |name: &str| variable(name, person, caller.as_ref());
    let file = file.as_deref().and_then(regular_file);
    let seed = typed.filter(|_| !policy.credentials().is_empty());
    let seed = seed.and_then(|typed| typed.seed(file.as_deref(), &text));
    let sources = typed.map_or(Sources::none(NO_SOURCES), |typed| typed.sources.clone());
    let (seed, runs_new) = (seed.as_ref(), true);
    let means = Means { environment: &environment, seed, sources, runs_new };
    let keyring = Keyring::load_with(&policy, previous, &means);
    let keyring = keyring.map_err(|errors| match person {
        Some(person) => {
            let own = as_read.as_ref().unwrap_or(&text);
            key_problems::invalid(&name, own, &policy, &errors, who::sets_keys(&errors, person))
        }
        None => NoKeys::of(&name, &errors).into(),
    })?;

    let own = file.iter().chain(&common.audit_chain);
    let mut secret_files: Vec<PathBuf> = own.filter_map(|path| regular_file(path)).collect();
    let (key_files, key_variables, is_plain) = places(&policy);
    secret_files.extend(key_files);
    let trusted = file.clone().filter(|_| is_trusted);
    let plain = file.clone().filter(|_| is_plain);
    if !common.quiet {
        warn_of_links(&secret_files);
    }
    let strict = strict_json(&text).unwrap_or_default();
    let shown = without_keys(&strict, &[], &keyring);
    let kept = history::kept_policy(&name, history::kept_document(&strict, &policy, &keyring));
    Ok(LoadedPolicy {
        name,
        policy,
        keyring,
        secret_files,
        key_variables,
        text: as_read.unwrap_or_else(|| text.clone()),
        document: text,
        file,
        plain,
        trusted,
        kept,
        shown,
        warnings: report.warnings,
    })
}

/// Warns as the document itself does; `check` reports what is wrong with rules.
fn warn_of_document(name: &str, text: &str) {
    for warning in Document::parse(text).iter().flat_map(|parsed| &parsed.warnings) {
        notice::warning(describe(name, warning));
    }
}

/// The files and the variables that hold a policy's keys, and whether the policy itself holds none.
fn places(policy: &Policy) -> (Vec<PathBuf>, Vec<String>, bool) {
    let (mut files, mut variables, mut is_plain) = (Vec::new(), Vec::new(), true);
    for key in secrets(policy) {
        match key {
            KeySource::Env(variable) => variables.push(variable.clone()),
            KeySource::File(path) => files.extend(regular_file(path)),
            KeySource::Literal(_) => is_plain = false,
            KeySource::Exec(_) | KeySource::Fetched(_) | KeySource::Aws(_) => {}
        }
    }
    (files, variables, is_plain)
}

/// Who called sudo, where a policy needs the variables of proxies, which sudo drops.
fn caller(person: Option<&Person>, policy: &Policy) -> anyhow::Result<Option<Person>> {
    match (person, &policy.way_out().proxy) {
        (None, Some(Proxy::Environment)) => Person::invoking().map(Some),
        _ => Ok(None),
    }
}

/// A variable for keys and proxies.
fn variable(name: &str, person: Option<&Person>, caller: Option<&Person>) -> Option<OsString> {
    let found = match person {
        // The services' directory is the operator's to name.
        Some(person) if name != CREDENTIALS_DIRECTORY => person.given(name),
        _ => std::env::var_os(name),
    };
    found.or_else(|| caller.filter(|_| is_proxy(name))?.given(name))
}

/// Where the secrets of a policy are.
pub(super) fn secrets(policy: &Policy) -> impl Iterator<Item = &KeySource> {
    policy.sources().map(|(source, _)| source)
}

/// Whether a variable names a proxy, or what goes without one.
fn is_proxy(variable: &str) -> bool {
    variable.to_ascii_lowercase().ends_with("_proxy")
}

/// Warns of files that can be read under another name.
fn warn_of_links(secret_files: &[PathBuf]) {
    for file in secret_files.iter().filter(|file| has_other_names(file)) {
        notice::warning(format_args!(
            "{} has other hard links; the sandbox cannot read it under this name, but may be able \
             to under another",
            file.display()
        ));
    }
}

/// Checks that base URLs can work under a policy.
fn base_urls_fit(common: &Common, name: &str, policy: &Policy) -> anyhow::Result<()> {
    let denied = |network: &ipnet::IpNet| network.contains(&std::net::IpAddr::V4(BASE_URL_ADDRESS));
    if let Some(network) =
        policy.denied_networks().iter().find(|network| common.base_urls && denied(network))
    {
        bail!(
            "{name}: --base-urls needs {BASE_URL_ADDRESS}, which the deny rule `{network}` closes \
             to every connection; that address never leads out of the sandbox of a policy with \
             credentials, so narrow the rule or leave it out"
        );
    }
    Ok(())
}

/// Warns of key files that the sandbox's user can read on the host, and of directories where it can
/// replace them. Inside, the files are covered, but replacing a file removes its cover.
pub(super) fn warn_of_exposed(rules: &LoadedPolicy, identity: &UserIdentity) {
    use std::os::unix::fs::MetadataExt;
    // For root inside, everything except the working directory is read-only.
    if identity.uid == 0 {
        return;
    }
    let may = |path: &Path, bit: u32| {
        fs::metadata(path).is_ok_and(|metadata| {
            let owner = metadata.uid() == identity.uid && metadata.mode() & (bit << 6) != 0;
            let group = (metadata.gid() == identity.gid
                || identity.groups.contains(&metadata.gid()))
                && metadata.mode() & (bit << 3) != 0;
            // In a sticky directory, a user can move only its own files.
            let sticky = bit == 0o2 && metadata.mode() & 0o1000 != 0;
            owner || ((group || metadata.mode() & bit != 0) && !sticky)
        })
    };
    for file in &rules.secret_files {
        let name = file.display();
        if may(file, 0o4) && rules.plain.as_ref() != Some(file) {
            let roots = fs::metadata(file).is_ok_and(|metadata| metadata.uid() == 0);
            let chown = if roots { String::new() } else { format!("chown root {name} && ") };
            notice::warning(format_args!(
                "the sandbox's user can read {name} outside the sandbox, and inside if the file \
                 is replaced during the run; run: {chown}chmod 600 {name}"
            ));
        }
        if rules.trusted.as_ref() == Some(file) {
            continue;
        }
        if let Some(directory) = file.ancestors().skip(1).find(|directory| may(directory, 0o2)) {
            notice::warning(format_args!(
                "the sandbox's user can replace {name} before the next run, because it can write \
                 to {}; keep policies and keys where only root can write",
                directory.display()
            ));
        }
    }
}

/// The resolved path, if it is a regular file.
pub(super) fn regular_file(path: &Path) -> Option<PathBuf> {
    let resolved = fs::canonicalize(path).ok()?;
    resolved.is_file().then_some(resolved)
}

fn has_other_names(file: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).is_ok_and(|metadata| metadata.nlink() > 1)
}

fn describe(name: &str, problem: &Problem) -> String {
    let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
    let place =
        if problem.pointer.is_empty() { String::new() } else { format!("{}: ", problem.pointer) };
    format!("{name}{line}: {place}{}", problem.message)
}

fn invalid(name: &str, problems: &[Problem]) -> anyhow::Error {
    let lines: Vec<String> = problems.iter().map(|problem| describe(name, problem)).collect();
    anyhow::anyhow!("{}", lines.join("\ninterceptor: "))
}

/// Opens the audit log; without `--audit`, records are discarded. Refuses a file to which another
/// process writes a chain.
pub(super) fn audit(common: &Common, limits: &Limits) -> anyhow::Result<Audit> {
    // Under sudo the file belongs to whoever called it.
    open_audit(common, limits, false, person::caller_of_sudo())
}

/// [`audit`] for a daemon, which waits for its predecessor: a chain has one writer.
pub(super) fn audit_in_turn(common: &Common, limits: &Limits) -> anyhow::Result<Audit> {
    open_audit(common, limits, true, None)
}

fn open_audit(
    common: &Common,
    limits: &Limits,
    wait: bool,
    owner: Option<(u32, u32)>,
) -> anyhow::Result<Audit> {
    let backlog = usize::try_from(limits.audit_backlog).unwrap_or(usize::MAX);
    let default = AuditOptions::default();
    let options = AuditOptions {
        records_per_sandbox: backlog,
        records: default.records.max(backlog),
        owner,
        ..default
    };
    let key = common.audit_chain.as_deref().map(ChainKey::read).transpose()?;
    let to_stderr = |path: &&PathBuf| STDERR.iter().any(|name| path.as_path() == Path::new(name));
    Ok(match (&common.audit, key) {
        (None, None) => Audit::discard()?,
        (None, Some(_)) => bail!("--audit-chain needs --audit FILE, the log that it seals"),
        (Some(path), None) if to_stderr(&path) => Audit::to_stderr_with(options)?,
        (Some(path), Some(key)) if to_stderr(&path) => Audit::to_stderr_chained(options, key)?,
        (Some(path), None) => Audit::to_file_with(path, options)?,
        (Some(path), Some(key)) => {
            Audit::to_file_chained(path, options, ChainOptions { key, wait })?
        }
    })
}

/// What resolves and dials, by `--resolve`.
pub(super) fn upstream(resolve: &[String]) -> anyhow::Result<Upstream> {
    let overrides: Result<Overrides, OverrideError> =
        resolve.iter().map(|text| text.parse()).collect();
    let overrides = overrides.context("--resolve")?;
    Ok(Upstream::new(UpstreamOptions { overrides, ..UpstreamOptions::default() }))
}

/// The proxy state that all sandboxes of this process share.
pub(super) fn runtime(common: &Common, audit: Audit) -> anyhow::Result<Arc<Runtime>> {
    let options = RuntimeOptions {
        upstream: upstream(&common.resolve)?,
        upstream_ca: common.upstream_ca.clone(),
        roots: Vec::new(),
        audit,
    };
    let runtime = Runtime::new(options).with_context(|| {
        if common.upstream_ca.is_empty() { "upstream TLS" } else { "--upstream-ca" }
    })?;
    runtime.tidy_with(launch::give_back_memory);
    Ok(runtime)
}
