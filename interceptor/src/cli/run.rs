//! `interceptor run`: runs a command in a sandbox whose egress is intercepted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use interceptor_policy::Catalogue;

use super::at_home::AtHome;
use super::bounds::{self, Bound};
use super::history::{self, History};
use super::learn::Learning;
use super::meanwhile::Meanwhile;
use super::person::Person;
use super::stable::Typed;
use super::summary::Summary;
use super::which::Which;
use super::who::{self, Runner};
use super::written::Written;
use super::{Common, Net, discovery, registries, setup, shown_policy};
use crate::fleet::{CgroupTarget, Enforced, Netns};
use crate::ipc::{SentPath as Sent, Strings};
use crate::kernel::Enforcer;
use crate::notice;
use crate::proxy::Sandbox;
use crate::sandbox::handover::{Launch, ShownPolicy};
use crate::sandbox::resources::{self, Bounded, Resources};
use crate::sandbox::signals::Signals;
use crate::sandbox::user::{UserIdentity, user_namespaces};
use crate::sandbox::{environment, launch, stdio};
use crate::seam::SELF_TEST;

/// The arguments of `interceptor run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// The options that `attach` and `serve` have too.
    #[command(flatten)]
    common: Common,
    /// The network of the sandbox.
    #[arg(long, value_enum, default_value_t = Net::Isolated)]
    net: Net,
    /// The user to run the command as, by name or number, optionally with `:GROUP` [default: the
    /// user who called sudo; for root the owner of the working directory, else nobody].
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Pass in or set this variable; repeatable. By default, variables of services and those with
    /// secret-sounding names stay outside unless the policy names them.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Show this place of the home inside, which is hidden otherwise (keys, logins, histories, …);
    /// repeatable.
    #[arg(long, value_name = "PATH")]
    expose: Vec<PathBuf>,
    /// Use new placeholders, not those of earlier runs with this policy.
    #[arg(long)]
    fresh_placeholders: bool,
    /// Also add the sandbox's CA to this bundle of roots (PEM), inside only; repeatable.
    #[arg(long, value_name = "FILE")]
    ca_bundle: Vec<PathBuf>,
    /// Do not cover bundles of roots that packages bring (certifi, botocore, Stripe, …). A covered
    /// bundle cannot be removed or upgraded inside.
    #[arg(long)]
    no_bundle_search: bool,
    /// Allow user namespaces inside, for commands with a sandbox of their own (bubblewrap,
    /// browsers).
    #[arg(long)]
    nesting: bool,
    /// Limit the number of processes and threads inside, or `none` [default: 4096].
    #[arg(long, value_name = "NUMBER", value_parser = bounds::processes)]
    pids_limit: Option<Bound>,
    /// Limit their memory: bytes, or a number with k, m or g, or `none` [default: three quarters of
    /// the machine's].
    #[arg(long, value_name = "SIZE", value_parser = bounds::memory)]
    memory: Option<Bound>,
    /// Which policy it has.
    #[command(flatten)]
    which: Which,
    /// How it is named, and what is remembered of it.
    #[command(flatten)]
    history: History,
    /// What is said of it.
    #[command(flatten)]
    summary: Summary,
    /// Whether a policy is learnt from it.
    #[command(flatten)]
    learning: Learning,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  sudo interceptor run --policy p.json -- my-agent --task fix-the-tests
  sudo interceptor \
     run --policy p.json --audit audit.jsonl -- \\
    curl https://api.example.com/v1/models
  sudo interceptor run --agent claude-code -- claude
  sudo interceptor run --allow api.example.com --key openai -- my-agent
  sudo interceptor run --profile unrestricted -- bash  (any public host)
  sudo interceptor run --nesting --policy p.json -- claude  (has a sandbox)
  sudo interceptor run --pids-limit 512 --memory 2g --policy p.json -- make
  sudo interceptor run --learn -- my-agent      (writes interceptor.jsonc)

Without --nesting a command cannot create user namespaces. A program with a sandbox of its own \
     then reports that this is not permitted: turn that sandbox off (chromium --no-sandbox), or \
     give the flag.

The exit status is the command's own; 128 plus the signal's number if a signal killed it; 127 if \
     it was not found; 126 if it could not be executed; 125 if the interceptor itself failed.";

/// Runs the command.
#[expect(
    clippy::too_many_lines,
    reason = "the steps of a start and an end, in the order that they need"
)]
pub fn run(arguments: Run) -> anyhow::Result<ExitCode> {
    let Run {
        common,
        net,
        user,
        nesting,
        env,
        expose,
        fresh_placeholders,
        ca_bundle,
        no_bundle_search,
        pids_limit,
        memory,
        which,
        history,
        summary,
        learning,
        command,
    } = arguments;
    // Before any other thread starts, so that every thread inherits the blocked signals.
    let mut signals = Signals::hold().context("cannot block signals")?;
    setup::log(&common);
    let open_files = launch::harden()?;
    who::needs_rights()?;
    // The slowest steps, in threads of their own: the kernel verifies the programs, and moves the
    // sandbox's first process into its cgroup.
    let loading = Meanwhile::begin("loading", Enforcer::load)?;
    let (id, isolated) = (history.id()?, net == Net::Isolated);
    let making = {
        let id = id.clone();
        let bounds = Resources {
            processes: pids_limit.map_or(Some(resources::PROCESSES), |Bound(bound)| bound),
            memory: memory.map_or_else(resources::most_memory, |Bound(bound)| bound),
        };
        Meanwhile::begin("making", move || launch::LaunchedSandbox::make(&id, isolated, &bounds))?
    };
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    let person = Person::invoking()?;
    let Runner { identity, umask, note } = who::choose(user.as_deref(), &person, &directory)?;
    if nesting {
        nesting_needs(&identity)?;
    }
    note.filter(|_| !common.quiet).into_iter().for_each(notice::info);
    let bundles =
        ca_bundle.iter().map(|path| bundle(path)).collect::<anyhow::Result<Vec<Sent>>>()?;
    let caller = person.environment();
    let is_set = |name: &OsStr| caller.iter().any(|(known, _)| known == name);
    if let Some(why) = env.iter().find_map(|given| environment::objection(given, is_set)) {
        bail!("--env: {why}");
    }
    let at_home = at_home(&person, &identity, &expose, &directory, common.quiet)?;
    let taught = learning.document(&caller)?;
    let catalogue = registries::catalogue(None)?;
    let (written, variables) = match &taught {
        Some(document) => (Written::without_file("--learn", document.to_string()), Vec::new()),
        None => which.choose(&common, &person, &directory, &catalogue)?,
    };
    let env = with_defaults(env, variables);
    let typed = Typed { person: &person, runner: identity.uid, fresh: fresh_placeholders };
    let rules = setup::rules_of(&common, written, &typed)?;
    if !common.quiet {
        setup::warn_of_exposed(&rules, &identity);
    }

    // A policy read from standard input leaves nothing there for the command.
    let from_stdin = common.policy.as_deref() == Some(Path::new("-"));
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let descriptors =
        [if from_stdin { null.as_fd() } else { input.as_fd() }, output.as_fd(), error.as_fd()];
    for (descriptor, name) in
        descriptors.iter().zip(["standard input", "standard output", "standard error"])
    {
        stdio::check(descriptor, name)?;
    }

    let audit = setup::audit(&common, rules.policy.limits())?;
    history.begin(&audit, &person, &id, &rules, common.quiet);
    let learner = learning.begin(&audit, &person, taught)?;
    let summary = summary.begin(&audit, &common, &rules);
    let state = history::hidden_state(&person, &directory)?;
    let settings = discovery::hidden_settings(&person, &directory)?;
    let rotated = audit.clone();
    signals.on_hangup(move || rotated.reopen());
    // This thread lives as long as the sandbox and starts its processes; worker threads serve it.
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;
    let _entered = tokio.enter();
    let runtime = setup::runtime(&common, audit.clone())?;

    let (mut sandbox, sockets) = match making.end() {
        Ok(made) => made,
        // A process that cannot load programs cannot create a cgroup either; the kernel's error is
        // clearer.
        Err(failed) => return Err(loading.end().err().map_or_else(|| failed.into(), Into::into)),
    };
    let asked = |resource: Bounded| match resource {
        Bounded::Processes => pids_limit.is_some(),
        Bounded::Memory => memory.is_some(),
    };
    unbounded(&sandbox, asked, common.quiet)?;
    let environment = environment::build(
        environment::Sources {
            inherited: caller,
            sandbox: &id,
            identity: &identity,
            placeholders: rules.variables(common.base_urls),
            key_variables: rules.key_variables.clone(),
            service_variables: service_variables(),
            given: env,
        },
        |value| rules.hold_key(value),
    );
    match &summary {
        Some(summary) => {
            let unpassed = not_passed(&environment.withheld, &environment.with_key);
            summary.before(&id, &identity.name, &unpassed);
        }
        None => tell_unpassed(&environment, common.quiet),
    }
    let place = CgroupTarget {
        cgroup: sandbox.cgroup().path(),
        cgroup_id: sandbox.cgroup().id(),
        // Private because `make` created it, whatever devices it has.
        netns: if isolated { Netns::Private } else { Netns::Shared },
    };
    let policy = shown_policy(&rules);
    let proxy = Sandbox::new(&runtime, &id, rules.policy, rules.keyring)?;
    if let Some(name) = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()) {
        proxy.name_itself(&name);
    }
    let user = identity.name.clone();
    let launch = Launch {
        command: Strings(command),
        environment: environment.lines,
        directory: Sent(directory),
        identity,
        umask,
        ca_pem: proxy.trust_pem(),
        hidden: hidden(rules.secret_files, policy.as_ref(), &common),
        policy,
        hidden_directories: agent_directory(&person)
            .into_iter()
            .map(Sent)
            .chain(state)
            .chain(settings)
            .collect(),
        secrets: at_home.sent(),
        bundles,
        search_bundles: !no_bundle_search,
        open_files,
        shared_network: !isolated,
        nesting,
    };
    // Only the first process exists yet; it prepares the command's view while enforcement starts.
    sandbox.prepare(launch, descriptors)?;
    let enforcer = loading.end()?;
    let mut enforced = Enforced::begin(&runtime, &enforcer, proxy, &place, sockets, None)?;
    sandbox.hold_links()?;
    sandbox.self_test(SELF_TEST, &enforced.token)?;
    enforced.record_refusals()?;
    tracing::info!(sandbox = %id, %user, "self-test passed; starting the command");
    launch::give_back_memory();
    runtime.warm();

    // Once its processes are gone, tear down the rest in order.
    let ended = sandbox.run(descriptors, &signals);
    enforced.end(tokio.handle());
    tokio.block_on(audit.shutdown());
    let (status, reached) = ended?;
    summary.into_iter().for_each(|summary| summary.after(history.is_kept()));
    if let Some(learner) = learner {
        learner.end(&person)?;
    }
    if !common.quiet {
        tell_reached(reached);
    }
    // Exit statuses have eight bits.
    Ok(ExitCode::from(status as u8))
}

/// The variables given by name, with those of `defaults` (`NAME=VALUE`) that are not.
fn with_defaults(mut given: Vec<OsString>, defaults: Vec<OsString>) -> Vec<OsString> {
    let name =
        |text: &OsString| text.as_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let known: Vec<_> = given.iter().map(name).collect();
    given.extend(defaults.into_iter().filter(|default| !known.contains(&name(default))));
    given
}

/// Warns of resources that cannot be limited.
///
/// # Errors
/// If a requested limit is among them.
fn unbounded(
    sandbox: &launch::LaunchedSandbox,
    asked: impl Fn(Bounded) -> bool,
    quiet: bool,
) -> anyhow::Result<()> {
    const WHY: &str =
        "no cgroup file system that is mounted here has the controller and lets it be used";
    for resource in sandbox.unbounded() {
        match asked(*resource) {
            true => bail!("{}: {WHY}", option(*resource)),
            false if quiet => {}
            false => warn(&format!("the sandbox's {resource} cannot be limited: {WHY}")),
        }
    }
    Ok(())
}

/// Reports the limits that the sandbox reached.
fn tell_reached(reached: impl IntoIterator<Item = Bounded>) {
    for resource in reached {
        let what = match resource {
            Bounded::Processes => "more were refused",
            Bounded::Memory => "processes were killed",
        };
        warn(&format!(
            "the sandbox reached its limit of {resource}, and {what}; see {}",
            option(resource)
        ));
    }
}

/// The variables of the catalogue's services.
fn service_variables() -> Vec<String> {
    Catalogue::builtin().services().flat_map(|service| service.env.clone()).collect()
}

/// Reports the variables that stay outside.
fn tell_unpassed(environment: &environment::Environment, quiet: bool) {
    let unpassed = not_passed(&environment.withheld, &environment.with_key);
    if !quiet && !unpassed.is_empty() {
        let _ = writeln!(std::io::stderr(), "interceptor: not passed in, {unpassed}");
    }
}

/// The variables that stay outside, and why.
fn not_passed(withheld: &[String], with_key: &[String]) -> String {
    let mut reasons = Vec::new();
    if !withheld.is_empty() {
        reasons.push(format!(
            "since the policy names no credential for it: {} (`--env NAME` passes one)",
            withheld.join(", ")
        ));
    }
    if !with_key.is_empty() {
        reasons.push(format!("since it holds a real key of the policy: {}", with_key.join(", ")));
    }
    reasons.join("; ")
}

/// The option that sets the limit.
fn option(resource: Bounded) -> &'static str {
    match resource {
        Bounded::Processes => "--pids-limit",
        Bounded::Memory => "--memory",
    }
}

fn warn(what: &str) {
    // Standard error may be closed or full.
    let _ = writeln!(std::io::stderr(), "interceptor: warning: {what}");
}

/// What is hidden of the home, but for `--expose`.
fn at_home(
    person: &Person,
    identity: &UserIdentity,
    expose: &[PathBuf],
    directory: &Path,
    quiet: bool,
) -> anyhow::Result<AtHome> {
    let mut at_home = AtHome::of(person, identity)?;
    at_home.expose(expose, directory)?;
    if quiet {
        return Ok(at_home);
    }
    if let Some((place, what)) = at_home.around(directory) {
        let place = place.display();
        notice::warning(format_args!(
            "the working directory is empty inside, because {place} is hidden ({what}); `--expose \
             {place}` shows it"
        ));
    }
    for file in at_home.linked() {
        notice::warning(format_args!(
            "{} is hidden, but has other hard links, under which the sandbox may read it",
            file.display()
        ));
    }
    Ok(at_home)
}

/// Resolves a bundle given by the operator.
fn bundle(path: &Path) -> anyhow::Result<Sent> {
    let found = std::fs::canonicalize(path);
    found.map(Sent).with_context(|| format!("--ca-bundle {}", path.display()))
}

/// Checks that nested sandboxes can work for this user on this machine.
fn nesting_needs(identity: &UserIdentity) -> anyhow::Result<()> {
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

/// The policy's file and its text without keys, if there is one and the other.
fn shown_policy(rules: &setup::LoadedPolicy) -> Option<ShownPolicy> {
    let file = rules.file.as_deref()?;
    let text = shown_policy::masked(rules)?;
    Some(ShownPolicy { path: Sent(file.to_owned()), text })
}

/// The key files and the audit file, which the sandbox must neither read nor change; the policy
/// only if it cannot be shown.
fn hidden(secret_files: Vec<PathBuf>, policy: Option<&ShownPolicy>, common: &Common) -> Vec<Sent> {
    let audit = common.audit.iter().filter_map(|path| setup::regular_file(path));
    let is_shown = |file: &PathBuf| policy.is_some_and(|policy| policy.path.0 == *file);
    let secret = secret_files.into_iter().filter(|file| !is_shown(file));
    secret.chain(audit).map(Sent).collect()
}

/// The directory of the caller's SSH agent socket, which gives access to the caller's keys.
fn agent_directory(person: &Person) -> Option<PathBuf> {
    let socket = PathBuf::from(person.variable("SSH_AUTH_SOCK")?);
    let directory = std::fs::canonicalize(socket.parent()?).ok()?;
    // Hidden only if it holds nothing else.
    let own = std::fs::read_dir(&directory).ok()?.count() == 1;
    own.then_some(directory)
}
