//! `interceptor attach`: enforces a policy on a cgroup that exists: a container's, a slice's.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

use super::{Common, setup};
use crate::fleet::{Enforced, Visit};
use crate::kernel::Enforcer;
use crate::sandbox::launch;

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
}

const EXAMPLES: &str = "\
Examples:
  sudo interceptor attach --policy p.json --cgroup /sys/fs/cgroup/agents.slice
  sudo interceptor attach --policy p.json --cgroup /sys/fs/cgroup/docker/0123 --pid 4711 --json

It prints one line when enforcement is in place, and ends it with SIGINT or SIGTERM; SIGHUP reads the policy and its keys again. Connections opened before it go on unseen. With
--json the line is an object with the sandbox's id, its certificate authority (ca_pem) and the placeholders (env).";

/// Runs the command.
pub fn run(arguments: Attach) -> anyhow::Result<ExitCode> {
    let Attach { common, cgroup, pid } = arguments;
    // Before any other thread exists: those that follow inherit that the signals are held back.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("cannot hold back signals")?;
    setup::log(&common);
    launch::harden()?;
    let visit = Visit::find(&cgroup, pid, None).with_context(|| cgroup.display().to_string())?;
    let rules = setup::rules(&common)?;
    let placeholders = rules.keyring.environment();

    let audit = setup::audit(&common, rules.policy.limits())?;
    let enforcer = Enforcer::load()?;
    let tokio =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the proxy")?;
    let _entered = tokio.enter();
    let runtime = setup::runtime(&common, audit.clone())?;

    let id = launch::random_id()?;
    let keys = (rules.policy, rules.keyring);
    let mut enforced = Enforced::enter(&runtime, &enforcer, &id, &visit, keys)?;
    announce(&common, &id, &visit.cgroup, &enforced.ca_pem, placeholders)?;
    let signal = loop {
        match signals.wait().context("cannot wait for a signal")? {
            Signal::SIGHUP => {
                audit.reopen();
                reload(&common, &id, &mut enforced);
            }
            end => break end,
        }
    };
    tracing::info!(sandbox = %id, %signal, "detaching");
    enforced.end(tokio.handle());
    tokio.block_on(audit.shutdown());
    Ok(ExitCode::SUCCESS)
}

/// Reads the policy and the keys again. What is wrong is said in the log and changes nothing.
fn reload(common: &Common, id: &str, enforced: &mut Enforced) {
    let again = match common.policy.as_deref() {
        // Standard input is read once, and nothing else is there to read but key files.
        None => None,
        Some(path) if path == Path::new("-") => None,
        Some(_) => Some(setup::rules_after(common, Some(&*enforced.sandbox().keyring()))),
    };
    let replaced = match again {
        None => {
            let errors = enforced.sandbox().keyring().reload();
            errors.iter().for_each(|error| tracing::error!(sandbox = %id, %error, "a key file was not taken; the key before stays in use"));
            return;
        }
        Some(rules) => rules.and_then(|rules| Ok(enforced.replace(rules.policy, rules.keyring, false)?)),
    };
    match replaced {
        Ok(()) => tracing::info!(sandbox = %id, "the policy was read again"),
        Err(error) => {
            tracing::error!(sandbox = %id, error = format!("{error:#}"), "the policy was not taken; the one before stays in force");
        }
    }
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
