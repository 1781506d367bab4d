//! `interceptor serve`: the daemon.

use std::collections::HashSet;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use interceptor_policy::Limits;
use nix::sys::signal::{SigSet, Signal};
use tokio_util::sync::CancellationToken;

use super::notify::{self, notify};
use super::{
    Common, discovery, given, members, outbound, programs, registries, serve_config, serve_webhook,
    setup,
};
use crate::audit::{Audit, Record};
use crate::control::model::ConfiguredSandbox;
use crate::control::{self, Controlled, DEFAULT_SOCKET, Scope};
use crate::credential::Sources;
use crate::entrance::Entrance;
use crate::fleet::{Adopt, DaemonsFiles, Fleet, FleetOptions, NewSandbox, Visit, sweep};
use crate::ipc::ControlSocket;
use crate::kernel::{self, Enforcer, LoadOptions};
use crate::logging::Format;
use crate::notice;
use crate::page::{self, Page};
use crate::privilege::{self, attendant};
use crate::sandbox::{cgroup, launch};
use crate::{takeover, words};

/// The default maximum number of sandboxes; maps are sized for it.
const SANDBOXES: u32 = 1024;
/// Default time for requests in flight at a take-over, in seconds.
const DRAIN: u64 = 30;
/// The default address of the page.
const PAGE: &str = "127.0.0.1:7878";
/// The default directory for trust files. Unlike the control socket's, every user can enter it.
const TRUST: &str = "/run/interceptor-trust";

/// The arguments of `interceptor serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = [EXAMPLES, MORE].concat())]
pub struct Serve {
    /// The options shared with `run` and `attach`; they apply to every sandbox. `--policy` is the
    /// default policy.
    #[command(flatten)]
    common: Common,
    /// The control socket [default: /run/interceptor/control.sock].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// A configuration (JSON): options, and sandboxes to enforce from the start. Command-line
    /// options take precedence.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take over all sandboxes from the daemon at the control socket, which finishes its requests
    /// and exits. No connection is refused meanwhile. If there is no such daemon, start normally.
    #[arg(long)]
    takeover: bool,
    /// Which sandboxes of a killed daemon to keep: `all`, `none`, or ids separated by commas
    /// [default: all]. Those on cgroups in the configuration are adopted at once; other kept ones
    /// stay closed. The rest are removed.
    #[arg(long, value_name = "IDS", conflicts_with = "takeover")]
    adopt: Option<Adopt>,
    /// How long requests in flight may take when another daemon takes over [default: 30].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    drain: Option<u64>,
    /// A directory or file with policies and keys; repeatable. If given, Landlock restricts the
    /// daemon to these, the files its options name, and system files.
    #[arg(long, value_name = "PATH")]
    readable: Vec<PathBuf>,
    /// Another program that may take over from this daemon, such as the path of its next version;
    /// repeatable.
    #[arg(long, value_name = "PATH")]
    successor: Vec<PathBuf>,
    /// The directory for trust files, with half a megabyte per sandbox [default:
    /// /run/interceptor-trust].
    #[arg(long, value_name = "DIR")]
    trust_dir: Option<PathBuf>,
    /// Let the members of this group use `interceptor run` without sudo, through the socket
    /// `run.sock` beside the control socket.
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Show what sandboxes do, and what they ask, in a browser of this host [default address:
    /// 127.0.0.1:7878]. `interceptor ctl page` lets a browser in.
    #[arg(
        long,
        value_name = "ADDRESS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = PAGE
    )]
    page: Option<SocketAddr>,
    /// Run the programs that print keys as this user, who must not be root; without it, none is
    /// run.
    #[arg(long, value_name = "USER")]
    programs_as: Option<String>,
    /// The maximum number of sandboxes [default: 1024]; each costs 16 KiB of kernel memory.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_sandboxes: Option<u32>,
}

const EXAMPLES: &str = r#"Examples:
  sudo interceptor serve --audit /var/log/interceptor.jsonl
  sudo interceptor serve --config /etc/interceptor/config.json
  sudo curl --unix-socket /run/interceptor/control.sock \
    http://localhost/v1/sandboxes \
    -d '{"cgroup": "/sys/fs/cgroup/a.slice", "network": {"allow": ["*"]}}'

The configuration:
  { "audit": "/var/log/interceptor.jsonl",
    "policy": "/etc/interceptor/default.json",
    "sandboxes": [ { "id": "agents",
                     "cgroup": "/sys/fs/cgroup/agents.slice",
                     "policy": "/etc/interceptor/agents.json" } ] }

"#;

/// The help text after the examples.
const MORE: &str = "\
Its fields are control, policy, audit, audit_chain, upstream_ca (a list), resolve (a list), \
                    upstream_proxy, readable (a list), successor (a list), adopt, drain, \
                    base_urls, log_format, trust_dir, group, access, programs_as, max_sandboxes, \
                    page, approvals (a webhook) and sandboxes. Each sandbox has a cgroup and, \
                    optionally, id, pid, netns, private_network and policy (a file, or the name of \
                    one in /etc/interceptor/policies; the default policy if absent). Relative \
                    paths are those of the working directory.

It prints one line when it is ready. SIGHUP reloads policies and keys and reopens the audit file. \
                    SIGINT and SIGTERM end it and every sandbox, leaving nothing behind. GET \
                    /openapi.json describes the API.";

/// Runs the command.
#[expect(
    clippy::too_many_lines,
    reason = "the steps of a start and an end, in the order that they need"
)]
pub fn run(arguments: Serve) -> anyhow::Result<ExitCode> {
    let Serve {
        mut common,
        control,
        config,
        takeover,
        adopt,
        drain,
        readable,
        successor,
        trust_dir,
        group,
        page,
        programs_as,
        max_sandboxes,
    } = arguments;
    // Before any other thread starts, so that every thread inherits the blocked signals.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("cannot block signals")?;
    let config = config.map(|path| serve_config::read(&path)).transpose();
    if let Ok(Some(config)) = &config {
        common.log_format = common.log_format.or(config.log_format);
    }
    setup::log(&common);
    let config = config?.unwrap_or_default();
    if !nix::unistd::geteuid().is_root() {
        bail!("the daemon needs root: run as root, for instance with sudo");
    }
    launch::harden()?;
    launch::raise_open_files();
    if takeover && config.adopt.is_some() {
        bail!("--takeover takes over all sandboxes: remove `adopt` from the configuration");
    }
    let webhook = serve_webhook::of(config.approvals)?;
    common.base_urls |= config.base_urls;
    common.policy = common.policy.or(config.policy);
    common.audit = common.audit.or(config.audit);
    common.audit_chain = common.audit_chain.or(config.audit_chain);
    common.upstream_ca = [config.upstream_ca, common.upstream_ca].concat();
    common.resolve = [common.resolve, config.resolve].concat();
    let Ok(configured) = config.upstream_proxy.as_deref().map(str::parse).transpose();
    common.upstream_proxy = common.upstream_proxy.or(configured);
    // Paths are passed on to sandboxes and clients, so they must not depend on the working
    // directory.
    common.policy = common.policy.map(policy_path).transpose()?;
    common.audit = common.audit.map(absolute).transpose()?;
    common.audit_chain = common.audit_chain.map(absolute).transpose()?;
    common.upstream_ca = all_absolute(common.upstream_ca)?;
    if common.policy.as_deref() == Some(Path::new("-")) {
        bail!("a daemon rereads its default policy: pass a file, not standard input");
    }

    let path = absolute(control.or(config.control).unwrap_or_else(|| DEFAULT_SOCKET.into()))?;
    let before = if takeover { takeover::connect(&path).context("--takeover")? } else { None };
    // Bound first, so that a second daemon fails before it changes anything.
    let socket = if before.is_none() { Some(ControlSocket::bind(&path)?) } else { None };
    let page = page.or(config.page);
    let entrance = match page.filter(|_| before.is_none()) {
        Some(address) => Some(Entrance::bind(address).context("--page")?),
        None => None,
    };
    // Before any other thread starts, and after everything that needs start-up privileges.
    let trust = absolute(trust_dir.or(config.trust_dir).unwrap_or_else(|| TRUST.into()))?;
    let successors = all_absolute([config.successor, successor].concat())?;
    let mut readable = all_absolute([config.readable, readable].concat())?;
    if !readable.is_empty() {
        readable.extend(successors.iter().map(|program| directory(program)));
    }
    let sandboxes = max_sandboxes.or(config.max_sandboxes).unwrap_or(SANDBOXES);
    let access = config.access.is_some();
    let doorway = match group.or(config.group) {
        Some(group) => {
            let rules = members::access::rules(config.access)?;
            Some(members::open(&path, &group, rules, &common, sandboxes)?)
        }
        None if access => bail!("`access` needs `group`, whose members may connect (or --group)"),
        None => None,
    };
    let policies = policy_files(&common, &config.sandboxes);
    let edited = if page.is_some() { policies } else { Vec::new() };
    let sources = Sources {
        runs: programs::of_daemon(programs_as.or(config.programs_as).as_deref())?,
        asks: outbound::of_daemon(&common.resolve, &common.upstream_ca)?,
    };
    confine(&common, &path, &trust, (&readable, edited))?;
    let audit = setup::audit_in_turn(&common, &Limits::default())?;
    let enforcer = Enforcer::load_with(LoadOptions { sandboxes, ..LoadOptions::default() })?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;
    let _entered = tokio.enter();
    let runtime = setup::runtime(&common, audit.clone())?;
    runtime.warm();
    let fleet = Fleet::new(FleetOptions {
        runtime,
        enforcer,
        catalogue: registries::catalogue(None)?,
        default_policy: common.policy.clone(),
        base_urls: common.base_urls,
        proxy: common.proxy()?,
        sources,
        trust: trust.clone(),
        owner: nix::unistd::geteuid().as_raw(),
        given: None,
        read: |path| {
            given::read(path).map(|written| written.text).map_err(|error| format!("{error:#}"))
        },
    });
    // Fail on an invalid default policy now rather than with the first sandbox.
    fleet.default_rules().context("--policy")?;
    let (socket, entrance, begun) = match (before, socket) {
        (Some(before), _) => {
            // The other daemon's sandboxes include the configured ones and any created since.
            let taken = takeover::take(before, &fleet, &path, page).context("--takeover")?;
            (taken.0, taken.1, Ok(()))
        }
        (None, Some(socket)) => {
            let adopt = adopt.or(config.adopt).unwrap_or_default();
            let begun = tidy(&common, &adopt, &config.sandboxes, &trust, &audit)
                .and_then(|()| begin(&fleet, config.sandboxes));
            (socket, entrance, begun)
        }
        (None, None) => bail!("there is no control socket"),
    };
    if let Err(error) = begun {
        fleet.withdraw();
        return Err(error);
    }
    let stop = CancellationToken::new();
    let socket = Arc::new(socket);
    let scope = Scope::Daemon { successors };
    let entrance = entrance.map(Arc::new);
    let showing = entrance.clone().map(|entrance| {
        let files = Arc::new(DaemonsFiles);
        tokio.spawn(page::serve(
            Page { entrance, person: None, fleet: fleet.clone(), files },
            stop.clone(),
        ))
    });
    let shown_at = entrance.as_ref().map(|entrance| entrance.address());
    let controlled = Controlled { socket: socket.clone(), fleet: fleet.clone(), scope, entrance };
    let serving = tokio.spawn(control::serve(controlled, stop.clone()));
    if let Some(webhook) = webhook {
        tokio.spawn(webhook.serve(fleet.clone(), stop.clone()));
    }
    announce(&common, &path, shown_at, &fleet)?;
    notify(&format!(
        "READY=1\nMAINPID={}\nSTATUS={} at start",
        std::process::id(),
        words::count(fleet.list().len() as u64, "sandbox")
    ));
    wait(&signals, &fleet, &audit)?;
    notify("STOPPING=1");
    stop.cancel();
    if let Some(doorway) = doorway.filter(|_| socket.is_handed()) {
        doorway.leave();
    }
    tokio.block_on(async {
        if socket.is_handed() {
            if !common.quiet {
                let by = socket.successor();
                let _ =
                    writeln!(std::io::stderr(), "interceptor: taken over by another daemon: {by}");
            }
            fleet.drain(Duration::from_secs(drain.or(config.drain).unwrap_or(DRAIN))).await;
        } else {
            fleet.end().await;
        }
        if let Ok(Err(error)) = serving.await {
            tracing::error!(%error, "control socket failed");
        }
        if let Some(showing) = showing
            && let Ok(Err(error)) = showing.await
        {
            tracing::error!(%error, "the page failed");
        }
        audit.shutdown().await;
    });
    Ok(ExitCode::SUCCESS)
}

/// The absolute path; `-` is unchanged.
fn absolute(path: PathBuf) -> anyhow::Result<PathBuf> {
    if path == Path::new("-") {
        return Ok(path);
    }
    std::path::absolute(&path)
        .with_context(|| format!("cannot resolve the path {}", path.display()))
}

/// The absolute path of a policy, which may be given by its name.
fn policy_path(policy: PathBuf) -> anyhow::Result<PathBuf> {
    if discovery::is_name(&policy) { discovery::of_operator(&policy) } else { absolute(policy) }
}

fn all_absolute(paths: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    paths.into_iter().map(absolute).collect()
}

/// The directory of a file.
fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The policies' files, which the page edits where a person approves for good.
fn policy_files(common: &Common, sandboxes: &[ConfiguredSandbox]) -> Vec<PathBuf> {
    let own = sandboxes.iter().filter_map(|sandbox| sandbox.policy.clone());
    let own = own.filter_map(|policy| policy_path(policy).ok());
    common.policy.iter().cloned().chain(own).collect()
}

/// Drops the privileges that only start-up needs, and logs what remains.
fn confine(
    common: &Common,
    control: &Path,
    trust: &Path,
    (readable, edited): (&[PathBuf], Vec<PathBuf>),
) -> anyhow::Result<()> {
    // It must exist to be named in a rule; it is checked when used.
    let _ = std::fs::DirBuilder::new().mode(0o755).create(trust);
    let mut written =
        vec![kernel::bpffs()?, cgroup::mount_point()?, directory(control), trust.to_owned()];
    // A rule names only what exists.
    written.push(PathBuf::from(outbound::STATE));
    written.extend(
        common.audit.iter().filter(|file| *file != Path::new("-")).map(|file| directory(file)),
    );
    written.extend(edited);
    let mut read = readable.to_vec();
    if !read.is_empty() {
        // Files named by options are reread later.
        read.extend(common.policy.iter().map(|file| directory(file)));
        read.extend(common.upstream_ca.iter().cloned());
        read.extend(std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from));
    }
    attendant::start()?;
    let report = privilege::restrict(&privilege::Files { written, read })?;
    if !common.quiet {
        notice::info(report);
    }
    Ok(())
}

/// Cleans up after killed interceptors.
fn tidy(
    common: &Common,
    adopt: &Adopt,
    sandboxes: &[ConfiguredSandbox],
    trust: &Path,
    audit: &Audit,
) -> anyhow::Result<()> {
    // A missing cgroup is reported when its sandbox starts.
    let configured =
        sandboxes.iter().filter_map(|sandbox| Visit::find(&sandbox.cgroup, None, None).ok());
    let configured: HashSet<u64> = configured.map(|visit| visit.cgroup_id).collect();
    for stale in
        sweep(adopt, &configured, trust).context("cannot clean up after a crashed daemon")?
    {
        audit.emit(Record::lifecycle(&stale.id.as_str().into(), stale.event()));
        if !common.quiet {
            notice::info(&stale);
        }
    }
    Ok(())
}

/// Starts the configured sandboxes, or reports every error.
fn begin(fleet: &Arc<Fleet>, sandboxes: Vec<ConfiguredSandbox>) -> anyhow::Result<()> {
    let mut wrong: Vec<String> = Vec::new();
    for (index, sandbox) in sandboxes.into_iter().enumerate() {
        let ConfiguredSandbox { id, cgroup, pid, netns, private_network, policy } = sandbox;
        let place = format!("/sandboxes/{index} of the configuration, {}", cgroup.display());
        let made = || {
            let rules = match policy.map(policy_path).transpose()? {
                Some(path) => {
                    fleet.rules_of_file(&path, None).with_context(|| path.display().to_string())?
                }
                None => fleet.default_rules().context("the default policy")?,
            };
            let (cgroup, netns) = (absolute(cgroup)?, netns.map(absolute).transpose()?);
            // After the first error no more are started, but the others' errors are still reported.
            if !wrong.is_empty() {
                Visit::find(&cgroup, pid, netns.as_deref())?;
            } else {
                fleet.create(NewSandbox { id, cgroup, pid, netns, private_network, rules })?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = made() {
            wrong.push(format!("{place}: {error:#}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!(wrong.join("\n")) }
}

/// Waits for a signal to end; rereads files on SIGHUP.
fn wait(signals: &SigSet, fleet: &Arc<Fleet>, audit: &Audit) -> anyhow::Result<()> {
    loop {
        match signals.wait().context("cannot wait for a signal")? {
            Signal::SIGHUP => {
                tracing::info!("reloading");
                notify(&notify::reloading());
                audit.reopen();
                let fleet = fleet.clone();
                // On another thread: a file may be on a mount that hangs, and the next signal may
                // be to end.
                std::thread::spawn(move || {
                    fleet.reload();
                    notify("READY=1");
                });
            }
            signal => {
                tracing::info!(%signal, "shutting down");
                return Ok(());
            }
        }
    }
}

fn announce(
    common: &Common,
    path: &Path,
    page: Option<SocketAddr>,
    fleet: &Fleet,
) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    let count = fleet.list().len();
    let page = page.map(|address| format!("http://{address}/"));
    if common.json {
        let mut told = serde_json::json!({ "control": path.to_string_lossy(), "sandboxes": count });
        page.into_iter().for_each(|page| told["page"] = page.into());
        writeln!(output, "{told}")?;
    } else if !common.quiet {
        let page = page.map(|page| format!("; page at {page} (interceptor ctl page lets you in)"));
        let said = format!(
            "listening at {}; {}{}",
            path.display(),
            words::count(count as u64, "sandbox"),
            page.unwrap_or_default()
        );
        match common.log_format.unwrap_or_default() {
            Format::Text => writeln!(output, "{said}")?,
            Format::Json => {
                let path = path.to_string_lossy();
                writeln!(
                    output,
                    "{}",
                    serde_json::json!({ "message": said, "control": path, "sandboxes": count })
                )?;
            }
        }
    }
    Ok(output.flush()?)
}
