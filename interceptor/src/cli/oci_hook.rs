//! `interceptor oci-hook`: called by a container engine or OCI runtime at the stages of a
//! container's life cycle (see `crate::oci`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;

use super::oci_shared::{self, ContainerOptions, PreparedContainer, ask, open_log};
use super::oci_supervisor;
use crate::oci::config::Config;
use crate::oci::input::{self, ContainerState, Input};
use crate::oci::store::Store;
use crate::oci::talk::{Ask, Reply};
use crate::oci::{POLICY, SANDBOX, policies, rootfs, seccomp};
use crate::sandbox::launch;

/// The arguments of `interceptor oci-hook`. The operator sets them in hooks.d; a container only
/// chooses its policy.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct OciHook {
    #[command(flatten)]
    options: ContainerOptions,
    /// Write errors and the supervisors' log to this file; RUST_LOG sets the level [default: none].
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
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

/// Runs the command.
pub fn run(arguments: OciHook) -> anyhow::Result<ExitCode> {
    if arguments.supervise {
        return oci_supervisor::run(&arguments.options.state, arguments.options.common());
    }
    let outcome = stage(&arguments);
    if let Err(error) = &outcome {
        log(&arguments, error);
    }
    outcome
}

/// Runtimes discard a hook's output (crun) or show it to the container's starter, who may not be
/// the operator.
fn log(arguments: &OciHook, error: &anyhow::Error) {
    if let Ok(Some(mut log)) = open_log(arguments.log.as_deref()) {
        let _ = writeln!(log, "interceptor: {error:#}");
    }
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
                    refusing.refuse(
                        &oci_shared::executable(),
                        &format!("{error:#}"),
                        &launch::random_id()?,
                    );
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
        Input::State(state) if state.status == "stopped" => {
            oci_shared::end(&arguments.options, &state, None)?;
        }
        Input::State(state) => create_runtime(arguments, &state)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts a supervisor and edits the container's configuration; `None` if the container requests no
/// policy.
fn precreate(arguments: &OciHook, mut config: Config) -> anyhow::Result<Option<String>> {
    let Some(asked) = config.annotation(POLICY) else { return Ok(None) };
    let policy = policies::resolve(&arguments.options.policies, asked)?;
    config.narrow_sockets();
    config.judge(arguments.options.allow_privileged)?;
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
    let policy = policies::resolve(&arguments.options.policies, asked)?;
    // Read again: other hooks may have changed it between the stages.
    let config = input::of_bundle(&state.bundle)?;
    config.judge(arguments.options.allow_privileged)?;
    let root = config.root(Some(&state.bundle))?;
    let attach = Ask::Attach {
        policy: policy.clone(),
        root: root.clone(),
        container: state.id.clone(),
        pid: state.pid,
        own_network: config.has_own_network(),
    };
    let store = Store::open(&arguments.options.state)?;
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

/// A supervisor, started by a copy of this process's command.
fn start(arguments: &OciHook, prepare: &Ask) -> anyhow::Result<PreparedContainer> {
    let command: Vec<_> = std::env::args_os().skip(1).chain(["--supervise".into()]).collect();
    oci_shared::start(&command, arguments.log.as_deref(), prepare)
}
