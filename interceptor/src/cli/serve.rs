//! `interceptor serve`: the daemon.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use tokio_util::sync::CancellationToken;

use super::{Common, policy_file, registries, setup};
use crate::audit::Audit;
use crate::control::model::{Config, ConfiguredSandbox};
use crate::control::{self, ControlSocket, DEFAULT_SOCKET};
use crate::fleet::{Fleet, FleetOptions, NewSandbox};
use crate::kernel::{Enforcer, LoadOptions};
use crate::policy::Limits;
use crate::sandbox::launch;

/// Sandboxes that the maps are made for unless it is said.
const SANDBOXES: u32 = 1024;
/// Where files to trust are unless it is said: in a directory that everybody may enter, unlike that of the control socket.
const TRUST: &str = "/run/interceptor-trust";
/// The largest configuration, in bytes.
const LARGEST_CONFIG: u64 = 16 << 20;

/// The arguments of `interceptor serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    /// The options that `run` and `attach` have too; they hold for every sandbox. `--policy` is the policy of sandboxes that are made without
    /// one.
    #[command(flatten)]
    common: Common,
    /// The control socket [default: /run/interceptor/control.sock].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// A configuration (JSON): options, and sandboxes to enforce from the start. Options given here win over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the files are that sandboxes' programs trust, a directory for each sandbox [default: /run/interceptor-trust]; half a
    /// megabyte each.
    #[arg(long, value_name = "DIR")]
    trust_dir: Option<PathBuf>,
    /// How many sandboxes there may be at one time [default: 1024]; each costs 16 KiB of kernel memory.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_sandboxes: Option<u32>,
}

const EXAMPLES: &str = r#"Examples:
  sudo interceptor serve --audit /var/log/interceptor.jsonl
  sudo interceptor serve --config /etc/interceptor/config.json
  sudo curl --unix-socket /run/interceptor/control.sock http://localhost/v1/sandboxes -d \
    '{"cgroup": "/sys/fs/cgroup/agents.slice", "network": {"allow": ["api.example.com"]}}'

The configuration:
  { "audit": "/var/log/interceptor.jsonl", "policy": "/etc/interceptor/default.json",
    "sandboxes": [ { "id": "agents", "cgroup": "/sys/fs/cgroup/agents.slice", "policy": "/etc/interceptor/agents.json" } ] }
Its fields are control, policy, audit, upstream_ca (a list), resolve (a list), trust_dir, max_sandboxes and sandboxes, of which each
has cgroup and, if need be, id, pid, netns and policy (a file; without it, the default policy).

It prints one line when it is ready. SIGHUP reads policy files and key files again, and opens the audit file anew. SIGINT and SIGTERM
end it and every sandbox: nothing is left behind. The API is described at GET /openapi.json."#;

/// Runs the command.
pub fn run(arguments: Serve) -> anyhow::Result<ExitCode> {
    let Serve { mut common, control, config, trust_dir, max_sandboxes } = arguments;
    // Before any other thread exists: those that follow inherit that the signals are held back.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("cannot hold back signals")?;
    setup::log(&common);
    launch::harden()?;
    launch::raise_open_files();
    let config = config.map(|path| read_config(&path)).transpose()?.unwrap_or_default();
    common.policy = common.policy.or(config.policy);
    common.audit = common.audit.or(config.audit);
    common.upstream_ca = [config.upstream_ca, common.upstream_ca].concat();
    common.resolve = [common.resolve, config.resolve].concat();
    if common.policy.as_deref() == Some(Path::new("-")) {
        bail!("the default policy of a daemon is read again and again: give a file, not standard input");
    }

    let path = control.or(config.control).unwrap_or_else(|| DEFAULT_SOCKET.into());
    // First, so that a second daemon fails before it does anything.
    let socket = ControlSocket::bind(&path)?;
    let audit = setup::audit(&common, &Limits::default())?;
    let sandboxes = max_sandboxes.or(config.max_sandboxes).unwrap_or(SANDBOXES);
    let enforcer = Enforcer::load_with(LoadOptions { sandboxes, ..LoadOptions::default() })?;
    let tokio =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the proxy")?;
    let _entered = tokio.enter();
    let fleet = Fleet::new(FleetOptions {
        runtime: setup::runtime(&common, audit.clone())?,
        enforcer,
        catalogue: registries::catalogue(None)?,
        default_policy: common.policy.clone(),
        trust: trust_dir.or(config.trust_dir).unwrap_or_else(|| TRUST.into()),
        read: |path| policy_file::read(path).map_err(|error| format!("{error:#}")),
    });
    // A default policy that does not hold is better known now than with the first sandbox.
    fleet.default_rules().context("--policy")?;
    let begun = begin(&fleet, config.sandboxes);
    if let Err(error) = begun {
        tokio.block_on(fleet.end());
        return Err(error);
    }
    let stop = CancellationToken::new();
    let serving = {
        let (fleet, stop) = (fleet.clone(), stop.clone());
        tokio.spawn(async move {
            let ended = control::serve(&socket, fleet, stop).await;
            drop(socket);
            ended
        })
    };
    announce(&common, &path, &fleet)?;
    wait(&signals, &fleet, &audit)?;
    stop.cancel();
    tokio.block_on(async {
        fleet.end().await;
        if let Ok(Err(error)) = serving.await {
            tracing::error!(%error, "the control socket failed");
        }
        audit.shutdown().await;
    });
    Ok(ExitCode::SUCCESS)
}

/// Puts the configuration's sandboxes under enforcement.
fn begin(fleet: &Arc<Fleet>, sandboxes: Vec<ConfiguredSandbox>) -> anyhow::Result<()> {
    for (index, sandbox) in sandboxes.into_iter().enumerate() {
        let ConfiguredSandbox { id, cgroup, pid, netns, policy } = sandbox;
        let place = format!("/sandboxes/{index} of the configuration, {}", cgroup.display());
        let rules = match policy {
            Some(path) => fleet.rules_of_file(path.clone(), None).with_context(|| path.display().to_string()),
            None => fleet.default_rules().context("the default policy"),
        };
        let made = rules.and_then(|rules| Ok(fleet.create(NewSandbox { id, cgroup, pid, netns, rules })?));
        made.context(place)?;
    }
    Ok(())
}

/// Waits for the end; reads files again when asked to.
fn wait(signals: &SigSet, fleet: &Fleet, audit: &Audit) -> anyhow::Result<()> {
    loop {
        match signals.wait().context("cannot wait for a signal")? {
            Signal::SIGHUP => {
                tracing::info!("reading files again");
                audit.reopen();
                fleet.reload();
            }
            signal => {
                tracing::info!(%signal, "ending");
                return Ok(());
            }
        }
    }
}

fn announce(common: &Common, path: &Path, fleet: &Fleet) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    let count = fleet.list().len();
    if common.json {
        writeln!(output, "{}", serde_json::json!({ "control": path.to_string_lossy(), "sandboxes": count }))?;
    } else if !common.quiet {
        writeln!(output, "listening at {}; {count} sandboxes", path.display())?;
    }
    Ok(output.flush()?)
}

/// Reads the configuration; what is wrong with it is said without its values.
fn read_config(path: &Path) -> anyhow::Result<Config> {
    use std::io::Read;
    let name = || format!("the configuration {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(name)?;
    file.take(LARGEST_CONFIG).read_to_string(&mut text).with_context(name)?;
    serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let what = error.to_string();
        // `invalid type: string "…", expected …`: the value may be anything, and is left out.
        let what = match (what.find('"'), what.rfind('"')) {
            (Some(first), Some(last)) if first < last => format!("{}…{}", &what[..first], &what[last + 1..]),
            _ => what,
        };
        anyhow::anyhow!("{}, line {line}, column {column}: {what}", name())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_config(file.path())
    }

    #[test]
    fn p3_an_unknown_field_of_the_configuration_is_an_error_that_names_it() {
        for text in [r#"{"audits":"x"}"#, r#"{"sandboxes":[{"cgroup":"/x","polciy":"y"}]}"#, "[]", "{", ""] {
            assert!(config(text).is_err(), "{text}");
        }
        let error = format!("{:#}", config(r#"{"audits":"x"}"#).unwrap_err());
        assert!(error.contains("`audits`"), "{error}");
        let read = config(r#"{"control":"/c","sandboxes":[{"cgroup":"/x","pid":7}]}"#).unwrap();
        assert_eq!(read.sandboxes[0].pid, Some(7));
    }

    #[test]
    fn a_value_in_the_wrong_place_is_not_repeated() {
        let error = format!("{:#}", config(r#"{"max_sandboxes":"sk-canary"}"#).unwrap_err());
        assert!(!error.contains("canary"), "{error}");
    }
}
