//! The load: a process that reads one task per line from standard input, and answers each with a
//! line. It runs where its contender's clients run: inside the sandbox, or outside.

mod bulk;
mod connection;
mod events;
mod hold;
mod names;
mod outside;
mod steady;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use connection::Target;
use interceptor_tests::measure::spread::percentile;
use serde::{Deserialize, Serialize};

/// How the load reaches its contender.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Way {
    /// `None`: the address that the name resolves to.
    pub(crate) to: Option<SocketAddr>,
    /// Another address for HTTP/2.
    pub(crate) to_h2: Option<SocketAddr>,
    /// By `CONNECT`.
    pub(crate) connect: bool,
    /// Roots, PEM. `None`: the file that `SSL_CERT_FILE` names.
    pub(crate) trust: Option<PathBuf>,
}

/// A task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// Requests one after the other on each of these streams, for a time.
    Steady(Steady),
    /// A connection and a request for each of these names.
    Names { names: Vec<String>, at_once: usize },
    /// One large body on each of these streams: uploads this length, or counts the downloaded
    /// bytes.
    Bulk { path: String, up: Option<u64>, h2: bool, streams: usize },
    /// Event streams one after another.
    Events { path: String, streams: usize },
    /// This many connections that have answered a request, kept until the next `Hold`.
    Hold { path: String, connections: usize },
    /// Another program. `{PORT}` and `{KEY}` in its arguments stand for the port that it connects
    /// to and its key or placeholder.
    Outside { command: Vec<String>, h2: bool },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Steady {
    pub(crate) path: String,
    pub(crate) h2: bool,
    pub(crate) connections: usize,
    /// On each connection; one in HTTP/1.1.
    pub(crate) streams: usize,
    /// A connection for each request, with a whole handshake.
    pub(crate) fresh: bool,
    pub(crate) seconds: f64,
}

/// The result of a task.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) requests: usize,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// The failures at the first try that succeeded at the second.
    pub(crate) failed: usize,
    /// Milliseconds, by measure.
    pub(crate) times: BTreeMap<String, Times>,
    /// The output of another program.
    pub(crate) output: String,
    pub(crate) error: Option<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Done {
    fn time(&mut self, name: &str, milliseconds: &[f64]) {
        if let (Some(p50), Some(p99)) =
            (percentile(milliseconds, 0.5), percentile(milliseconds, 0.99))
        {
            self.times.insert(name.to_owned(), Times { p50, p99 });
        }
    }
}

/// Performs the tasks on standard input, to its end.
pub(crate) fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lines = std::io::stdin().lock().lines();
    let Some(way) = lines.next() else { return Ok(()) };
    let way: Way = serde_json::from_str(&way?)?;
    let mut held = Vec::new();
    for line in lines {
        let task: Task = serde_json::from_str(&line?)?;
        let done = runtime.block_on(async {
            let target = Target::new(&way)?;
            match task {
                Task::Steady(steady) => steady::run(target, steady).await,
                Task::Names { names, at_once } => names::run(target, names, at_once).await,
                Task::Bulk { path, up, h2, streams } => {
                    bulk::run(target, path, up, h2, streams).await
                }
                Task::Events { path, streams } => events::run(target, &path, streams).await,
                Task::Hold { path, connections } => {
                    hold::run(target, path, connections, &mut held).await
                }
                Task::Outside { command, h2 } => outside::run(target, command, h2).await,
            }
        });
        let done = done
            .unwrap_or_else(|error| Done { error: Some(format!("{error:#}")), ..Done::default() });
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
        out.flush()?;
    }
    Ok(())
}
