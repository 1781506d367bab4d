//! `interceptor run`: runs a command in a sandbox whose egress is intercepted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, umask};

use super::at_home::AtHome;
use super::bounds::{self, Bound};
use super::history::{self, History};
use super::learn::Learning;
use super::live::{self, LiveOptions, Origin};
use super::members::{self, Asking, Judged};
use super::perform::{self, Begun, Loading};
use super::person::Person;
use super::plan::{self, Asked, Plan};
use super::setup::LoadedPolicy;
use super::stable::Typed;
use super::summary::Summary;
use super::told::Told;
use super::which::{Chosen, Which};
use super::who::{self, Runner};
use super::written::Written;
use super::{Common, Net, discovery, registries, setup, shown_policy};
use crate::audit::Audit;
use crate::ipc::{SentPath as Sent, Strings};
use crate::notice;
use crate::proxy::asking::LeaseScope;
use crate::sandbox::handover::ShownPolicy;
use crate::sandbox::resources::Bounded;
use crate::sandbox::signals::{Signals, ignored_by_this_process};
use crate::sandbox::user::UserIdentity;
use crate::sandbox::{environment, launch, stdio};

/// How long to wait at the end for what cannot be cut off.
const FAREWELL: Duration = Duration::from_millis(500);

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
    /// Show a hidden place of the home inside (keys, logins, histories, …); repeatable.
    #[arg(long, value_name = "PATH")]
    expose: Vec<PathBuf>,
    /// Use new placeholders, not those of earlier runs with this policy.
    #[arg(long)]
    fresh_placeholders: bool,
    /// Also add the sandbox's CA to this bundle of roots (PEM), inside only; repeatable.
    #[arg(long, value_name = "FILE")]
    ca_bundle: Vec<PathBuf>,
    /// Do not cover the root bundles that packages bring (certifi, botocore, Stripe, …). A covered
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
    /// Limit the sandbox's memory: bytes, a number with k, m or g, or `none` [default: three
    /// quarters of the machine's].
    #[arg(long, value_name = "SIZE", value_parser = bounds::memory)]
    memory: Option<Bound>,
    /// The daemon's socket, for users without root's rights [default: /run/interceptor/run.sock].
    #[arg(long, value_name = "PATH")]
    daemon: Option<PathBuf>,
    /// Which policy applies.
    #[command(flatten)]
    which: Which,
    /// Its name, and whether its records are kept.
    #[command(flatten)]
    history: History,
    /// What is printed about it.
    #[command(flatten)]
    summary: Summary,
    /// Whether to learn a policy from it.
    #[command(flatten)]
    learning: Learning,
    /// Whether its policy follows its file.
    #[command(flatten)]
    live: LiveOptions,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  interceptor run --policy p.json -- my-agent --task fix-the-tests
  interceptor \
     run --policy p.json --audit audit.jsonl -- \\
    curl https://api.example.com/v1/models
  interceptor run --agent claude-code -- claude
  interceptor run --allow api.example.com --key openai -- my-agent
  interceptor run --profile unrestricted -- bash  (any public host)
  interceptor run --nesting --policy p.json -- claude  (has a sandbox)
  interceptor run --pids-limit 512 --memory 2g --policy p.json -- make
  interceptor run --learn -- my-agent           (writes interceptor.jsonc)

Without the daemon (see interceptor install), type sudo interceptor run.

Without --nesting a command cannot create user namespaces. A program with a sandbox of its own \
     then reports that this is not permitted: turn that sandbox off (chromium --no-sandbox), or \
     give the flag.

The exit status is the command's own; 128 plus the signal's number if a signal killed it; 127 if \
     it was not found; 126 if it could not be executed; 125 if the interceptor itself failed.";

/// Runs the command.
#[expect(clippy::too_many_lines, reason = "what is found out about a run, in the order of its use")]
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
        daemon,
        which,
        history,
        summary,
        learning,
        live,
        command,
    } = arguments;
    // Before any other thread starts, so that every thread inherits the blocked signals.
    let mut signals = Signals::hold().context("cannot block signals")?;
    setup::log(&common);
    // Without root's rights, the daemon makes the sandbox.
    let member = members::connect(daemon.as_deref())?;
    let open_files = match member {
        Some(_) => getrlimit(Resource::RLIMIT_NOFILE)?,
        None => launch::harden()?,
    };
    if member.is_none() {
        who::needs_rights()?;
    }
    let (id, isolated) = (history.id()?, net == Net::Isolated);
    let (processes, memory) = (Asked::of(pids_limit), Asked::of(memory));
    let resources = plan::resources_asked(processes, memory);
    let begin = || Loading::begin()?.make(&id, isolated, resources);
    let begun = member.is_none().then(begin).transpose()?;
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    let person = Person::invoking()?;
    let Runner { identity, umask: mask, note } = who::choose(user.as_deref(), &person, &directory)?;
    if member.is_some() && identity.uid != person.identity.uid {
        bail!("--user: without sudo, the command runs as you");
    }
    if nesting {
        perform::nesting_needs(&identity)?;
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
    let (chosen, variables) = match (&taught, &member) {
        (Some(document), _) => {
            (Chosen::Text(Written::without_file("--learn", document.to_string())), Vec::new())
        }
        (None, Some(_)) => which.choose_by_daemon(&common, &person, &directory, &catalogue)?,
        (None, None) => {
            let (written, variables) = which.choose(&common, &person, &directory, &catalogue)?;
            (Chosen::Text(written), variables)
        }
    };
    let typed = Typed { person: &person, runner: identity.uid, fresh: fresh_placeholders };
    let origin = match &chosen {
        Chosen::Text(written) => Origin::of(written)?,
        Chosen::Operators(_) => Origin::default(),
    };
    let judged = match chosen {
        Chosen::Text(written) => Judged::By(Box::new(setup::rules_of(&common, written, &typed)?)),
        Chosen::Operators(name) => Judged::ByOperators { secret: typed.secret(), name },
    };
    // A member's own files are the member's to read; what is hidden inside is hidden all the same.
    if let (Judged::By(rules), false, None) = (&judged, common.quiet, &member) {
        setup::warn_of_exposed(rules, &identity);
    }

    // A policy read from standard input leaves nothing there for the command.
    let from_stdin = common.policy.as_deref() == Some(Path::new("-"));
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let standard =
        [if from_stdin { null.as_fd() } else { input.as_fd() }, output.as_fd(), error.as_fd()];
    stdio::check_all(standard)?;

    let audit = setup::audit(&common, &judged.limits())?;
    let kept = judged.kept();
    history.begin(&audit, &person, &id, &kept, common.quiet);
    let learner = learning.begin(&audit, &person, taught)?;
    let summary = summary.begin(&audit, &common, kept);
    let state = history::hidden_state(&person, &directory)?;
    let settings = discovery::hidden_settings(&person, &directory)?;
    let sockets = live::hidden_sockets(&person, &directory)?;
    let rotated = audit.clone();
    signals.on_hangup(move || rotated.reopen());
    let told = Told { summary, id: id.clone(), user: identity.name.clone(), quiet: common.quiet };
    let plan = Plan {
        id,
        isolated,
        nesting,
        processes,
        memory,
        command: Strings(command),
        environment: plan::lines(caller),
        given: Strings(with_defaults(env, variables)),
        directory: Sent(directory),
        umask: mask.or_else(|| member.as_ref().map(|_| own_umask())),
        ignored: member.is_some().then(ignored_by_this_process).transpose()?,
        base_urls: common.base_urls,
        quiet: common.quiet,
        bundles,
        search_bundles: !no_bundle_search,
        hidden_directories: agent_directory(&person)
            .into_iter()
            .map(Sent)
            .chain(state)
            .chain(settings)
            .chain(sockets)
            .collect(),
        secrets: at_home.sent(),
    };
    let before = |withheld: &[String], with_key: &[String]| told.before(withheld, with_key);
    let (status, reached) = match (member, begun, judged) {
        (Some(daemon), _, judged) => {
            let hidden = audit_file(&common).map(Sent).collect();
            let (common, signals, audit) = (&common, &signals, &audit);
            Asking { plan, judged, common, hidden, standard, signals, audit }.run(daemon, before)?
        }
        (None, Some(begun), Judged::By(rules)) => {
            let beginning = live::Beginning {
                origin,
                which,
                person: person.clone(),
                catalogue,
                proxy: common.proxy()?,
                fresh: fresh_placeholders,
                quiet: common.quiet,
            };
            let reachable = live.reachable(beginning, &rules);
            let (signals, rules) = (&signals, for_sandbox(*rules, &common));
            let run = perform::Run {
                plan,
                identity,
                rules,
                open_files,
                limits: None,
                descriptors: standard,
                signals,
                caller: None,
                reachable,
            };
            by_root(run, begun, &common, &audit, before)?
        }
        (None, ..) => bail!("only the daemon has policies that its caller cannot read"),
    };
    told.after(history.is_kept());
    if let Some(learner) = learner {
        learner.end(&person)?;
    }
    told.reached(&reached);
    // Exit statuses have eight bits.
    Ok(ExitCode::from(status as u8))
}

/// Runs the command with this process's own rights.
fn by_root(
    run: perform::Run<'_>,
    begun: Begun,
    common: &Common,
    audit: &Audit,
    before: impl FnOnce(&[String], &[String]),
) -> anyhow::Result<(i32, Vec<Bounded>)> {
    // This thread lives as long as the sandbox and starts its processes; worker threads serve it.
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;
    let entered = tokio.enter();
    let runtime = setup::runtime(common, audit.clone())?;
    let ended = perform::perform(run, begun, &runtime, audit, |environment| {
        before(&environment.withheld, &environment.with_key);
    });
    drop(entered);
    // A visitor's request may wait for a file that never comes.
    tokio.shutdown_timeout(FAREWELL);
    ended
}

/// What a sandbox is judged by, and what of it is hidden inside.
fn for_sandbox(rules: LoadedPolicy, common: &Common) -> perform::Rules {
    let shown = shown_policy(&rules);
    let LoadedPolicy { policy, keyring, key_variables, secret_files, .. } = rules;
    let hidden = hidden(secret_files, shown.as_ref(), common);
    let leases = LeaseScope::Any;
    perform::Rules { policy, keyring, key_variables, hidden, shown, leases }
}

/// This process's umask.
fn own_umask() -> u32 {
    let own = umask(Mode::empty());
    umask(own);
    own.bits()
}

/// The given variables, plus those of `defaults` (`NAME=VALUE`) that were not given.
fn with_defaults(mut given: Vec<OsString>, defaults: Vec<OsString>) -> Vec<OsString> {
    let name =
        |text: &OsString| text.as_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    let known: Vec<_> = given.iter().map(name).collect();
    given.extend(defaults.into_iter().filter(|default| !known.contains(&name(default))));
    given
}

/// What is hidden of the home, except for `--expose`.
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
            "{} is hidden, but has other hard links, through which the sandbox may read it",
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

/// The policy's file and its text without keys, if it has both.
fn shown_policy(rules: &LoadedPolicy) -> Option<ShownPolicy> {
    let file = rules.file.as_deref()?;
    let text = shown_policy::masked(rules)?;
    Some(ShownPolicy { path: Sent(file.to_owned()), text })
}

/// The key files and the audit file, which the sandbox must neither read nor change; also the
/// policy, if it cannot be shown.
fn hidden(secret_files: Vec<PathBuf>, policy: Option<&ShownPolicy>, common: &Common) -> Vec<Sent> {
    let audit = audit_file(common);
    let is_shown = |file: &PathBuf| policy.is_some_and(|policy| policy.path.0 == *file);
    let secret = secret_files.into_iter().filter(|file| !is_shown(file));
    secret.chain(audit).map(Sent).collect()
}

/// The audit file.
fn audit_file(common: &Common) -> impl Iterator<Item = PathBuf> {
    common.audit.iter().filter_map(|path| setup::regular_file(path))
}

/// The directory of the caller's SSH agent socket, which gives access to the caller's keys.
fn agent_directory(person: &Person) -> Option<PathBuf> {
    let socket = PathBuf::from(person.variable("SSH_AUTH_SOCK")?);
    let directory = std::fs::canonicalize(socket.parent()?).ok()?;
    // Hidden only if it holds nothing else.
    let own = std::fs::read_dir(&directory).ok()?.count() == 1;
    own.then_some(directory)
}
