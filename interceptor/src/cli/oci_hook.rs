//! `interceptor oci-hook`: called by a container engine or OCI runtime at the stages of a
//! container's life cycle (see `crate::oci`).

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::common::ProxyOption;
use super::{Common, oci_supervisor};
use crate::fleet::Pins;
use crate::oci::config::Config;
use crate::oci::input::{self, ContainerState, Input};
use crate::oci::store::{ContainerRecord, Store};
use crate::oci::talk::{self, Ask, Reply};
use crate::oci::{POLICY, SANDBOX, place, policies, rootfs, seccomp};
use crate::sandbox::launch;

/// The arguments of `interceptor oci-hook`. The operator sets them in hooks.d; a container only
/// chooses its policy.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct OciHook {
    /// The directory of policies that containers may request.
    #[arg(long, value_name = "DIR", default_value = "/etc/interceptor/policies")]
    policies: PathBuf,
    /// The directory for the containers' sockets and trust files.
    #[arg(long, value_name = "DIR", default_value = "/run/interceptor/oci")]
    state: PathBuf,
    /// Write audit records of all containers to this file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Write errors and the supervisors' log to this file; RUST_LOG sets the level [default: none].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Certificates (PEM) to trust for upstream connections, in addition to the system's roots;
    /// repeatable.
    #[arg(long, value_name = "FILE")]
    upstream_ca: Vec<PathBuf>,
    /// Dial this address instead of resolving the name; repeatable.
    #[arg(long, value_name = "NAME[:PORT]:ADDR[:PORT]")]
    resolve: Vec<String>,
    /// Reach origins by this proxy, in place of the policy's `upstream.proxy`.
    #[arg(long, value_name = "URL")]
    upstream_proxy: Option<ProxyOption>,
    /// Also start containers whose privileges let them remove the enforcement.
    #[arg(long)]
    allow_privileged: bool,
    /// Run as the supervisor of one container; started by the hook itself.
    #[arg(long, hide = true)]
    supervise: bool,
}

const EXAMPLES: &str = "\
Container engines call it, not people. `interceptor install podman` tells the engine to. Put \
                        policies into /etc/interceptor/policies/, then name one when you start a \
                        container:

  sudo podman run --network none --annotation io.interceptor.policy=agent \\
    IMAGE COMMAND

Its standard input tells it the stage: precreate, createRuntime or poststop. If it fails, the \
                        container does not start. For engines without the precreate stage, it \
                        makes a seccomp profile that permits only sockets that the hooks cover:

  interceptor oci-hook < /usr/share/containers/seccomp.json \\
    > /etc/interceptor/seccomp.json";

/// Time limit for a supervisor to exit.
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// Runs the command.
pub fn run(arguments: OciHook) -> anyhow::Result<ExitCode> {
    if arguments.supervise {
        return oci_supervisor::run(&arguments.state, common(&arguments));
    }
    let outcome = stage(&arguments);
    if let Err(error) = &outcome {
        log(&arguments, error);
    }
    outcome
}

/// The options that the supervisor takes over.
fn common(arguments: &OciHook) -> Common {
    Common {
        audit_chain: None,
        base_urls: false,
        log_format: None,
        policy: None,
        audit: arguments.audit.clone(),
        upstream_ca: arguments.upstream_ca.clone(),
        resolve: arguments.resolve.clone(),
        upstream_proxy: arguments.upstream_proxy.clone(),
        json: false,
        verbose: 0,
        quiet: false,
    }
}

/// Runtimes discard a hook's output (crun) or show it to the container's starter, who may not be
/// the operator.
fn log(arguments: &OciHook, error: &anyhow::Error) {
    if let Ok(Some(mut log)) = open_log(arguments) {
        let _ = writeln!(log, "interceptor: {error:#}");
    }
}

/// The path of this program, for messages.
fn executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "/interceptor".into())
}

fn open_log(arguments: &OciHook) -> anyhow::Result<Option<File>> {
    let Some(path) = &arguments.log else { return Ok(None) };
    let file = File::options().append(true).create(true).mode(0o600).open(path);
    Ok(Some(file.with_context(|| format!("cannot open {}", path.display()))?))
}

/// Handles one stage.
fn stage(arguments: &OciHook) -> anyhow::Result<ExitCode> {
    let bytes = input::read(std::io::stdin().lock())?;
    match input::parse(&bytes)? {
        Input::Config(config) => {
            let mut refusing = config.clone();
            let changed = match precreate(arguments, config) {
                Ok(changed) => changed,
                Err(error) => {
                    // Engines hide a hook's output at this stage, but the runtime that creates the
                    // container names the failing hook.
                    refusing.refuse(&executable(), &format!("{error:#}"), &launch::random_id()?);
                    log(arguments, &error);
                    Some(refusing.to_json())
                }
            };
            let mut output = std::io::stdout().lock();
            output.write_all(changed.as_deref().map_or(&bytes[..], str::as_bytes))?;
            output.flush()?;
        }
        Input::Profile(mut profile) => {
            seccomp::narrow(&mut profile);
            writeln!(std::io::stdout().lock(), "{profile:#}")?;
        }
        Input::State(state) if state.status == "stopped" => poststop(arguments, &state)?,
        Input::State(state) => create_runtime(arguments, &state)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts a supervisor and edits the container's configuration; `None` if the container requests no
/// policy.
fn precreate(arguments: &OciHook, mut config: Config) -> anyhow::Result<Option<String>> {
    let Some(asked) = config.annotation(POLICY) else { return Ok(None) };
    let policy = policies::resolve(&arguments.policies, asked)?;
    config.narrow_sockets();
    config.judge(arguments.allow_privileged)?;
    let prepare = Ask::Prepare {
        policy,
        root: config.root(None)?,
        environment: config.environment(),
        mounted: config.destinations().map(Path::to_owned).collect(),
        caller: caller(),
    };
    let (id, environment, mounts) = start(arguments, &prepare)?;
    config.set_environment(environment)?;
    config.annotate(SANDBOX, &id);
    for (source, destination) in &mounts {
        config.bind(source, destination)?;
    }
    Ok(Some(config.to_json()))
}

fn caller() -> i32 {
    nix::unistd::getppid().as_raw()
}

/// Makes the supervisor attach to the container, which is not running yet.
fn create_runtime(arguments: &OciHook, state: &ContainerState) -> anyhow::Result<()> {
    let Some(asked) = state.annotations.get(POLICY) else { return Ok(()) };
    if state.pid <= 0 {
        bail!("the state of container {} has no pid", state.id);
    }
    let policy = policies::resolve(&arguments.policies, asked)?;
    // Read again: other hooks may have changed it between the stages.
    let config = input::of_bundle(&state.bundle)?;
    config.judge(arguments.allow_privileged)?;
    let root = config.root(Some(&state.bundle))?;
    let attach = Ask::Attach {
        policy: policy.clone(),
        root: root.clone(),
        container: state.id.clone(),
        pid: state.pid,
        own_network: config.has_own_network(),
    };
    let store = Store::open(&arguments.state)?;
    // From the configuration on disk, which the runtime uses.
    if let Some(id) = config.annotation(SANDBOX) {
        return ask(&store.entry(id)?.socket(), &attach, &Reply::Enforcing);
    }
    // The engine has no `precreate` stage: the environment stays unchanged.
    let mounted = config.destinations().map(Path::to_owned).collect();
    let prepare = Ask::Prepare {
        policy,
        root: root.clone(),
        environment: Vec::new(),
        mounted,
        caller: caller(),
    };
    let (id, _, mounts) = start(arguments, &prepare)?;
    let socket = store.entry(&id)?.socket();
    ask(&socket, &attach, &Reply::Enforcing)?;
    // If this fails, the container does not start, and the supervisor sees it end.
    Ok(rootfs::mount_in(state.pid, &root, &mounts)?)
}

/// Stops the supervisor, and cleans up after a killed one.
fn poststop(arguments: &OciHook, state: &ContainerState) -> anyhow::Result<()> {
    let store = Store::open(&arguments.state)?;
    // Prepared for a container that was never created: there is no record of it.
    if let Ok(config) = input::of_bundle(&state.bundle)
        && let Some(entry) = config.annotation(SANDBOX).and_then(|id| store.entry(id).ok())
        && entry.exists()
        && entry.record().is_none()
    {
        let _ = ask(&entry.socket(), &Ask::End, &Reply::Ended);
    }
    for (entry, record) in store.of_container(&state.id) {
        let deadline = Instant::now() + ENDED_WITHIN;
        // It may be exiting already and not answer.
        while ask(&entry.socket(), &Ask::End, &Reply::Ended).is_err() && entry.exists() {
            match clean_up(&record) {
                Ok(()) => entry.remove(),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

/// Removes the pins and the cgroup of a dead supervisor; a live one holds a lock on the pins. They
/// stay while processes are left in the cgroup.
fn clean_up(record: &ContainerRecord) -> anyhow::Result<()> {
    if place::is_populated(&record.cgroup) {
        bail!("processes are left in the ended container's cgroup {}", record.cgroup.display());
    }
    let pins = Pins::of(record.cgroup_id)?;
    pins.stale.iter().try_for_each(|stale| crate::kernel::remove_pins(stale))?;
    if record.made {
        place::remove(&record.cgroup);
    }
    Ok(())
}

fn ask(socket: &Path, question: &Ask, wanted: &Reply) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket).context("the container's supervisor is gone")?;
    talk::send(&stream, question).context("cannot ask the container's supervisor")?;
    match talk::receive(&stream).context("the container's supervisor did not answer")? {
        Reply::Failed(why) => bail!("{why}"),
        answer if std::mem::discriminant(&answer) == std::mem::discriminant(wanted) => Ok(()),
        _ => bail!("the container's supervisor gave an unexpected answer"),
    }
}

/// A prepared sandbox: its id, and the container's environment and mounts.
type PreparedContainer = (String, Vec<String>, Vec<(PathBuf, PathBuf)>);

/// Starts a supervisor, which outlives this process, and waits for it to prepare a sandbox.
fn start(arguments: &OciHook, prepare: &Ask) -> anyhow::Result<PreparedContainer> {
    let (ours, theirs) = UnixStream::pair().context("cannot create a socket pair")?;
    let log = open_log(arguments)?.map_or_else(Stdio::null, Stdio::from);
    let child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--supervise")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(log)
        .current_dir("/")
        .spawn();
    child.context("cannot start the container's supervisor")?;
    talk::send(&ours, prepare).context("cannot ask the container's supervisor")?;
    match talk::receive(&ours).context("the container's supervisor did not answer")? {
        Reply::Prepared { id, environment, mounts } => Ok((id, environment, mounts)),
        Reply::Failed(why) => bail!("{why}"),
        _ => bail!("the container's supervisor gave an unexpected answer"),
    }
}
