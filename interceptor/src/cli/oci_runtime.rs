//! `interceptor oci-runtime`: an OCI runtime that wraps another (runtime.md of the specification,
//! and the command line that runc and crun share).
//!
//! It edits the bundle of a container before the wrapped runtime reads it, and then becomes that
//! runtime. It is also the hook of such a container, and its supervisor.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, anyhow, bail};
use nix::unistd::Pid;

use super::oci_shared::{self, ContainerOptions, answer, ask};
use super::{oci_refusal, oci_supervisor};
use crate::oci::arguments::{self, Action, Invocation};
use crate::oci::bundle::{self, Edited};
use crate::oci::config::Config;
use crate::oci::input::{self, ContainerState, Input};
use crate::oci::store::{Entry, Store};
use crate::oci::talk::{Ask, Reply};
use crate::oci::{POLICY, RUNTIME, SANDBOX, policies};
use crate::sandbox::cgroup;

/// The name of a link to this program that needs no argument: containerd's `BinaryName` takes none.
pub(super) const NAME: &str = "interceptor-runtime";
/// The runtimes that are looked for, in this order.
const KNOWN: [&str; 2] = ["runc", "crun"];
/// Where programs are looked for besides `PATH`, which an engine may have emptied.
const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest state that a runtime reports.
const MAX_STATE: usize = 16 << 20;

/// The arguments of `interceptor oci-runtime`. None of its own is named as one of runc's or crun's.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct OciRuntime {
    /// The runtime to wrap [default: the first of runc and crun that is found].
    #[arg(long, value_name = "runc|crun|PATH")]
    runtime: Option<PathBuf>,
    /// The policy of containers whose annotation io.interceptor.policy names none.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// What becomes of a container for which there is no policy.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "refuse")]
    unmanaged: Unmanaged,
    #[command(flatten)]
    options: ContainerOptions,
    /// Write the supervisors' log to this file; RUST_LOG sets the level [default: none].
    #[arg(long, value_name = "FILE")]
    supervisor_log: Option<PathBuf>,
    /// Be the hook of this sandbox; the runtime itself arranges it.
    #[arg(long, hide = true, value_name = "ID")]
    stage: Option<String>,
    /// Be the supervisor of one container, or start it; the runtime itself does.
    #[arg(long, hide = true, value_enum, value_name = "STEP")]
    supervise: Option<Supervise>,
    /// The runtime's own arguments: its options, a command, and the command's arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

/// What becomes of a container without a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unmanaged {
    /// It does not start.
    Refuse,
    /// It starts without any enforcement.
    Pass,
}

/// A step on the way to a supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Supervise {
    /// Start one and end: it must not be a child of the runtime, which may wait for its children.
    Start,
    /// Be it.
    Serve,
}

const EXAMPLES: &str = "\
Container engines call it, not people: its path is what they take for a runtime. As a program \
                        called `interceptor-runtime`, it needs no argument:

  sudo ln -s interceptor /usr/local/bin/interceptor-runtime

Put policies into /etc/interceptor/policies/. A container asks for one by the annotation \
                        io.interceptor.policy=NAME; where the engine knows no annotations, make a \
                        runtime entry for each policy, with --policy NAME. What an engine then \
                        calls is like

  interceptor oci-runtime --policy agent create --bundle DIR ID";

/// The arguments, where this program is called by the name of the runtime.
pub(super) fn by_name() -> Option<Vec<OsString>> {
    let mut arguments = std::env::args_os();
    let name = PathBuf::from(arguments.next()?);
    (name.file_name()? == NAME)
        .then(|| ["interceptor".into(), RUNTIME.into()].into_iter().chain(arguments).collect())
}

/// Runs the command. Returns only where it does not become the wrapped runtime.
pub fn run(arguments: OciRuntime) -> anyhow::Result<ExitCode> {
    match arguments.supervise {
        Some(Supervise::Start) => return start_supervisor(),
        Some(Supervise::Serve) => {
            return oci_supervisor::run(&arguments.options.state, arguments.options.common());
        }
        None => {}
    }
    if let Some(id) = &arguments.stage {
        return stage(&arguments, id).map(|()| ExitCode::SUCCESS);
    }
    let outcome = wrap(&arguments);
    if let Err(error) = &outcome {
        oci_refusal::log(&arguments.arguments, &format!("interceptor: {error:#}"));
    }
    outcome
}

fn wrap(arguments: &OciRuntime) -> anyhow::Result<ExitCode> {
    let runtime = runtime(arguments.runtime.as_deref())?;
    let Invocation { globals, action } = arguments::parse(&arguments.arguments)?;
    let state = |id: &OsString| state(&runtime, &globals, id);
    match action {
        Action::Create { bundle } => create(arguments, bundle)?,
        Action::Start { id } => {
            if let Some(entry) = entry(arguments, &state(&id)?)? {
                ask(&entry.socket(), &Ask::Status, &Reply::Enforcing)?;
            }
        }
        Action::Exec { id, process, capabilities } => {
            if let Some(entry) = entry(arguments, &state(&id)?)? {
                exec(arguments, &entry, process.as_deref(), &capabilities)?;
            }
        }
        Action::Restore if arguments.unmanaged == Unmanaged::Refuse => {
            bail!("a container cannot be restored from a checkpoint under enforcement")
        }
        Action::Restore | Action::Other => {}
        Action::Delete => oci_shared::sweep(&Store::open(&arguments.options.state)?)?,
    }
    let error = Command::new(&runtime).args(&arguments.arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", runtime.display()))
}

/// Finds the runtime to wrap.
fn runtime(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let find = |name: &Path| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(std::env::split_paths(USUAL));
        directories
            .filter(|directory| directory.is_absolute())
            .map(|directory| directory.join(name))
            .find(|file| file.is_file())
    };
    let found = match named {
        Some(path) if path.is_absolute() => path.to_owned(),
        Some(name) if name.components().count() == 1 => {
            find(name).ok_or_else(|| anyhow!("there is no runtime {}", name.display()))?
        }
        Some(path) => bail!("--runtime takes a name or an absolute path, not {}", path.display()),
        None => KNOWN
            .iter()
            .find_map(|name| find(Path::new(name)))
            .ok_or_else(|| anyhow!("there is neither runc nor crun: install one of them"))?,
    };
    let same = |file: &Path| {
        let (found, other) = (std::fs::metadata(&found).ok()?, std::fs::metadata(file).ok()?);
        Some((found.dev(), found.ino()) == (other.dev(), other.ino()))
    };
    if same(Path::new("/proc/self/exe")) == Some(true) {
        bail!("{} is the interceptor itself: name another with --runtime", found.display());
    }
    Ok(found)
}

/// What this program is called with again: its own options.
fn own(arguments: &OciRuntime) -> Vec<OsString> {
    let all = by_name().unwrap_or_else(|| std::env::args_os().collect());
    let end = all.len().saturating_sub(arguments.arguments.len());
    all.into_iter().take(end).skip(1).collect()
}

/// The policy that a container asks for, or that the operator gives it.
fn asked<'a>(arguments: &'a OciRuntime, config: &'a Config) -> Option<&'a str> {
    config.annotation(POLICY).or(arguments.policy.as_deref())
}

/// Starts a supervisor and edits the bundle.
fn create(arguments: &OciRuntime, bundle: Option<PathBuf>) -> anyhow::Result<()> {
    let here = std::env::current_dir().context("cannot find the working directory")?;
    let bundle = here.join(bundle.unwrap_or_default());
    let (edited, mut config) = bundle::open(&bundle)?;
    let Some(asked) = asked(arguments, &config).map(str::to_owned) else {
        if arguments.unmanaged == Unmanaged::Pass {
            return Ok(());
        }
        bail!(
            "the container has no policy: give it the annotation {POLICY}=NAME, or the runtime \
             --policy NAME (or --unmanaged pass, for containers without enforcement)"
        );
    };
    if config.is_hooked() {
        bail!(
            "the engine calls the interceptor's hook too: remove one of both \
             (sudo interceptor install podman --uninstall)"
        );
    }
    let options = &arguments.options;
    let policy = policies::resolve(&options.policies, &asked)?;
    oci_shared::sweep(&Store::open(&options.state)?)?;
    config.restore();
    config.narrow_sockets();
    config.give_filter();
    config.judge(options.allow_privileged)?;
    crate::kernel::bpffs()?;
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    if !program.is_file() {
        bail!("{} is gone: was the interceptor replaced meanwhile?", program.display());
    }
    let mut command = own(arguments);
    command.push("--supervise=start".into());
    let prepare = Ask::Prepare {
        policy,
        root: config.root(Some(&bundle))?,
        environment: config.environment(),
        mounted: config.destinations().map(Path::to_owned).collect(),
        // This process becomes the runtime.
        caller: std::process::id().cast_signed(),
    };
    let log = arguments.supervisor_log.as_deref();
    let (id, environment, mounts) = oci_shared::start(&command, log, &prepare)?;
    config.set_environment(environment)?;
    config.annotate(SANDBOX, &id);
    for (source, destination) in &mounts {
        config.bind(source, destination)?;
    }
    let hook = hook(arguments, &id)?;
    for stage in ["createRuntime", "poststop"] {
        config.call(stage, &program, &hook)?;
    }
    Ok(edited.replace(&config.to_json())?)
}

/// The arguments of this program as the hook of a sandbox.
fn hook(arguments: &OciRuntime, id: &str) -> anyhow::Result<Vec<String>> {
    let mut hook = vec!["interceptor".to_owned()];
    for argument in own(arguments) {
        let text = argument.into_string();
        hook.push(text.map_err(|_| anyhow!("an option of the runtime is not UTF-8"))?);
    }
    hook.push(format!("--stage={id}"));
    Ok(hook)
}

/// Handles a stage of a container's life, as the hook of its sandbox.
fn stage(arguments: &OciRuntime, id: &str) -> anyhow::Result<()> {
    let Input::State(state) = input::parse(&input::read(std::io::stdin().lock())?)? else {
        bail!("a runtime calls its hooks with the container's state");
    };
    let options = &arguments.options;
    if state.status == "stopped" {
        return oci_shared::end(options, &state, Some(id));
    }
    if state.pid <= 0 {
        bail!("the state of container {} has no pid", state.id);
    }
    // Read again: something else may have changed it since.
    let config = input::of_bundle(&state.bundle)?;
    config.judge(options.allow_privileged)?;
    let asked = asked(arguments, &config).context("the container's policy has been removed")?;
    let attach = Ask::Attach {
        policy: policies::resolve(&options.policies, asked)?,
        root: config.root(Some(&state.bundle))?,
        container: state.id.clone(),
        pid: state.pid,
        own_network: config.has_own_network(),
    };
    let entry = Store::open(&options.state)?.entry(id)?;
    ask(&entry.socket(), &attach, &Reply::Enforcing)
}

/// The sandbox of a container, if it is under enforcement.
fn entry(arguments: &OciRuntime, state: &ContainerState) -> anyhow::Result<Option<Entry>> {
    let Some(id) = state.annotations.get(SANDBOX) else { return Ok(None) };
    Ok(Some(Store::open(&arguments.options.state)?.entry(id)?))
}

/// Asks the wrapped runtime about a container.
fn state(runtime: &Path, globals: &[OsString], id: &OsString) -> anyhow::Result<ContainerState> {
    let output = Command::new(runtime)
        .args(globals)
        .args(["state".as_ref(), id.as_os_str()])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", runtime.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("the runtime does not know the container: {}", why.trim());
    }
    if output.stdout.len() > MAX_STATE {
        bail!("the container's state is too long");
    }
    match input::parse(&output.stdout)? {
        Input::State(state) => Ok(state),
        Input::Config(_) | Input::Profile(_) => bail!("the runtime did not report a state"),
    }
}

/// Gives a further process of a container what the first one got.
fn exec(
    arguments: &OciRuntime,
    entry: &Entry,
    process: Option<&Path>,
    capabilities: &[String],
) -> anyhow::Result<()> {
    let privileged = arguments.options.allow_privileged;
    let socket = &entry.socket();
    if let Some(record) = entry.record().filter(|record| record.made) {
        // The runtime knows no cgroup of the container, and leaves the process in its caller's.
        cgroup::add(&record.cgroup, Pid::this())?;
    }
    let Some(path) = process else {
        // Its environment is that of the bundle, which has been edited.
        let process = Config::of_process(b"{}")?;
        process.judge_process(capabilities, privileged)?;
        return ask(socket, &Ask::Status, &Reply::Enforcing);
    };
    let (edited, bytes) = Edited::read(path)?;
    let mut process = Config::of_process(&bytes)?;
    process.judge_process(capabilities, privileged)?;
    let question = Ask::Exec { environment: process.environment() };
    let Reply::Environment(environment) = answer(socket, &question)? else {
        bail!("the container's supervisor gave an unexpected answer");
    };
    process.set_environment(environment)?;
    Ok(edited.replace(&process.process_to_json())?)
}

/// Starts the supervisor, with the socket that is this process's standard input, and ends.
fn start_supervisor() -> anyhow::Result<ExitCode> {
    let arguments = std::env::args_os().skip(1);
    let arguments = arguments.filter(|argument| argument != "--supervise=start");
    Command::new("/proc/self/exe")
        .args(arguments)
        .arg("--supervise=serve")
        .spawn()
        .context("cannot start the container's supervisor")?;
    Ok(ExitCode::SUCCESS)
}
