//! The supervisor of one container: started by the hook, it serves the container until it ends.
//!
//! Signals kill it as they do any process; the pinned programs then stay and refuse everything.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, umask};

use super::Common;
use super::setup::{self, LoadedPolicy};
use crate::audit::Audit;
use crate::fleet::{CgroupTarget, Enforced, Netns, Pins};
use crate::kernel::Enforcer;
use crate::oci::place::ContainerCgroup;
use crate::oci::rootfs::Rootfs;
use crate::oci::store::{ContainerRecord, Entry, Store};
use crate::oci::talk::{self, Ask, Reply};
use crate::proxy::Sandbox;
use crate::sandbox::trust::TrustFile;
use crate::sandbox::{cgroup, environment, launch, trust};
use crate::seam::SELF_TEST;

/// How long a prepared sandbox waits for its container: an engine that fails in between does not
/// say so.
const UNCLAIMED: Duration = Duration::from_secs(120);
/// Interval for checking that the container is alive, in milliseconds; a fallback for missed
/// events.
const LOOK_EVERY_MS: u16 = 1000;

/// Runs the supervisor, with the hook's socket as standard input.
pub(super) fn run(state: &Path, common: Common) -> anyhow::Result<ExitCode> {
    launch::detach()?;
    umask(Mode::from_bits_truncate(0o077));
    let hook = take_hook().context("`oci-hook --supervise` is started by the hook itself")?;
    setup::log(&common);
    match prepare(state, common, &hook) {
        Ok((supervisor, answer)) => {
            talk::send(&hook, &answer).context("the hook is gone")?;
            drop(hook);
            supervisor.serve()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = talk::send(&hook, &Reply::Failed(format!("{error:#}")));
            Err(error)
        }
    }
}

/// Moves the socket off standard input, so that no child process inherits it.
fn take_hook() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    Ok(socket.into())
}

/// A prepared sandbox that awaits its container.
struct Supervisor {
    id: String,
    /// The policy that the container requested; the attach must request the same.
    policy: PathBuf,
    root: PathBuf,
    mounted: Vec<PathBuf>,
    /// The process that called the hook and creates the container.
    caller: i32,
    rules: LoadedPolicy,
    common: Common,
    audit: Audit,
    enforcer: Enforcer,
    tokio: tokio::runtime::Runtime,
    listener: UnixListener,
    kept: Kept,
}

/// A directory, removed on drop but not on a signal.
struct Kept(Entry);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// Reads the policy, generates the placeholders, and prepares the container's environment and
/// mounts.
fn prepare(
    state: &Path,
    mut common: Common,
    hook: &UnixStream,
) -> anyhow::Result<(Supervisor, Reply)> {
    launch::harden()?;
    let asked: Ask = talk::receive(hook).context("the hook sent no request")?;
    let Ask::Prepare { policy, root, environment, mounted, caller } = asked else {
        bail!("the hook asked for something other than `prepare`");
    };
    common.policy = Some(policy.clone());
    let rules =
        setup::rules(&common).map_err(|error| match error.downcast_ref::<setup::NoKeys>() {
            Some(keys) if keys.unset => anyhow::anyhow!(
                "{error}; policies for containers name keys by file, \"key\": {{\"file\": \
                 \"/etc/interceptor/…\"}}: the hook has no variables of yours"
            ),
            _ => error,
        })?;
    let id = launch::random_id()?;
    let environment = environment::of_container(
        &environment,
        &id,
        rules.keyring.environment(),
        &rules.key_variables,
        |value| rules.hold_key(value),
    );
    let audit = setup::audit(&common, rules.policy.limits())?;
    let enforcer = Enforcer::load()?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;

    let kept = Kept(Store::open(state)?.make(&id)?);
    let files = trust_files(&root, None, &mounted)?;
    kept.0.write_trust(&files)?;
    let mut mounts = vec![(kept.0.trust(), PathBuf::from(trust::DIRECTORY))];
    for file in files {
        let source = kept.0.trust().join(file.name);
        mounts.extend(file.covers.into_iter().map(|covered| (source.clone(), covered)));
    }
    let listener =
        UnixListener::bind(kept.0.socket()).context("cannot listen for the container's hooks")?;
    let answer = Reply::Prepared { id: id.clone(), environment, mounts };
    let supervisor = Supervisor {
        id,
        policy,
        root,
        mounted,
        caller,
        rules,
        common,
        audit,
        enforcer,
        tokio,
        listener,
        kept,
    };
    Ok((supervisor, answer))
}

/// The container's trust files; its CA is unknown until the attach.
fn trust_files(
    root: &Path,
    ca_pem: Option<&str>,
    mounted: &[PathBuf],
) -> anyhow::Result<Vec<TrustFile>> {
    let rootfs = Rootfs::open(root)?;
    Ok(trust::container_files(ca_pem, |path| rootfs.find(path), mounted))
}

impl Supervisor {
    /// Waits for the first request, from the hook that starts the container.
    fn claimed(&self) -> anyhow::Result<(UnixStream, Ask)> {
        let deadline = Instant::now() + UNCLAIMED;
        loop {
            // Checked before reading requests: one may arrive just before the deadline.
            let is_over = Instant::now() > deadline || has_ended(self.caller);
            if let Some(next) = next(&self.listener, None)? {
                return Ok(next);
            }
            if is_over {
                bail!("{}: no container came for it", self.id);
            }
        }
    }

    /// Waits for the container, attaches to it, and serves it until it ends.
    fn serve(self) -> anyhow::Result<()> {
        let (stream, asked) = self.claimed()?;
        let (container, pid, own_network) = match asked {
            Ask::Attach { policy, root, container, pid, own_network }
                if policy == self.policy && root == self.root =>
            {
                (container, pid, own_network)
            }
            Ask::End => return Ok(talk::send(&stream, &Reply::Ended)?),
            _ => {
                let why = "this sandbox was prepared for another container";
                talk::send(&stream, &Reply::Failed(why.into()))?;
                bail!("{}: {why}", self.id);
            }
        };
        let Supervisor {
            id,
            root,
            mounted,
            rules,
            common,
            audit,
            enforcer,
            tokio,
            listener,
            kept,
            ..
        } = self;
        let _entered = tokio.enter();
        let fail = |error: anyhow::Error| {
            let _ = talk::send(&stream, &Reply::Failed(format!("{error:#}")));
            error
        };
        let cgroup =
            ContainerCgroup::of(pid, &container, &id).map_err(|error| fail(error.into()))?;
        let to = Attaching {
            id: &id,
            container: &container,
            pid,
            own_network,
            cgroup: &cgroup,
            root: &root,
            mounted: &mounted,
            common: &common,
            audit: &audit,
            enforcer: &enforcer,
            entry: &kept.0,
        };
        // On failure, tell the hook before removing the cgroup: only then does the container leave
        // it.
        let enforced = attach(&to, rules).map_err(fail)?;
        // If the hook is gone, the container does not start, and its cgroup soon empties.
        let _ = talk::send(&stream, &Reply::Enforcing);
        drop(stream);
        let last = until_the_end(&listener, &cgroup, &|ask| about(ask, &id, &enforced));
        enforced.end(tokio.handle());
        tokio.block_on(audit.shutdown());
        drop((cgroup, kept));
        if let Some(stream) = last {
            let _ = talk::send(&stream, &Reply::Ended);
        }
        Ok(())
    }
}

/// The inputs of an attachment.
struct Attaching<'a> {
    id: &'a str,
    container: &'a str,
    pid: i32,
    own_network: bool,
    cgroup: &'a ContainerCgroup,
    root: &'a Path,
    mounted: &'a [PathBuf],
    common: &'a Common,
    audit: &'a Audit,
    enforcer: &'a Enforcer,
    entry: &'a Entry,
}

/// Attaches, runs the self-test, and fills in the trust files. Needs a tokio runtime.
fn attach(to: &Attaching<'_>, rules: LoadedPolicy) -> anyhow::Result<Enforced> {
    let cgroup = to.cgroup;
    let cgroup_id = cgroup::id_of(&cgroup.path)?;
    // Written before anything it describes exists.
    to.entry.write_record(&ContainerRecord {
        container: to.container.to_owned(),
        cgroup: cgroup.path.clone(),
        cgroup_id,
        made: cgroup.made,
    })?;
    let network = network_namespace(to.pid)?;
    let runtime = setup::runtime(to.common, to.audit.clone())?;
    let (mut visitor, sockets) =
        launch::Visitor::start(&cgroup.path, network.as_ref().map(|namespace| namespace.as_fd()))?;
    if cgroup.made && !sockets.closed {
        bail!(
            "container {} has a network but no cgroup of its own, so that a later exec would be \
             on that network outside the enforcement: start it with `--network none`, or without \
             `--cgroups=disabled`",
            to.container
        );
    }
    // The configuration tells who created the namespace; it is never our own.
    let netns = if to.own_network && network.is_some() { Netns::Private } else { Netns::Shared };
    let place = CgroupTarget { cgroup: &cgroup.path, cgroup_id, netns };
    let keys = (rules.policy, rules.keyring);
    let pins = Pins::of(cgroup_id)?;
    let sandbox = Sandbox::new(&runtime, to.id, keys.0, keys.1)?;
    let mut enforced =
        Enforced::begin(&runtime, to.enforcer, sandbox, &place, sockets, Some(pins))?;
    visitor.self_test(SELF_TEST, &enforced.token)?;
    drop(visitor);
    enforced.record_refusals()?;
    runtime.warm();
    // Fill the files that are already mounted in the container.
    to.entry.write_trust(&trust_files(
        to.root,
        Some(&enforced.sandbox().trust_pem()),
        to.mounted,
    )?)?;
    tracing::info!(sandbox = %to.id, container = %to.container, "enforcing");
    Ok(enforced)
}

/// Whether a process has ended, also if nobody has reaped it (proc_pid_stat(5)).
fn has_ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_none_or(|state| matches!(state, 'Z' | 'X'))
}

/// The network namespace of a process; `None` if it is ours.
fn network_namespace(pid: i32) -> anyhow::Result<Option<OwnedFd>> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let own = fs::metadata("/proc/self/ns/net").context("cannot examine /proc/self/ns/net")?;
    let other = namespace.metadata().with_context(|| format!("cannot examine {path}"))?;
    Ok(((own.dev(), own.ino()) != (other.dev(), other.ino())).then(|| namespace.into()))
}

/// Answers a question about an enforced container.
fn about(asked: Ask, id: &str, enforced: &Enforced) -> Reply {
    match asked {
        Ask::Status => Reply::Enforcing,
        Ask::Exec { environment } => {
            let rules = enforced.sandbox().rules();
            let keys = &rules.keyring;
            Reply::Environment(environment::of_container(
                &environment,
                id,
                keys.environment(),
                &[],
                |value| keys.may_hold(value),
            ))
        }
        _ => Reply::Failed("this sandbox has its container".into()),
    }
}

/// Waits until the container's cgroup is empty, and answers meanwhile. Returns the connection that
/// asked for the end, to be answered later.
fn until_the_end(
    listener: &UnixListener,
    cgroup: &ContainerCgroup,
    about: &dyn Fn(Ask) -> Reply,
) -> Option<UnixStream> {
    // poll(2) reports changes since the last read (cgroup-v2, "cgroup.events").
    let events = File::open(cgroup.path.join("cgroup.events")).ok()?;
    let is_populated = || {
        let mut text = [0; 256];
        let length = events.read_at(&mut text, 0).unwrap_or(0);
        memchr::memmem::find(&text[..length], b"populated 1").is_some()
    };
    let mut asked = None;
    while is_populated() {
        match next(listener, Some(&events)) {
            // Enforcement stays until the cgroup is empty.
            Ok(Some((stream, Ask::End))) => asked = Some(stream),
            Ok(Some((stream, asked))) => {
                let _ = talk::send(&stream, &about(asked));
            }
            Ok(None) => {}
            // Do not spin on an error.
            Err(_) => std::thread::sleep(Duration::from_millis(LOOK_EVERY_MS.into())),
        }
    }
    asked
}

/// The next request, unless `events` fires or a second passes first.
fn next(listener: &UnixListener, events: Option<&File>) -> io::Result<Option<(UnixStream, Ask)>> {
    let mut watched = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    watched.extend(events.map(|events| PollFd::new(events.as_fd(), PollFlags::POLLPRI)));
    match poll(&mut watched, PollTimeout::from(LOOK_EVERY_MS)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    if watched[0].any() != Some(true) {
        return Ok(None);
    }
    let (stream, _) = listener.accept()?;
    // `None` for a connection without a request.
    Ok(talk::receive(&stream).ok().map(|asked| (stream, asked)))
}
