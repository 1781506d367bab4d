//! `interceptor oci-hook`: called by a container engine or an OCI runtime at the stages of a container's life (see [`crate::oci`]).

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::oci_supervisor;
use crate::fleet::Pins;
use crate::oci::config::Config;
use crate::oci::input::{self, ContainerState, Input};
use crate::oci::store::{ContainerRecord, Store};
use crate::oci::talk::{self, Answer, Ask};
use crate::oci::{POLICY, SANDBOX, place, policies, rootfs, seccomp};
use crate::sandbox::launch;

/// The arguments of `interceptor oci-hook`. They are the operator's, in hooks.d; a container chooses its policy and nothing else.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct OciHook {
    /// The directory with the policies that containers may ask for.
    #[arg(long, value_name = "DIR", default_value = "/etc/interceptor/policies")]
    pub(super) policies: PathBuf,
    /// Where sandboxes of containers keep their sockets and trust files.
    #[arg(long, value_name = "DIR", default_value = "/run/interceptor/oci")]
    pub(super) state: PathBuf,
    /// Where audit records of all containers go, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(super) audit: Option<PathBuf>,
    /// Where failures are written, and what the supervisors log at the level of RUST_LOG [default: nowhere].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Certificates (PEM) to trust for upstream connections beside the system's roots; repeatable.
    #[arg(long, value_name = "FILE")]
    pub(super) upstream_ca: Vec<PathBuf>,
    /// Dial this address instead of resolving the name; repeatable.
    #[arg(long, value_name = "NAME[:PORT]:ADDR[:PORT]")]
    pub(super) resolve: Vec<String>,
    /// Start containers too that have privileges with which they can undo the enforcement.
    #[arg(long)]
    allow_privileged: bool,
    /// Be the supervisor of one container; started by the hook itself.
    #[arg(long, hide = true)]
    supervise: bool,
}

const EXAMPLES: &str = "\
Container engines call it, not people. `interceptor install podman` tells the engine to. Put \
policies into /etc/interceptor/policies/, then name one when you start a container:

  sudo podman run --network none --annotation io.interceptor.policy=agent \\
    IMAGE COMMAND

Its standard input tells it the stage: precreate, createRuntime or poststop. If it fails, the \
container does not start. For engines without the precreate stage, it makes a seccomp profile that \
permits only sockets under enforcement:

  interceptor oci-hook < /usr/share/containers/seccomp.json \\
    > /etc/interceptor/seccomp.json";

/// How long a supervisor may take to end.
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// Runs the command.
pub fn run(arguments: OciHook) -> anyhow::Result<ExitCode> {
    if arguments.supervise {
        return oci_supervisor::run(&arguments);
    }
    let outcome = stage(&arguments);
    if let Err(error) = &outcome {
        log(&arguments, error);
    }
    outcome
}

/// Runtimes throw away what a hook says (crun), or show it to whoever started the container, who
/// may be another.
fn log(arguments: &OciHook, error: &anyhow::Error) {
    if let Ok(Some(mut log)) = open_log(arguments) {
        let _ = writeln!(log, "interceptor: {error:#}");
    }
}

/// The path of this program, as messages name it.
fn executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "/interceptor".into())
}

fn open_log(arguments: &OciHook) -> anyhow::Result<Option<File>> {
    let Some(path) = &arguments.log else { return Ok(None) };
    let file = File::options().append(true).create(true).mode(0o600).open(path);
    Ok(Some(file.with_context(|| format!("cannot open {}", path.display()))?))
}

/// Does what the stage asks for.
fn stage(arguments: &OciHook) -> anyhow::Result<ExitCode> {
    let bytes = input::read(std::io::stdin().lock())?;
    match input::parse(&bytes)? {
        Input::Config(config) => {
            let mut refusing = config.clone();
            let changed = match precreate(arguments, config) {
                Ok(changed) => changed,
                Err(error) => {
                    // Engines keep to themselves what a hook says at this stage. The runtime that
                    // is to make the container names the hook that fails.
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

/// Starts a supervisor and gives the container what it prepared; `None` for a container that asks for no policy.
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

/// Has the supervisor attach to the container, which has not begun to run.
fn create_runtime(arguments: &OciHook, state: &ContainerState) -> anyhow::Result<()> {
    let Some(asked) = state.annotations.get(POLICY) else { return Ok(()) };
    if state.pid <= 0 {
        bail!("the state of container {} names no process", state.id);
    }
    let policy = policies::resolve(&arguments.policies, asked)?;
    // Again: between the stages other hooks may have changed it.
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
    // From the configuration on disk, which is what the runtime goes by.
    if let Some(id) = config.annotation(SANDBOX) {
        return ask(&store.entry(id)?.socket(), &attach, &Answer::Enforcing);
    }
    // An engine without the stage `precreate`: the environment stays as it is.
    let mounted = config.destinations().map(Path::to_owned).collect();
    let prepare =
        Ask::Prepare { policy, root: root.clone(), environment: Vec::new(), mounted, caller: caller() };
    let (id, _, mounts) = start(arguments, &prepare)?;
    let socket = store.entry(&id)?.socket();
    ask(&socket, &attach, &Answer::Enforcing)?;
    // Where that fails the container does not start, and the supervisor sees its end.
    Ok(rootfs::mount_in(state.pid, &root, &mounts)?)
}

/// Has the supervisor end; removes what one that was killed has left.
fn poststop(arguments: &OciHook, state: &ContainerState) -> anyhow::Result<()> {
    let store = Store::open(&arguments.state)?;
    // Prepared for a container that then could not be made: no record tells of it.
    if let Ok(config) = input::of_bundle(&state.bundle)
        && let Some(entry) = config.annotation(SANDBOX).and_then(|id| store.entry(id).ok())
        && entry.exists()
        && entry.record().is_none()
    {
        let _ = ask(&entry.socket(), &Ask::End, &Answer::Ended);
    }
    for (entry, record) in store.of_container(&state.id) {
        let deadline = Instant::now() + ENDED_WITHIN;
        // It may be ending of itself at this moment, and not answer any more.
        while ask(&entry.socket(), &Ask::End, &Answer::Ended).is_err() && entry.exists() {
            match clean_up(&record) {
                Ok(()) => entry.remove(),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

/// Removes the pins and the cgroup of a supervisor that is dead: a living one has the pins locked. As long as anything is left in the
/// cgroup they stay.
fn clean_up(record: &ContainerRecord) -> anyhow::Result<()> {
    if place::is_populated(&record.cgroup) {
        bail!("processes are left in the cgroup {} of the container that ended", record.cgroup.display());
    }
    let pins = Pins::of(record.cgroup_id)?;
    pins.stale.iter().try_for_each(|stale| crate::kernel::remove_pins(stale))?;
    if record.made {
        place::remove(&record.cgroup);
    }
    Ok(())
}

fn ask(socket: &Path, question: &Ask, wanted: &Answer) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket).context("the container's supervisor is gone")?;
    talk::send(&stream, question).context("cannot ask the container's supervisor")?;
    match talk::receive(&stream).context("the container's supervisor did not answer")? {
        Answer::Failed(why) => bail!("{why}"),
        answer if std::mem::discriminant(&answer) == std::mem::discriminant(wanted) => Ok(()),
        _ => bail!("the container's supervisor gave an unexpected answer"),
    }
}

/// What was prepared: the sandbox's id, the container's environment, its mounts.
type Prepared = (String, Vec<String>, Vec<(PathBuf, PathBuf)>);

/// Starts a supervisor, which outlives this process, and waits until it has prepared a sandbox.
fn start(arguments: &OciHook, prepare: &Ask) -> anyhow::Result<Prepared> {
    let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
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
        Answer::Prepared { id, environment, mounts } => Ok((id, environment, mounts)),
        Answer::Failed(why) => bail!("{why}"),
        _ => bail!("the container's supervisor gave an unexpected answer"),
    }
}
