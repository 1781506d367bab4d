//! The supervisor of one container: started by the hook, it serves the container until that has ended.
//!
//! Any signal that would end another process ends it at once: then the pinned programs stay, and refuse everything.

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
use super::oci_hook::OciHook;
use super::setup::{self, Rules};
use crate::audit::Audit;
use crate::fleet::{CgroupTarget, Enforced, Netns, Pins};
use crate::kernel::Enforcer;
use crate::oci::place::ContainerCgroup;
use crate::oci::rootfs::Rootfs;
use crate::oci::store::{ContainerRecord, Entry, Store};
use crate::oci::talk::{self, Answer, Ask};
use crate::proxy::Sandbox;
use crate::sandbox::trust::TrustFile;
use crate::sandbox::{cgroup, environment, launch, trust};
use crate::seam::SELF_TEST;

/// How long a prepared sandbox waits for its container at most: an engine that has failed in between does not say so.
const UNCLAIMED: Duration = Duration::from_secs(120);
/// How often it is looked whether the container still lives, should the kernel not tell, in milliseconds.
const LOOK_EVERY_MS: u16 = 1000;

/// Runs it, with the hook at standard input.
pub(super) fn run(arguments: &OciHook) -> anyhow::Result<ExitCode> {
    launch::detach()?;
    umask(Mode::from_bits_truncate(0o077));
    let hook = take_hook().context("`oci-hook --supervise` is started by the hook itself")?;
    let common = Common {
        audit_chain: None,
        base_urls: false,
        log_format: None,
        policy: None,
        audit: arguments.audit.clone(),
        upstream_ca: arguments.upstream_ca.clone(),
        resolve: arguments.resolve.clone(),
        json: false,
        verbose: 0,
        quiet: false,
    };
    setup::log(&common);
    match prepare(&arguments.state, common, &hook) {
        Ok((supervisor, answer)) => {
            talk::send(&hook, &answer).context("the hook is gone")?;
            drop(hook);
            supervisor.serve()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = talk::send(&hook, &Answer::Failed(format!("{error:#}")));
            Err(error)
        }
    }
}

/// Takes the socket away from standard input, so that nothing that is started later has it.
fn take_hook() -> io::Result<UnixStream> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&nothing)?;
    Ok(socket.into())
}

/// A prepared sandbox that waits for its container.
struct Supervisor {
    id: String,
    /// What the container asked for, and must ask for again.
    policy: PathBuf,
    root: PathBuf,
    mounted: Vec<PathBuf>,
    /// Who called the hook, and makes the container.
    caller: i32,
    rules: Rules,
    common: Common,
    audit: Audit,
    enforcer: Enforcer,
    tokio: tokio::runtime::Runtime,
    listener: UnixListener,
    kept: Kept,
}

/// Removed with this, but not by a signal.
struct Kept(Entry);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// Reads the policy, draws the placeholders, and prepares what the container is to be given.
fn prepare(state: &Path, mut common: Common, hook: &UnixStream) -> anyhow::Result<(Supervisor, Answer)> {
    launch::harden()?;
    let asked: Ask = talk::receive(hook).context("the hook asked for nothing")?;
    let Ask::Prepare { policy, root, environment, mounted, caller } = asked else {
        bail!("the hook asked for something other than `prepare`");
    };
    common.policy = Some(policy.clone());
    let rules = setup::rules(&common).map_err(|error| match error.downcast_ref::<setup::NoKeys>() {
        Some(keys) if keys.unset => anyhow::anyhow!(
            "{error}; policies for containers name keys by file, \"key\": {{\"file\": \"/etc/interceptor/…\"}}: \
             the hook has no variables of yours"
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
    let tokio =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the proxy")?;

    let kept = Kept(Store::open(state)?.make(&id)?);
    let files = trust_files(&root, None, &mounted)?;
    kept.0.write_trust(&files)?;
    let mut mounts = vec![(kept.0.trust(), PathBuf::from(trust::DIRECTORY))];
    for file in files {
        let source = kept.0.trust().join(file.name);
        mounts.extend(file.covers.into_iter().map(|covered| (source.clone(), covered)));
    }
    let listener = UnixListener::bind(kept.0.socket()).context("cannot listen for the container's hooks")?;
    let answer = Answer::Prepared { id: id.clone(), environment, mounts };
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

/// What the container is to trust; its authority is not known before it is attached to.
fn trust_files(root: &Path, ca_pem: Option<&str>, mounted: &[PathBuf]) -> anyhow::Result<Vec<TrustFile>> {
    let rootfs = Rootfs::open(root)?;
    Ok(trust::container_files(ca_pem, |path| rootfs.find(path), mounted))
}

impl Supervisor {
    /// Waits for the container, attaches to it, and serves it until its end.
    fn serve(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + UNCLAIMED;
        let (stream, asked) = loop {
            // Looked at before the question, which may have come just before that end.
            let is_over = Instant::now() > deadline || !Path::new(&format!("/proc/{}", self.caller)).exists();
            if let Some(next) = next(&self.listener, None)? {
                break next;
            }
            if is_over {
                bail!("{}: no container came for it", self.id);
            }
        };
        let (container, pid, own_network) = match asked {
            Ask::Attach { policy, root, container, pid, own_network }
                if policy == self.policy && root == self.root =>
            {
                (container, pid, own_network)
            }
            Ask::End => return Ok(talk::send(&stream, &Answer::Ended)?),
            _ => {
                let why = "this sandbox was prepared for another container";
                talk::send(&stream, &Answer::Failed(why.into()))?;
                bail!("{}: {why}", self.id);
            }
        };
        let Supervisor { id, root, mounted, rules, common, audit, enforcer, tokio, listener, kept, .. } =
            self;
        let _entered = tokio.enter();
        let fail = |error: anyhow::Error| {
            let _ = talk::send(&stream, &Answer::Failed(format!("{error:#}")));
            error
        };
        let cgroup = ContainerCgroup::of(pid, &container, &id).map_err(|error| fail(error.into()))?;
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
        // On a failure the hook is told before the cgroup is removed, which the container leaves only then.
        let enforced = attach(&to, rules).map_err(fail)?;
        // Should the hook be gone, the container does not start, and its cgroup is soon empty.
        let _ = talk::send(&stream, &Answer::Enforcing);
        drop(stream);
        let last = until_the_end(&listener, &cgroup);
        enforced.end(tokio.handle());
        tokio.block_on(audit.shutdown());
        drop((cgroup, kept));
        if let Some(stream) = last {
            let _ = talk::send(&stream, &Answer::Ended);
        }
        Ok(())
    }
}

/// What an attachment is made of.
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

/// Attaches, tests from inside, and fills in the trust files. Call it within a tokio runtime.
fn attach(to: &Attaching<'_>, rules: Rules) -> anyhow::Result<Enforced> {
    let cgroup = to.cgroup;
    let cgroup_id = cgroup::id_of(&cgroup.path)?;
    // Before there is anything that it tells of.
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
            "container {} has a network but no cgroup of its own, so that what is executed in it later would be on that network \
             outside the enforcement: start it with `--network none`, or without `--cgroups=disabled`",
            to.container
        );
    }
    // The configuration says who made the namespace; it is not this one in any case.
    let netns = if to.own_network && network.is_some() { Netns::Private } else { Netns::Shared };
    let place = CgroupTarget { cgroup: &cgroup.path, cgroup_id, netns };
    let keys = (rules.policy, rules.keyring);
    let pins = Pins::of(cgroup_id)?;
    let sandbox = Sandbox::new(&runtime, to.id, keys.0, keys.1)?;
    let mut enforced = Enforced::begin(&runtime, to.enforcer, sandbox, &place, sockets, Some(pins))?;
    visitor.self_test(SELF_TEST, &enforced.token)?;
    drop(visitor);
    enforced.record_refusals()?;
    // Into the files that are mounted in the container by now.
    to.entry.write_trust(&trust_files(to.root, Some(&enforced.sandbox().trust_pem()), to.mounted)?)?;
    tracing::info!(sandbox = %to.id, container = %to.container, "enforcing");
    Ok(enforced)
}

/// The network namespace of a process; `None` for our own.
fn network_namespace(pid: i32) -> anyhow::Result<Option<OwnedFd>> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let own = fs::metadata("/proc/self/ns/net").context("cannot examine /proc/self/ns/net")?;
    let other = namespace.metadata().with_context(|| format!("cannot examine {path}"))?;
    Ok(((own.dev(), own.ino()) != (other.dev(), other.ino())).then(|| namespace.into()))
}

/// Waits until the container has ended: until nothing is left in its cgroup. Whoever asked for the end is to be answered afterwards.
fn until_the_end(listener: &UnixListener, cgroup: &ContainerCgroup) -> Option<UnixStream> {
    // The kernel tells of a change since it was last read there (cgroup-v2, "cgroup.events").
    let events = File::open(cgroup.path.join("cgroup.events")).ok()?;
    let is_populated = || {
        let mut text = [0; 256];
        let length = events.read_at(&mut text, 0).unwrap_or(0);
        memchr::memmem::find(&text[..length], b"populated 1").is_some()
    };
    let mut asked = None;
    while is_populated() {
        match next(listener, Some(&events)) {
            // Whoever says so: the wall stands until there is nobody behind it.
            Ok(Some((stream, Ask::End))) => asked = Some(stream),
            Ok(Some((stream, _))) => {
                let _ = talk::send(&stream, &Answer::Failed("this sandbox has its container".into()));
            }
            Ok(None) => {}
            // Whatever it was: not faster than that.
            Err(_) => std::thread::sleep(Duration::from_millis(LOOK_EVERY_MS.into())),
        }
    }
    asked
}

/// The next question, if one comes within a second and before `events`.
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
    // Somebody who only came to look.
    Ok(talk::receive(&stream).ok().map(|asked| (stream, asked)))
}
