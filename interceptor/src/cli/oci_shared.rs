//! What the OCI hook and the OCI runtime share: options, the supervisor they start and ask, and
//! what they clean up after it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Common;
use super::common::ProxyOption;
use crate::fleet::Pins;
use crate::oci::input::{self, ContainerState};
use crate::oci::store::{ContainerRecord, Entry, Store};
use crate::oci::talk::{self, Ask, Reply};
use crate::oci::{SANDBOX, place};

/// The options for containers. The operator sets them; a container only chooses its policy.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ContainerOptions {
    /// The directory of policies that containers may request.
    #[arg(long, value_name = "DIR", default_value = "/etc/interceptor/policies")]
    pub(super) policies: PathBuf,
    /// The directory for the containers' sockets and trust files.
    #[arg(long, value_name = "DIR", default_value = "/run/interceptor/oci")]
    pub(super) state: PathBuf,
    /// Write audit records of all containers to this file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
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
    pub(super) allow_privileged: bool,
}

impl ContainerOptions {
    /// The options that the supervisor takes over.
    pub(super) fn common(&self) -> Common {
        Common {
            audit_chain: None,
            base_urls: false,
            log_format: None,
            policy: None,
            audit: self.audit.clone(),
            upstream_ca: self.upstream_ca.clone(),
            resolve: self.resolve.clone(),
            upstream_proxy: self.upstream_proxy.clone(),
            json: false,
            verbose: 0,
            quiet: false,
        }
    }
}

/// Time limit for a supervisor to exit.
const ENDED_WITHIN: Duration = Duration::from_secs(20);

/// The path of this program, for messages.
pub(super) fn executable() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "/interceptor".into())
}

/// Opens the log of errors and supervisors, if there is one.
///
/// # Errors
/// If it cannot be opened.
pub(super) fn open_log(path: Option<&Path>) -> anyhow::Result<Option<File>> {
    let Some(path) = path else { return Ok(None) };
    let file = File::options().append(true).create(true).mode(0o600).open(path);
    Ok(Some(file.with_context(|| format!("cannot open {}", path.display()))?))
}

/// Stops the supervisor of an ended container, and cleans up after killed ones. `only` names the
/// container's sandbox, if the caller knows it.
///
/// # Errors
/// If something is left.
pub(super) fn end(
    options: &ContainerOptions,
    state: &ContainerState,
    only: Option<&str>,
) -> anyhow::Result<()> {
    let store = Store::open(&options.state)?;
    // Prepared for a container that was never created: there is no record of it.
    if let Ok(config) = input::of_bundle(&state.bundle)
        && let Some(entry) = config.annotation(SANDBOX).and_then(|id| store.entry(id).ok())
        && entry.exists()
        && entry.record().is_none()
    {
        let _ = ask(&entry.socket(), &Ask::End, &Reply::Ended);
    }
    // Runtimes with other roots may have containers of the same id.
    let is_meant = |entry: &Entry| only.is_none_or(|id| entry.is_of(id));
    let all = store.of_container(&state.id).into_iter();
    for (entry, record) in all.filter(|(entry, _)| is_meant(entry)) {
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
    sweep(&store)
}

/// Removes what dead supervisors have left, of any container.
///
/// # Errors
/// If the state directory cannot be locked.
pub(super) fn sweep(store: &Store) -> anyhow::Result<()> {
    Ok(store.sweep(|record| clean_up(record).is_ok())?)
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

/// Asks a supervisor for something to which there is one good answer.
///
/// # Errors
/// With its reason, if it gives another.
pub(super) fn ask(socket: &Path, question: &Ask, wanted: &Reply) -> anyhow::Result<()> {
    match answer(socket, question)? {
        answer if std::mem::discriminant(&answer) == std::mem::discriminant(wanted) => Ok(()),
        _ => bail!("the container's supervisor gave an unexpected answer"),
    }
}

/// A supervisor's answer.
///
/// # Errors
/// If it is gone, or with its reason.
pub(super) fn answer(socket: &Path, question: &Ask) -> anyhow::Result<Reply> {
    let stream = UnixStream::connect(socket).context("the container's supervisor is gone")?;
    talk::send(&stream, question).context("cannot ask the container's supervisor")?;
    match talk::receive(&stream).context("the container's supervisor did not answer")? {
        Reply::Failed(why) => bail!("{why}"),
        answer => Ok(answer),
    }
}

/// A prepared sandbox: its id, and the container's environment and mounts.
pub(super) type PreparedContainer = (String, Vec<String>, Vec<(PathBuf, PathBuf)>);

/// Starts a supervisor, which outlives this process, and waits for it to prepare a sandbox.
/// `command` is what this program is called with as the supervisor.
///
/// # Errors
/// With the supervisor's reason.
pub(super) fn start(
    command: &[OsString],
    log: Option<&Path>,
    prepare: &Ask,
) -> anyhow::Result<PreparedContainer> {
    let (ours, theirs) = UnixStream::pair().context("cannot create a socket pair")?;
    let log = open_log(log)?.map_or_else(Stdio::null, Stdio::from);
    let child = Command::new("/proc/self/exe")
        .args(command)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(log)
        .current_dir("/")
        .spawn();
    let mut child = child.context("cannot start the container's supervisor")?;
    talk::send(&ours, prepare).context("cannot ask the container's supervisor")?;
    let answer = talk::receive(&ours).context("the container's supervisor did not answer")?;
    // A process between us and the supervisor has ended by now; the supervisor itself has not.
    let _ = child.try_wait();
    match answer {
        Reply::Prepared { id, environment, mounts } => Ok((id, environment, mounts)),
        Reply::Failed(why) => bail!("{why}"),
        _ => bail!("the container's supervisor gave an unexpected answer"),
    }
}
