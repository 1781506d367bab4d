//! What stands between the load and the origin: nothing, a peer, or the interceptor in three forms.

mod direct;
mod envoy;
mod haproxy;
mod hudsucker;
mod interceptor;

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use interceptor_tests::guest::Cgroup;
use interceptor_tests::measure::processes::Tree;

use crate::LOAD;
use crate::load::{Done, Task, Way};
use crate::options::Options;
use crate::process::Peer;
use crate::world::{DOMAIN, World};

/// How long a task may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// How to start a contender.
pub(crate) struct Kind {
    /// Its name for `--contender`.
    pub(crate) name: &'static str,
    /// Its title in the table.
    pub(crate) title: &'static str,
    start: fn(&World, &Options) -> Result<Contender>,
}

/// All contenders, in the order of the table.
pub(crate) const KINDS: &[Kind] = &[
    Kind { name: "direct", title: "direct", start: direct::start },
    Kind { name: "haproxy", title: "HAProxy", start: haproxy::start },
    Kind { name: "hudsucker", title: "hudsucker", start: hudsucker::start },
    Kind { name: "envoy", title: "Envoy, fixed certificate", start: envoy::start },
    Kind { name: "run", title: "ours, `run`", start: interceptor::run },
    Kind { name: "attach", title: "ours, `attach`", start: interceptor::attach },
    Kind { name: "no-credential", title: "ours, no credential", start: interceptor::no_credential },
];

/// A running contender and its load.
pub(crate) struct Contender {
    asks: ChildStdin,
    hears: Receiver<String>,
    tree: Option<Tree>,
    names: usize,
    /// Whether other projects' clients can resolve the host on their own.
    pub(crate) resolves: bool,
    // They end in this order.
    _load: Peer,
    _proxy: Option<Peer>,
    _cgroup: Option<Cgroup>,
}

impl Kind {
    pub(crate) fn start(&self, world: &World, options: &Options) -> Result<Contender> {
        (self.start)(world, options).with_context(|| self.name.to_owned())
    }
}

impl Contender {
    /// Starts a load that goes this way, past this proxy.
    fn new(mut load: Command, way: &Way, proxy: Option<Peer>) -> Result<Contender> {
        load.env(LOAD, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut load = Peer(load.spawn().context("cannot start the load")?);
        let mut asks = load.0.stdin.take().context("it is piped")?;
        let output = BufReader::new(load.0.stdout.take().context("it is piped")?);
        let (sender, hears) = channel();
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        writeln!(asks, "{}", serde_json::to_string(way)?)?;
        let tree = proxy.as_ref().map(|proxy| Tree::new(proxy.id()));
        let (names, resolves) = (0, way.to.is_none());
        Ok(Contender {
            asks,
            hears,
            tree,
            names,
            resolves,
            _load: load,
            _proxy: proxy,
            _cgroup: None,
        })
    }

    /// The result of a task.
    pub(crate) fn run(&mut self, task: &Task) -> Result<Done> {
        writeln!(self.asks, "{}", serde_json::to_string(task)?)?;
        let line = match self.hears.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => bail!("it took too long"),
            Err(RecvTimeoutError::Disconnected) => bail!("the load has ended"),
        };
        let done: Done = serde_json::from_str(&line).with_context(|| line.clone())?;
        match &done.error {
            Some(error) => bail!("{error}"),
            None => Ok(done),
        }
    }

    /// The same, and the CPU seconds of the proxy, if there is one.
    pub(crate) fn measure(&mut self, task: &Task) -> Result<(Done, Option<f64>)> {
        let cpu = |tree: &Option<Tree>| tree.as_ref().map(Tree::cpu).transpose();
        let before = cpu(&self.tree)?;
        let done = self.run(task)?;
        let after = cpu(&self.tree)?;
        Ok((done, after.zip(before).map(|(after, before)| after - before)))
    }

    /// The proxy's memory once it is idle, in bytes.
    pub(crate) fn memory(&self) -> Result<Option<u64>> {
        const REST_WITHIN: Duration = Duration::from_secs(3);
        self.tree.as_ref().map(|tree| tree.settled_memory(REST_WITHIN)).transpose()
    }

    /// Names that are new to this contender.
    pub(crate) fn fresh_names(&mut self, number: usize) -> Vec<String> {
        let first = self.names;
        self.names += number;
        (first..self.names).map(|name| format!("n{name}.{DOMAIN}")).collect()
    }
}

/// The load outside any sandbox.
fn outside() -> Result<Command> {
    Ok(crate::process::bound(std::env::current_exe()?))
}
