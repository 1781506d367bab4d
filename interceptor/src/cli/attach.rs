//! `interceptor attach`: enforces a policy on an existing cgroup, such as a container's or a
//! slice's.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

use super::meanwhile::Meanwhile;
use super::person::Person;
use super::{Common, existing, setup, watch, who};
use crate::files;
use crate::fleet::{Enforced, Netns, Visit};
use crate::kernel::{Enforcer, Wall};
use crate::sandbox::{cgroup, launch};

/// Time limit for rereading files: a file may be on a mount that hangs.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// The arguments of `interceptor attach`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Attach {
    /// The options that `run` and `serve` have too.
    #[command(flatten)]
    common: Common,
    /// The cgroup: a directory in a cgroup v2 mount, or a path relative to the mount, as in
    /// /proc/PID/cgroup.
    #[arg(long, value_name = "PATH")]
    cgroup: PathBuf,
    /// A process in the sandbox's network namespace [default: the cgroup's first process].
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
    /// The network namespace belongs to this sandbox alone, as with `docker run --network none`, so
    /// its loopback traffic is allowed. Without this option, loopback is refused like the host's.
    #[arg(long)]
    private_network: bool,
    /// Close connections that the cgroup's processes opened before the attach. Without this option
    /// they continue, and their number is reported.
    #[arg(long)]
    kill_existing: bool,
}

const EXAMPLES: &str = "\
Examples:
  sudo interceptor attach --policy p.json --cgroup /sys/fs/cgroup/agents.slice
  sudo interceptor attach --policy p.json --json --private-network \\
    --cgroup /sys/fs/cgroup/docker/0123 --pid 4711
  sudo interceptor attach --policy p.json --kill-existing \\
    --cgroup /sys/fs/cgroup/ci.slice

It prints one line when enforcement is in place, and ends it on SIGINT or SIGTERM. SIGHUP reloads \
     the policy and its keys and reopens the audit file. Connections opened earlier continue if \
     they run over loopback or their socket was made outside the cgroup; --kill-existing closes \
     them. With --json the line is an object with the sandbox's id, its CA certificate (ca_pem) \
     and its variables (env): the placeholders and, with --base-urls, the services' base URLs.";

/// Runs the command.
pub fn run(arguments: Attach) -> anyhow::Result<ExitCode> {
    let Attach { common, cgroup, pid, private_network, kill_existing } = arguments;
    // Before any other thread starts, so that every thread inherits the blocked signals.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("cannot block signals")?;
    prepare(&common)?;
    let visit = Visit::find(&cgroup, pid, None).and_then(|visit| visit.private(private_network));
    let visit = visit.with_context(|| cgroup.display().to_string())?;
    let person = Person::invoking()?;
    let rules = setup::rules_for(&common, &person)?;
    let placeholders = rules.variables(common.base_urls);

    let audit = setup::audit(&common, rules.policy.limits())?;
    let loading = Meanwhile::begin("loading", Enforcer::load)?;
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the proxy")?;
    let _entered = tokio.enter();
    let runtime = setup::runtime(&common, audit.clone());
    let (enforcer, runtime) = (loading.end()?, runtime?);

    let id = launch::random_id()?;
    let keys = (rules.policy, rules.keyring);
    let mut enforced = Enforced::enter(&runtime, &enforcer, &id, &visit, keys)?;
    let processes =
        cgroup::processes(&visit.cgroup).context("cannot list the cgroup's processes")?;
    let (listeners, has_devices) = (enforced.listeners.clone(), enforced.has_devices);
    let wall = Wall {
        cgroup: &visit.cgroup,
        processes: &processes,
        listeners: &listeners,
        shared_netns: visit.netns == Netns::Shared,
    };
    if let Err(failed) = existing::settle(&wall, kill_existing, common.quiet) {
        if enforced.took_over {
            enforced.keep_programs();
        }
        return Err(failed);
    }
    existing::warn_of_packet_sockets(&visit.cgroup, has_devices, common.quiet);
    runtime.warm();

    announce(&common, &id, &visit.cgroup, &enforced.ca_pem, placeholders)?;
    let mut alarmed = false;
    let signal = loop {
        let signal = watch::until_signal(&signals, || {
            let lost = enforced.lost();
            // A removed cgroup takes its programs with it; no process is left to escape.
            if !lost.is_empty() && !alarmed && visit.cgroup.exists() {
                enforced.alarm(&lost);
                alarmed = true;
            }
        })?;
        match signal {
            Signal::SIGHUP => {
                audit.reopen();
                reload(&common, &person, &id, &mut enforced);
            }
            end => break end,
        }
    };
    tracing::info!(sandbox = %id, %signal, "detaching");
    enforced.end(tokio.handle());
    tokio.block_on(audit.shutdown());
    Ok(ExitCode::SUCCESS)
}

/// Starts the log, hardens this process, and checks its rights.
fn prepare(common: &Common) -> anyhow::Result<()> {
    setup::log(common);
    launch::harden()?;
    who::needs_rights_to_attach()
}

/// Rereads the policy and the keys. Errors are logged, and nothing changes.
fn reload(common: &Common, person: &Person, id: &str, enforced: &mut Enforced) {
    let again = match common.policy.as_deref() {
        // Standard input cannot be read twice; only key files are left to reread.
        None => None,
        Some(path) if path == Path::new("-") => None,
        Some(_) => Some(common.clone()),
    };
    let (keyring, person) = (enforced.sandbox().keyring(), person.clone());
    let read = files::within(READ_WITHIN, move || match again {
        None => Err(keyring.reload()),
        Some(common) => Ok(setup::rules_after(&common, &person, &keyring)),
    });
    let Some(read) = read else {
        tracing::error!(
            sandbox = %id,
            "reading its files takes too long; keeping the previous policy and keys until they \
             arrive"
        );
        return;
    };
    let replaced = match read {
        Err(errors) => {
            for error in errors {
                tracing::error!(
                    sandbox = %id,
                    %error,
                    "cannot reload a key file; keeping the previous key"
                );
            }
            return;
        }
        Ok(rules) => {
            rules.and_then(|rules| Ok(enforced.replace(rules.policy, rules.keyring, false)?))
        }
    };
    match replaced {
        Ok(()) => tracing::info!(sandbox = %id, "policy reloaded"),
        Err(error) => {
            tracing::error!(
                sandbox = %id,
                error = format!("{error:#}"),
                "cannot reload the policy; keeping the previous one"
            );
        }
    }
}

/// Announces that enforcement is in place, with what the sandbox's programs need.
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
        let line = serde_json::json!({
            "id": id, "cgroup": cgroup.to_string_lossy(), "ca_pem": ca_pem, "env": env,
        });
        writeln!(output, "{line}")?;
    } else if !common.quiet {
        writeln!(output, "{id}: enforcing on {}", cgroup.display())?;
    }
    Ok(output.flush()?)
}
