//! The benchmark's child processes, none of which outlives it.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a peer may take to listen, and to end.
const UP_WITHIN: Duration = Duration::from_secs(30);
const DOWN_WITHIN: Duration = Duration::from_secs(10);

/// A process that ends with its owner, by SIGTERM and then SIGKILL.
pub(crate) struct Peer(pub(crate) Child);

impl Drop for Peer {
    fn drop(&mut self) {
        // A process that reads its input to the end exits by itself.
        drop(self.0.stdin.take());
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + DOWN_WITHIN;
        while let Ok(None) = self.0.try_wait() {
            if Instant::now() > deadline {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Peer {
    /// Starts it and discards its output.
    pub(crate) fn start(mut command: Command) -> Result<Peer> {
        let name = command.get_program().to_owned();
        command.stdin(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {}", name.display()))?;
        Ok(Peer(child))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until it listens.
    pub(crate) fn listens(&mut self, port: u16) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let deadline = Instant::now() + UP_WITHIN;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.0.try_wait()? {
                anyhow::bail!("it ended with {status}");
            }
            ensure!(Instant::now() < deadline, "it does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// A command that ends when the benchmark dies for any reason.
pub(crate) fn bound(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
