//! `interceptor attach`: enforces a policy on a cgroup that exists: a container's, a slice's.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::Pid;

use super::pins::Pins;
use super::setup::{self, Enforced, Place};
use super::{Common, existing, watch};
use crate::kernel::{Enforcer, Wall};
use crate::proxy::SELF_TEST;
use crate::sandbox::{cgroup, launch};

/// The arguments of `interceptor attach`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Attach {
    /// The options that `run` and `serve` have too.
    #[command(flatten)]
    common: Common,
    /// The cgroup: a directory of a mounted cgroup v2, or a path below its mount, as /proc/PID/cgroup shows it.
    #[arg(long, value_name = "PATH")]
    cgroup: PathBuf,
    /// A process whose network namespace is the sandbox's [default: the first of the cgroup].
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// Close the connections that the cgroup's processes opened before; without it they go on, and their number is said.
    #[arg(long)]
    kill_existing: bool,
}

const EXAMPLES: &str = "\
Examples:
  sudo interceptor attach --policy p.json --cgroup /sys/fs/cgroup/agents.slice
  sudo interceptor attach --policy p.json --cgroup /sys/fs/cgroup/docker/0123 --pid 4711 --json
  sudo interceptor attach --policy p.json --cgroup /sys/fs/cgroup/ci.slice --kill-existing

It prints one line when enforcement is in place, and ends it with SIGINT or SIGTERM. Of connections opened before, those over loopback and
those of sockets made outside the cgroup go on; --kill-existing closes them. With --json the line is an object with the sandbox's id, its certificate authority (ca_pem) and the placeholders (env).";

/// Runs the command.
pub fn run(arguments: Attach) -> anyhow::Result<ExitCode> {
    let Attach { common, cgroup, pid, kill_existing } = arguments;
    // Before any other thread exists: those that follow inherit that the signals are held back.
    let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    ends.thread_block().context("cannot hold back signals")?;
    setup::log(&common);
    launch::harden()?;
    let cgroup = directory(&cgroup)?;
    let network = network_namespace(&cgroup, pid)?;
    let rules = setup::rules(&common)?;
    let placeholders = rules.keyring.environment();

    let audit = setup::audit(&common, rules.policy.limits())?;
    let enforcer = Enforcer::load()?;
    let tokio =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the proxy")?;
    let _entered = tokio.enter();
    let runtime = setup::runtime(&common, audit.clone())?;

    let id = launch::random_id()?;
    let pins = Pins::of(cgroup::id_of(&cgroup)?)?;
    let takes_over = !pins.stale.is_empty();
    if takes_over {
        tracing::warn!(sandbox = %id, "taking over from an interceptor that died");
    }
    let (mut visitor, sockets) =
        launch::Visitor::start(&cgroup, network.as_ref().map(|namespace| namespace.as_fd()))?;
    let (listeners, has_devices) = (sockets.addresses(), !sockets.closed);
    // Also a namespace of its own needs every part of the wall where it has a way out.
    let place = Place { cgroup: &cgroup, cgroup_id: cgroup::id_of(&cgroup)?, shared: !sockets.closed };
    let keys = (rules.policy, rules.keyring);
    let mut enforced = Enforced::begin(&runtime, &enforcer, &id, &place, sockets, keys, Some(pins))?;
    if let Err(failed) = visitor.self_test(SELF_TEST, &enforced.token) {
        if takes_over {
            // The cgroup was closed before: it stays closed.
            enforced.leave();
        }
        return Err(failed.into());
    }
    // It is a process of the cgroup only as long as it must be.
    drop(visitor);
    enforced.record_refusals()?;
    let processes = cgroup::processes(&cgroup).context("cannot list the cgroup's processes")?;
    let wall =
        Wall { cgroup: &cgroup, processes: &processes, listeners: &listeners, shared_netns: has_devices };
    if let Err(failed) = existing::settle(&wall, kill_existing, common.quiet) {
        if takes_over {
            enforced.leave();
        }
        return Err(failed);
    }
    existing::warn_of_packet_sockets(&cgroup, has_devices, common.quiet);

    announce(&common, &id, &cgroup, &enforced.ca_pem, placeholders)?;
    let mut alarmed = false;
    let signal = watch::until_signal(&ends, || {
        let lost = enforced.lost();
        // A cgroup that is gone takes the programs along, and has nobody left to get out.
        if !lost.is_empty() && !alarmed && cgroup.exists() {
            enforced.alarm(&lost);
            alarmed = true;
        }
    })?;
    tracing::info!(sandbox = %id, %signal, "detaching");
    enforced.end(tokio.handle());
    tokio.block_on(audit.shutdown());
    Ok(ExitCode::SUCCESS)
}

/// The directory that `path` names, either itself or below the mount.
fn directory(path: &Path) -> anyhow::Result<PathBuf> {
    let below = cgroup::mount_point()?.join(path.strip_prefix("/").unwrap_or(path));
    let candidates = [path.to_owned(), below];
    let Some(found) = candidates.iter().find(|candidate| candidate.join("cgroup.procs").exists()) else {
        bail!(
            "{} is no cgroup: give the directory of one below {}, or its path as /proc/PID/cgroup shows it",
            path.display(),
            cgroup::mount_point()?.display()
        );
    };
    let found = fs::canonicalize(found).with_context(|| format!("cannot resolve {}", found.display()))?;
    let kind =
        statfs(&found).with_context(|| format!("cannot examine {}", found.display()))?.filesystem_type();
    if kind != CGROUP2_SUPER_MAGIC {
        bail!(
            "{} is a cgroup of version 1, which eBPF programs cannot be attached to: use its cgroup v2",
            found.display()
        );
    }
    if !found.join("cgroup.events").exists() {
        bail!(
            "{} is the root of all cgroups, this process's own among them: give one below it",
            found.display()
        );
    }
    Ok(found)
}

/// The network namespace of a process of the cgroup; `None` for our own.
fn network_namespace(cgroup: &Path, pid: Option<i32>) -> anyhow::Result<Option<OwnedFd>> {
    let members = cgroup::processes(cgroup)
        .with_context(|| format!("cannot list the processes of {}", cgroup.display()))?;
    let member = match pid.map(Pid::from_raw) {
        Some(pid) if !members.contains(&pid) => {
            bail!("process {pid} is not in the cgroup {}", cgroup.display())
        }
        Some(pid) => Some(pid),
        None => members.first().copied(),
    };
    let Some(member) = member else { return Ok(None) };
    let path = format!("/proc/{member}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let own = fs::metadata("/proc/self/ns/net").context("cannot examine /proc/self/ns/net")?;
    let other = namespace.metadata().with_context(|| format!("cannot examine {path}"))?;
    Ok(((own.dev(), own.ino()) != (other.dev(), other.ino())).then(|| namespace.into()))
}

/// Says that enforcement is in place, and what the sandbox's programs need to know.
fn announce(
    common: &Common,
    id: &str,
    cgroup: &Path,
    ca_pem: &str,
    placeholders: Vec<(String, String)>,
) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    if common.json {
        let env: serde_json::Map<String, serde_json::Value> =
            placeholders.into_iter().map(|(name, value)| (name, value.into())).collect();
        let line =
            serde_json::json!({ "id": id, "cgroup": cgroup.to_string_lossy(), "ca_pem": ca_pem, "env": env });
        writeln!(output, "{line}")?;
    } else if !common.quiet {
        writeln!(output, "{id}: enforcing on {}", cgroup.display())?;
    }
    Ok(output.flush()?)
}
