//! A running interceptor: its output as it arrives, its processes, its memory, its end.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::audit;
use crate::lab::{Lab, Run, Sweep};
use crate::outcome::Outcome;

/// The most bytes kept of a stream.
const KEPT: usize = 256 << 20;

/// A running interceptor.
#[derive(Debug)]
pub struct Running<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) audit: PathBuf,
    pub(crate) sweep: Option<Sweep>,
    pub(crate) deadline: Instant,
    pub(crate) ended: bool,
}

impl Running<'_> {
    /// The process id of the interceptor.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal to the interceptor.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the interceptor runs");
    }

    /// How it ended, if it has.
    pub fn child_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Every process of the sandbox besides the interceptor's own, which without sudo makes none
    /// itself: then those that the daemon started for all sandboxes.
    pub fn descendants(&self) -> Vec<Pid> {
        match self.lab.member() {
            None => descendants(self.pid()),
            Some(member) => {
                let own = member.supervisors();
                own.iter().flat_map(|pid| descendants(*pid).into_iter().chain([*pid])).collect()
            }
        }
    }

    /// The process that holds the keys and serves the sandbox, which without sudo is one of the
    /// daemon's.
    pub fn proxy(&self) -> Pid {
        match self.lab.member() {
            None => self.pid(),
            Some(member) => *member.supervisors().first().expect("the daemon has one"),
        }
    }

    /// The interceptor's peak resident memory so far, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the interceptor runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes * 1024
    }

    /// Waits until standard output contains `text`.
    ///
    /// # Panics
    /// When the run's time is over before.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        if !self.stdout.wait_for(text.as_bytes(), self.deadline) {
            let (out, err) = (self.stdout.text(), self.stderr.text());
            panic!(
                "{text:?} never came; stdout: {out}\nstderr: {}",
                &err[err.len().saturating_sub(4000)..]
            );
        }
    }

    /// Writes to standard input ([`crate::sandbox::Sandbox::open_stdin`]).
    pub fn write(&mut self, bytes: &[u8]) {
        self.stdin
            .as_mut()
            .expect("open_stdin was asked for")
            .write_all(bytes)
            .expect("the command reads");
    }

    /// Closes standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If the run's time is over first, or something keeps its output open afterwards.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        self.stdin = None;
        let Some(status) = self.wait() else {
            let err = self.stderr.text();
            panic!(
                "too slow; stdout: {}\nstderr: {}",
                self.stdout.text(),
                &err[err.len().saturating_sub(4000)..]
            );
        };
        let grace = Instant::now() + Duration::from_secs(5);
        let closed = self.stdout.wait_for_end(grace) && self.stderr.wait_for_end(grace);
        assert!(
            closed,
            "the interceptor has ended ({status}), but something still holds its output open"
        );
        self.ended = true;
        let outcome = Outcome {
            status,
            stdout: self.stdout.bytes(),
            stderr: self.stderr.bytes(),
            audit: audit::read(&self.audit).expect("an audit file as docs/audit.md says"),
        };
        self.lab.ended(Run {
            transcript: vec![
                ("standard output", outcome.stdout.clone()),
                ("standard error and logs", outcome.stderr.clone()),
                ("the audit file", fs::read(&self.audit).unwrap_or_default()),
            ],
            audit: outcome.audit.clone(),
            sweep: self.sweep.take().map(|sweep| {
                // There is none if the command never started, or if a signal ended it and perhaps
                // the wrapper.
                let ended = status.code().is_some_and(|code| code < 128);
                let began = begun(&sweep.file).exists();
                Sweep { required: sweep.required && ended && began, ..sweep }
            }),
        });
        outcome
    }

    fn wait(&mut self) -> Option<ExitStatus> {
        while Instant::now() < self.deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        for pid in self.descendants().into_iter().chain([self.pid()]) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// The file in which the wrapper reports its start, before it starts the command.
pub fn begun(sweep: &Path) -> PathBuf {
    let mut name = sweep.as_os_str().to_owned();
    name.push(".begun");
    name.into()
}

/// Every descendant of a process.
pub fn descendants(of: Pid) -> Vec<Pid> {
    let parents: Vec<(i32, i32)> =
        processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![of.as_raw()];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child));
        next += 1;
    }
    found[1..].iter().map(|&pid| Pid::from_raw(pid)).collect()
}

/// The process ids of this host.
pub fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// The output of a process, collected by a thread.
#[derive(Debug)]
pub(crate) struct Output(Arc<(Mutex<Gathered>, Condvar)>);

#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    pub(crate) fn of(mut pipe: impl Read + Send + 'static) -> Output {
        let shared = Arc::new((Mutex::new(Gathered::default()), Condvar::new()));
        let theirs = shared.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            loop {
                let read = pipe.read(&mut buffer).unwrap_or(0);
                let mut gathered = theirs.0.lock().expect("no reader panicked");
                if gathered.bytes.len() < KEPT {
                    gathered.bytes.extend_from_slice(&buffer[..read]);
                }
                gathered.ended = read == 0;
                theirs.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Output(shared)
    }

    fn wait_until(&self, deadline: Instant, condition: impl Fn(&Gathered) -> bool) -> bool {
        let mut gathered = self.0.0.lock().expect("no reader panicked");
        while !condition(&gathered) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || gathered.ended {
                return false;
            }
            gathered = self.0.1.wait_timeout(gathered, left).expect("no reader panicked").0;
        }
        true
    }

    pub(crate) fn wait_for(&self, text: &[u8], deadline: Instant) -> bool {
        self.wait_until(deadline, |gathered| {
            gathered.bytes.windows(text.len()).any(|window| window == text)
        })
    }

    fn wait_for_end(&self, deadline: Instant) -> bool {
        self.wait_until(deadline, |gathered| gathered.ended)
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.0.lock().expect("no reader panicked").bytes.clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}
