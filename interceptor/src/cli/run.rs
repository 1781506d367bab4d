//! `interceptor run`: runs a command in a sandbox whose egress is intercepted. (temporary wiring)

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::net::SocketAddr;
use anyhow::Context as _;

use super::{Common, Net};
use crate::audit::Audit;
use crate::credential::Keyring;
use crate::kernel::*;
use crate::policy::*;
use crate::proxy::{self, Listeners, Runtime, RuntimeOptions};
use crate::sandbox::{environment, handover, launch, signals, user};
use crate::upstream::{Override, Overrides, Upstream, UpstreamOptions};

/// The arguments of `interceptor run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    /// common
    pub common: Common,
    /// net
    #[arg(long, value_enum, default_value_t = Net::Isolated)]
    pub net: Net,
    /// user
    #[arg(long)]
    pub user: Option<String>,
    /// command
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Runs the command.
pub fn run(a: Run) -> anyhow::Result<ExitCode> {
    let signals = signals::Signals::hold()?;
    let open_files = launch::harden()?;
    if a.common.verbose > 0 { tracing_subscriber::fmt().with_env_filter(if a.common.verbose > 1 {"trace"} else {"interceptor=debug"}).with_writer(std::io::stderr).init(); }
    let text = match &a.common.policy { Some(p) => std::fs::read_to_string(p).context("policy")?, None => "{}".into() };
    let parsed = Document::parse(&text).map_err(|p| anyhow::anyhow!("{p:?}"))?;
    let policy = Policy::compile(&parsed.document, &Catalogue::builtin()).map_err(|p| anyhow::anyhow!("{p:?}"))?;
    let keyring = Keyring::load(&policy, None).map_err(|p| anyhow::anyhow!("{p:?}"))?;
    let audit = match &a.common.audit { None => Audit::discard()?, Some(p) if p.as_os_str() == "-" => Audit::to_stderr()?, Some(p) => Audit::to_file(p)? };
    let overrides: Vec<Override> = a.common.resolve.iter().map(|r| r.parse()).collect::<Result<_, _>>()?;
    let id = launch::random_id()?;
    let (mut sandbox, sockets) = launch::Sandbox::make(&id, a.net == Net::Isolated)?;
    let enforcer = Enforcer::load()?;
    let v4 = |s: SocketAddr| match s { SocketAddr::V4(s) => s, _ => unreachable!() };
    let v6 = |s: SocketAddr| match s { SocketAddr::V6(s) => s, _ => unreachable!() };
    let enforcement = Enforcement { cgroup_id: sandbox.cgroup().id(), shared_netns: a.net == Net::Host, tcp4: v4(sockets.tcp4.local_addr()?), dns4: v4(sockets.dns4.local_addr()?),
        tcp6: sockets.v6.as_ref().map(|s| v6(s.0.local_addr().unwrap())), dns6: sockets.v6.as_ref().map(|s| v6(s.1.local_addr().unwrap())), denied: policy.denied_networks(), allowed_loopback: policy.allowed_loopback() };
    let dir = std::fs::File::open(sandbox.cgroup().path())?;
    let attachment = enforcer.attach(dir.as_fd(), &enforcement)?;
    attachment.mark_resolver(&sockets.dns4)?;
    if let Some(s) = &sockets.v6 { attachment.mark_resolver(&s.1)?; }
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let placeholders = keyring.environment();
    let runtime = Runtime::new(RuntimeOptions { upstream: Upstream::new(UpstreamOptions { overrides: Overrides::new(overrides), ..Default::default() }), upstream_ca: a.common.upstream_ca.clone(), audit: audit.clone() })?;
    let proxy = proxy::Sandbox::new(&runtime, &id, policy, keyring)?;
    let (tcp6, dns6) = sockets.v6.map_or((None, None), |(a, b)| (Some(a), Some(b)));
    let serving = { let _g = tokio.enter(); proxy.serve(Listeners { tcp4: sockets.tcp4, tcp6, dns4: sockets.dns4, dns6, self_test_token: "tok".into() }, enforcer.destinations())? };
    sandbox.self_test(proxy::SELF_TEST, "tok")?;
    let sudo = std::env::var("SUDO_UID").ok().zip(std::env::var("SUDO_GID").ok()).and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let identity = user::Identity::choose(a.user.as_deref(), sudo)?;
    let environment = environment::build(environment::Sources { inherited: std::env::vars_os().collect(), sandbox: &id, identity: &identity, placeholders, key_variables: vec![] }, |_| false);
    let launch = handover::Launch { command: handover::Strings(a.command), environment, directory: handover::Path(std::env::current_dir()?), identity, ca_pem: proxy.ca_pem().to_owned(), hidden: vec![], hidden_directories: vec![], open_files, shared_network: a.net == Net::Host };
    let (i, o, e) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let status = sandbox.run(launch, [i.as_fd(), o.as_fd(), e.as_fd()], &signals)?;
    tokio.block_on(async { serving.shutdown().await; audit.shutdown().await; });
    drop(attachment);
    Ok(ExitCode::from(status as u8))
}
