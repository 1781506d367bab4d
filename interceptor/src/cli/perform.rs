//! The half of `run` that needs root: makes the sandbox that a [`Plan`] describes, enforces the
//! policy on it, and starts the command. It opens none of the caller's paths itself: the process
//! inside does, with the user's rights if the user chose them.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use anyhow::bail;
use interceptor_policy::{Catalogue, Policy};

use super::live::{self, Hidden, Inside, Live, Parts, Reachable};
use super::meanwhile::Meanwhile;
use super::plan::Plan;
use crate::audit::Audit;
use crate::credential::Keyring;
use crate::fleet::{CgroupTarget, Enforced, Netns};
use crate::ipc::SentPath as Sent;
use crate::kernel::{Enforcer, KernelError};
use crate::notice;
use crate::proxy::asking::LeaseScope;
use crate::proxy::{Runtime, Sandbox};
use crate::sandbox::SandboxError;
use crate::sandbox::caller::Caller;
use crate::sandbox::environment::{self, Environment};
use crate::sandbox::handover::{Launch, ShownPolicy};
use crate::sandbox::launch::{self, LaunchedSandbox, Sockets};
use crate::sandbox::resources::{Bounded, Resources};
use crate::sandbox::rlimits::ResourceLimits;
use crate::sandbox::signals::Signals;
use crate::sandbox::user::{UserIdentity, user_namespaces};
use crate::seam::SELF_TEST;

/// The slowest step, started as early as possible: the kernel verifies the programs.
pub(super) struct Loading(Meanwhile<Result<Enforcer, KernelError>>);

/// The two slowest steps: [`Loading`], and moving the sandbox's first process into its cgroup.
pub(super) struct Begun {
    loading: Loading,
    making: Meanwhile<Result<(LaunchedSandbox, Sockets), SandboxError>>,
}

/// The rules of a run, and what it must not see.
pub(super) struct Rules {
    pub(super) policy: Policy,
    pub(super) keyring: Keyring,
    /// Variables that hold keys.
    pub(super) key_variables: Vec<String>,
    /// Files that the sandbox must not read.
    pub(super) hidden: Vec<Sent>,
    /// The policy as the sandbox sees it.
    pub(super) shown: Option<ShownPolicy>,
    /// What leases may permit in addition to the policy.
    pub(super) leases: LeaseScope,
}

/// A run, and who asked for it.
pub(super) struct Run<'a> {
    pub(super) plan: Plan,
    pub(super) identity: UserIdentity,
    pub(super) rules: Rules,
    /// The limit of open files that the caller had.
    pub(super) open_files: (u64, u64),
    /// The caller's other limits, if this process does not have them.
    pub(super) limits: Option<ResourceLimits>,
    /// The command's standard input, output and error.
    pub(super) descriptors: [BorrowedFd<'a>; 3],
    pub(super) signals: &'a Signals,
    /// Who typed the command, if not this process's caller. The user then chose the paths.
    pub(super) caller: Option<&'a dyn Caller>,
    /// What makes it reachable while it runs.
    pub(super) reachable: Reachable,
}

impl Loading {
    /// Starts loading.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn begin() -> anyhow::Result<Loading> {
        Meanwhile::begin("loading", Enforcer::load).map(Loading)
    }

    /// Starts making the sandbox.
    ///
    /// # Errors
    /// As [`Loading::begin`].
    pub(super) fn make(
        self,
        id: &str,
        isolated: bool,
        resources: Resources,
    ) -> anyhow::Result<Begun> {
        let (loading, id) = (self, id.to_owned());
        let making =
            Meanwhile::begin("making", move || LaunchedSandbox::make(&id, isolated, &resources))?;
        Ok(Begun { loading, making })
    }
}

/// Runs the command to its end, and returns its exit status and the limits that it reached.
/// Calls `before` before the command starts.
///
/// # Errors
/// If the command did not start, or the sandbox failed.
pub(super) fn perform(
    run: Run<'_>,
    begun: Begun,
    runtime: &Arc<Runtime>,
    audit: &Audit,
    before: impl FnOnce(&Environment),
) -> anyhow::Result<(i32, Vec<Bounded>)> {
    let Run { plan, identity, rules, open_files, limits, descriptors, signals, .. } = run;
    let (caller, reachable) = (run.caller, run.reachable);
    let Begun { loading: Loading(loading), making } = begun;
    let (mut sandbox, sockets) = match making.end() {
        Ok(made) => made,
        // A process that cannot load programs cannot create a cgroup either; the kernel's error is
        // clearer.
        Err(failed) => return Err(loading.end().err().map_or_else(|| failed.into(), Into::into)),
    };
    unbounded(&sandbox, &plan)?;
    let environment = environment(&plan, &identity, &rules);
    before(&environment);
    let inside = inside(&plan, &identity, &rules, &environment);
    let Rules { policy, keyring, hidden, shown, leases, .. } = rules;
    let proxy = Sandbox::new(runtime, &plan.id, policy, keyring)?;
    proxy.asking.bound_leases(leases);
    name(&proxy);
    let (id, user) = (plan.id, identity.name.clone());
    let launch = Launch {
        command: plan.command,
        environment: environment.lines,
        directory: plan.directory,
        identity,
        umask: plan.umask,
        ignored: plan.ignored,
        ca_pem: proxy.trust_pem(),
        hidden,
        policy: shown,
        hidden_directories: plan.hidden_directories,
        secrets: plan.secrets,
        bundles: plan.bundles,
        search_bundles: plan.search_bundles,
        open_files,
        limits,
        users_paths: caller.is_some(),
        shared_network: !plan.isolated,
        nesting: plan.nesting,
    };
    // Only the first process exists yet; it prepares the command's view while enforcement starts.
    sandbox.prepare(launch, descriptors)?;
    let enforcer = loading.end()?;
    let (cgroup, cgroup_id) = (sandbox.cgroup().path().to_owned(), sandbox.cgroup().id());
    // `make` created it, so it is private, whatever devices it has.
    let netns = if plan.isolated { Netns::Private } else { Netns::Shared };
    let place = CgroupTarget { cgroup: &cgroup, cgroup_id, netns };
    let mut enforced = Enforced::begin(runtime, &enforcer, proxy, &place, sockets, None)?;
    sandbox.hold_links()?;
    sandbox.self_test(SELF_TEST, &enforced.token)?;
    enforced.record_refusals()?;
    let (own, shared) = (id.as_str().into(), runtime.clone());
    let cgroup = (cgroup, cgroup_id);
    let parts = Parts { id: own, cgroup, runtime: shared, enforcer, enforced, inside };
    let live = Live::begin(reachable, parts);
    tracing::info!(sandbox = %id, %user, "self-test passed; starting the command");
    launch::give_back_memory();
    runtime.warm();

    // Once its processes are gone, tear down the rest in order.
    let ended = sandbox.run(descriptors, signals, caller);
    let tokio = tokio::runtime::Handle::current();
    live.end(&tokio);
    tokio.block_on(audit.shutdown());
    Ok(ended?)
}

/// A description of the run, for those who can reach it.
fn inside(
    plan: &Plan,
    identity: &UserIdentity,
    rules: &Rules,
    environment: &Environment,
) -> Inside {
    Inside {
        command: live::command_line(&plan.command.0, &rules.keyring),
        hidden: Hidden::of(&rules.hidden, &plan.hidden_directories, &plan.secrets),
        environment: environment.lines.clone(),
        runner: identity.clone(),
        base_urls: plan.base_urls,
    }
}

/// Makes the machine's name resolve to the sandbox itself.
fn name(proxy: &Sandbox) {
    if let Some(name) = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()) {
        proxy.name_itself(&name);
    }
}

/// The command's environment.
fn environment(plan: &Plan, identity: &UserIdentity, rules: &Rules) -> Environment {
    let sources = environment::Sources {
        inherited: plan.variables(),
        sandbox: &plan.id,
        identity,
        placeholders: environment::variables(&rules.policy, &rules.keyring, plan.base_urls),
        key_variables: rules.key_variables.clone(),
        service_variables: service_variables(),
        given: plan.given.0.clone(),
    };
    environment::build(sources, |value| rules.keyring.may_hold(value))
}

/// The variables of the catalogue's services.
fn service_variables() -> Vec<String> {
    Catalogue::builtin().services().flat_map(|service| service.env.clone()).collect()
}

/// Warns of resources that cannot be limited.
///
/// # Errors
/// If a requested limit is among them.
fn unbounded(sandbox: &LaunchedSandbox, plan: &Plan) -> anyhow::Result<()> {
    const WHY: &str = "no cgroup file system mounted here offers the controller";
    for resource in sandbox.unbounded() {
        match plan.is_asked(*resource) {
            true => bail!("{}: {WHY}", option(*resource)),
            false if plan.quiet => {}
            false => {
                notice::warning(format_args!("the sandbox's {resource} cannot be limited: {WHY}"))
            }
        }
    }
    Ok(())
}

/// The option that sets the limit.
pub(super) fn option(resource: Bounded) -> &'static str {
    match resource {
        Bounded::Processes => "--pids-limit",
        Bounded::Memory => "--memory",
    }
}

/// Checks that nested sandboxes can work for this user on this machine.
///
/// # Errors
/// Why they cannot.
pub(super) fn nesting_needs(identity: &UserIdentity) -> anyhow::Result<()> {
    if identity.is_root() {
        // Mapping user 0 into a namespace needs a capability that no sandbox has
        // (user_namespaces(7)).
        bail!(
            "--nesting: root without capabilities cannot use user namespaces; choose another \
             --user"
        );
    }
    match user_namespaces() {
        Ok(_) => Ok(()),
        Err((why, remedy)) => bail!("--nesting: {why}: {remedy}"),
    }
}
