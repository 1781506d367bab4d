//! The protocol between hook and supervisor: one line of JSON each way, over a unix socket only
//! root can reach. No line contains a key.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Maximum line length: an environment is at most 2 MiB (execve(2)), and JSON needs at most six
/// bytes per byte.
const MAX_LINE: u64 = 16 << 20;
/// Timeout for the other side. The operator sets the runtimes' own (`timeout` in hooks.d).
const PATIENCE: Duration = Duration::from_secs(60);

/// A request from the hook.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Read the policy and prepare what the container gets.
    Prepare {
        /// The policy document.
        policy: PathBuf,
        /// The container's file system.
        root: PathBuf,
        /// The environment it would have, `NAME=value` each.
        environment: Vec<String>,
        /// Mount points in the container.
        mounted: Vec<PathBuf>,
        /// The process that called the hook: if it ends before the container exists, no container
        /// will.
        caller: i32,
    },
    /// Attach to the container, which exists now.
    Attach {
        /// The policy it asks for; must match the prepared one.
        policy: PathBuf,
        /// Its file system; must match the prepared one.
        root: PathBuf,
        /// The container's id.
        container: String,
        /// Its first process.
        pid: i32,
        /// Whether its configuration says that its network namespace is its own.
        own_network: bool,
    },
    /// Whether enforcement is in place, before the container's process is started.
    Status,
    /// What a further process of the container gets.
    Exec {
        /// The environment it would have, `NAME=value` each.
        environment: Vec<String>,
    },
    /// The container has ended.
    End,
}

/// A reply from the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// To [`Ask::Prepare`].
    Prepared {
        /// The sandbox's id.
        id: String,
        /// The environment for the container.
        environment: Vec<String>,
        /// Mounts: a host file or directory, and its path in the container.
        mounts: Vec<(PathBuf, PathBuf)>,
    },
    /// To [`Ask::Attach`] and [`Ask::Status`]: enforcement is in place and tested.
    Enforcing,
    /// To [`Ask::Exec`]: the environment for the process.
    Environment(Vec<String>),
    /// To [`Ask::End`]: everything is removed.
    Ended,
    /// To any request: the reason for failure.
    Failed(String),
}

/// Sends one line.
///
/// # Errors
/// If the other side is gone or does not read.
pub(crate) fn send(stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    (&*stream).write_all(&line)
}

/// Receives one line.
///
/// # Errors
/// If the other side is gone, silent, or sends something malformed.
pub(crate) fn receive<M: DeserializeOwned>(stream: &UnixStream) -> io::Result<M> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_through_and_half_a_line_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, &Ask::End).unwrap();
        assert!(matches!(receive::<Ask>(&theirs).unwrap(), Ask::End));
        (&ours).write_all(b"\"End\"").unwrap();
        drop(ours);
        assert!(receive::<Ask>(&theirs).is_err());
    }
}
