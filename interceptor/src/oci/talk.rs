//! How the hook and the supervisor speak: a line of JSON each way over a unix socket that only root can reach. No line holds a key.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest line: an environment is at most 2 MiB (execve(2)), every byte of it six in JSON at worst.
const MAX_LINE: u64 = 16 << 20;
/// How long the other side may take. The runtimes' own limits are the operator's (`timeout` in hooks.d).
const PATIENCE: Duration = Duration::from_secs(60);

/// What the hook asks of a supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Read the policy and draw what the container is to be given.
    Prepare {
        /// The policy document.
        policy: PathBuf,
        /// The container's file system.
        root: PathBuf,
        /// The environment it would have, `NAME=value` each.
        environment: Vec<String>,
        /// Where the container has mounts of its own.
        mounted: Vec<PathBuf>,
        /// The process that called the hook: when it is gone before there is a container, there will be none.
        caller: i32,
    },
    /// Attach to the container, which exists now.
    Attach {
        /// The policy that it asks for, which must be the one prepared.
        policy: PathBuf,
        /// Its file system, which must be the one prepared.
        root: PathBuf,
        /// The container's id.
        container: String,
        /// Its first process.
        pid: i32,
        /// Whether its network namespace was made for it alone, as its configuration says.
        own_network: bool,
    },
    /// The container has ended.
    End,
}

/// What the supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To [`Ask::Prepare`].
    Prepared {
        /// The sandbox's id.
        id: String,
        /// The environment that the container is to have.
        environment: Vec<String>,
        /// What to mount: a file or directory of the host, and where in the container.
        mounts: Vec<(PathBuf, PathBuf)>,
    },
    /// To [`Ask::Attach`]: enforcement is in place, and was tested.
    Enforcing,
    /// To [`Ask::End`]: nothing is left.
    Ended,
    /// To anything: why not.
    Failed(String),
}

/// Sends one line.
///
/// # Errors
/// When the other side is gone or does not read.
pub(crate) fn send(stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    (&*stream).write_all(&line)
}

/// Receives one line.
///
/// # Errors
/// When the other side is gone, silent, or speaks otherwise.
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
