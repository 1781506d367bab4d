//! Many sandboxes in one daemon, each with a cgroup of its own, and a client in all of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::paced::{Load, Place, Plan, READY, Report};
use crate::daemon::{Answered, Daemon, Guest};
use crate::sandbox::client;

/// The sandboxes of one daemon. Dropping it removes their cgroups.
#[derive(Debug, Default)]
pub struct Fleet<'lab> {
    guests: Vec<Guest<'lab>>,
}

impl<'lab> Fleet<'lab> {
    /// Creates sandboxes until there are `number`; returns the time that each took.
    #[track_caller]
    pub fn grow(&mut self, daemon: &Daemon<'lab>, number: usize, policy: &Value) -> Vec<Duration> {
        let missing = self.guests.len()..number;
        let one = |_| self.add(daemon, policy).unwrap_or_else(|refused| panic!("{refused:?}"));
        missing.map(one).collect()
    }

    /// Creates one more sandbox; returns the time that it took.
    ///
    /// # Errors
    /// The daemon's answer, if it refuses.
    #[track_caller]
    pub fn add(&mut self, daemon: &Daemon<'lab>, policy: &Value) -> Result<Duration, Answered> {
        let began = Instant::now();
        self.guests.push(daemon.try_guest(policy)?);
        Ok(began.elapsed())
    }

    /// Removes sandboxes until `number` are left; returns the time that each took.
    #[track_caller]
    pub fn shrink(&mut self, daemon: &Daemon<'lab>, number: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        while self.guests.len() > number
            && let Some(guest) = self.guests.pop()
        {
            let began = Instant::now();
            daemon.remove(&guest);
            times.push(began.elapsed());
        }
        times
    }

    /// The sandboxes.
    pub fn guests(&self) -> &[Guest<'lab>] {
        &self.guests
    }

    /// A connection to `host` in each sandbox; the first request on each has been answered.
    ///
    /// # Panics
    /// If one of them lets no request through.
    #[track_caller]
    pub fn clients(&self, host: &str, path: &str) -> Clients {
        let place = |guest: &Guest<'_>| Place {
            cgroup: guest.cgroup.path().to_owned(),
            ca_pem: guest.ca_pem.clone(),
            placeholder: guest.env.get("LAB_API_KEY").cloned().unwrap_or_default(),
        };
        let places = self.guests.iter().map(place).collect();
        Clients::start(&Plan { host: host.to_owned(), path: path.to_owned(), places })
    }
}

/// A client in every sandbox of a fleet, one process. It ends when dropped.
#[derive(Debug)]
pub struct Clients {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Clients {
    #[track_caller]
    fn start(plan: &Plan) -> Clients {
        // A connection each, and the usual limit is 1,024 files.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\""]);
        command.arg((plan.places.len() + 256).to_string()).arg(client()).arg("paced");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the lab's client");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut clients = Clients { child, stdin, stdout };
        clients.tell(&serde_json::to_string(plan).expect("a plan is plain data"));
        assert_eq!(clients.line(), READY, "the client says on standard error what is wrong");
        clients
    }

    /// Runs a load to its end.
    ///
    /// # Panics
    /// If the client dies.
    #[track_caller]
    pub fn run(&mut self, load: Load) -> Report {
        self.tell(&serde_json::to_string(&load).expect("a load is plain data"));
        serde_json::from_str(&self.line()).expect("a report")
    }

    #[track_caller]
    fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is closed at the end");
        writeln!(stdin, "{line}").expect("the client reads");
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the client's output");
        line.trim_end().to_owned()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
