//! A run that a person started, which does inside what the test tells it line by line.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::people::Account;
use crate::sandbox::binary;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the command inside does: each line is a script, and its end is told.
const SHELL: &str =
    "echo ready; while read -r line; do eval \"$line\" 2>&1; echo \"=end $?\"; done";

/// A running `interceptor run` of a person's.
#[derive(Debug)]
pub struct Conversing {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    said: PathBuf,
}

impl Conversing {
    /// Starts `sudo interceptor run` with these options as the person, who has set variables with
    /// `before`. `said` gets what it prints on standard error. Returns once the command runs.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start(account: &Account, before: &str, options: &[&str], said: &Path) -> Conversing {
        let interceptor = binary("interceptor");
        let words = ["sudo", interceptor.to_str().expect("a plain path"), "run"];
        Conversing::typed(account, before, &[&words, options].concat(), said)
    }

    /// The same without sudo, through the daemon at this socket.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start_by(
        account: &Account,
        socket: &Path,
        before: &str,
        options: &[&str],
        said: &Path,
    ) -> Conversing {
        let interceptor = binary("interceptor");
        let words = [interceptor.to_str().expect("a plain path"), "run", "--daemon"];
        let socket = [socket.to_str().expect("a plain path")];
        Conversing::typed(account, before, &[&words, &socket[..], options].concat(), said)
    }

    #[track_caller]
    fn typed(account: &Account, before: &str, words: &[&str], said: &Path) -> Conversing {
        let words = [words, &["--", "sh", "-c", SHELL]].concat();
        let mut command = account.shell(&format!("{before}; \"$@\"; exit $?"), &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(fs::File::create(said).expect("a file"));
        let mut child = command.spawn().expect("setpriv and sh");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut run = Conversing { child, stdin, stdout, said: said.to_owned() };
        let first = run.line();
        assert_eq!(first, "ready", "{}", run.said());
        run
    }

    /// What a script prints inside.
    ///
    /// # Panics
    /// If the run has ended.
    #[track_caller]
    pub fn inside(&mut self, script: &str) -> String {
        let stdin = self.stdin.as_mut().expect("it is closed at the end");
        writeln!(stdin, "{script}").expect("the command reads");
        let mut out = String::new();
        loop {
            let line = self.line();
            if line.starts_with("=end ") {
                return out.trim_end().to_owned();
            }
            out.push_str(&line);
            out.push('\n');
        }
    }

    /// Why a request for `http://HOST/` is answered as it is inside; empty where the policy permits
    /// it and nobody is there.
    #[track_caller]
    pub fn verdict(&mut self, host: &str) -> String {
        let script = format!("curl -s -m 20 -o /dev/null -D - http://{host}/ | grep -i decision");
        let line = self.inside(&script);
        line.split("reason=").nth(1).unwrap_or_default().trim().to_owned()
    }

    /// What it has said on standard error.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Waits until it has said this.
    ///
    /// # Panics
    /// If it never does.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let late = Instant::now() + PATIENCE;
        while !self.said().contains(text) {
            assert!(Instant::now() < late, "{text:?} was never said: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The process id of the interceptor.
    ///
    /// # Panics
    /// If it has ended.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        let mut below = vec![i32::try_from(self.child.id()).expect("a process id")];
        while let Some(parent) = below.pop() {
            let words = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
            if words[0].ends_with(b"interceptor") && words.get(1) == Some(&&b"run"[..]) {
                return Pid::from_raw(parent);
            }
            let children = format!("/proc/{parent}/task/{parent}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            below.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        panic!("the interceptor has ended: {}", self.said());
    }

    /// Continues the interceptor after it was stopped, and `sudo`, which stops with it.
    pub fn go_on(&self) {
        let mut below = vec![i32::try_from(self.child.id()).expect("a process id")];
        while let Some(parent) = below.pop() {
            let _ = kill(Pid::from_raw(parent), Signal::SIGCONT);
            let children = format!("/proc/{parent}/task/{parent}/children");
            let children = fs::read_to_string(children).unwrap_or_default();
            below.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }

    /// Ends the command and returns what was said.
    ///
    /// # Panics
    /// If the run does not end well.
    #[track_caller]
    pub fn end(mut self) -> String {
        drop(self.stdin.take());
        let status = self.child.wait().expect("it was started");
        let said = self.said();
        assert!(status.success(), "{status}: {said}");
        said
    }

    /// Kills the interceptor, and waits for the end.
    #[track_caller]
    pub fn kill(mut self) {
        kill(self.pid(), Signal::SIGKILL).expect("it runs");
        self.child.wait().expect("it was started");
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line).expect("text");
        assert!(read > 0, "the run has ended: {}", self.said());
        line.trim_end().to_owned()
    }
}

impl Drop for Conversing {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let late = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < late {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command of the product as the person types it outside, with variables set by `before`: its
/// status and all that it printed.
#[track_caller]
pub fn typed(account: &Account, before: &str, words: &[&str]) -> (Option<i32>, String) {
    let interceptor = binary("interceptor");
    let all = [&[interceptor.to_str().expect("a plain path")], words].concat();
    let mut command: Command = account.shell(&format!("{before}; \"$@\"; exit $?"), &all);
    let output = command.output().expect("setpriv and sh");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}
