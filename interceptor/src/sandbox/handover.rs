//! How the supervisor and the process inside the sandbox talk: one stream socket, JSON messages with a length before them, and
//! descriptors beside them (SCM_RIGHTS, unix(7)).
//!
//! The conversation is short and always the same: [`Order::Begin`] → [`Report::Listening`] with the sockets →
//! [`Order::Prepare`] with the standard descriptors → [`Order::SelfTest`] → [`Report::Passed`] → [`Order::Start`] → signals and
//! stops, until one side closes. [`Report::Failed`] may come instead of any report, and is the last.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::sys;
use super::user::Identity;
use crate::ipc::{SentPath, Strings};

/// The longest message: arguments and environment of a command are at most 2 MiB (execve(2)), written in base64.
const MAX_MESSAGE: usize = 8 << 20;

/// What the supervisor asks of the process inside.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Open network namespaces for a daemon that may not: what `init` was given for that takes over. Another conversation follows.
    Attend,
    /// Make the namespaces and bind the listeners. The process is in its cgroup already.
    Begin(Begin),
    /// Show that the wall stands: the proxy answers with this token.
    SelfTest {
        /// Where the proxy answers.
        probe: SocketAddr,
        /// What it answers.
        token: String,
    },
    /// Prepare what the command will see. Its standard input, output and error come as descriptors. There is no report: what
    /// is ordered next waits until it is done.
    Prepare(Box<Launch>),
    /// Give up every privilege and start the command. It must be prepared, and the self-test have passed.
    Start {
        /// Whether the command is to begin in the foreground of the terminal at standard input.
        foreground: bool,
    },
    /// Send the command a signal.
    Signal(i32),
    /// Send the command's whole process group a signal.
    GroupSignal(i32),
    /// Make the command's process group the foreground one of the terminal that comes as a descriptor, and continue it.
    Foreground,
}

/// Where the process inside is to work.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Begin {
    /// In new namespaces. Descriptors come along: a socket that is closed when the supervisor ends,
    /// and the directories that hold the sandbox's cgroups, one in each hierarchy. With them the
    /// process that stays outside undoes what a killed supervisor cannot.
    Sandbox {
        /// A network namespace of its own too.
        isolated: bool,
        /// The name of the sandbox's cgroup in those directories.
        cgroup: String,
    },
    /// In the namespaces it is in, but for the network namespace, which comes as a descriptor where it is another one. Only
    /// listeners and the self-test are wanted of it.
    Join,
}

/// What to run, as whom, and with what around it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The command and its arguments.
    pub(crate) command: Strings,
    /// The environment, complete: `NAME=value` each.
    pub(crate) environment: Strings,
    /// The working directory.
    pub(crate) directory: SentPath,
    /// Who runs it.
    pub(crate) identity: Identity,
    /// The sandbox's certificate authority, and the operator's own roots behind it, PEM.
    pub(crate) ca_pem: String,
    /// Files that the sandbox must not read: the policy document, key files, the audit file.
    pub(crate) hidden: Vec<SentPath>,
    /// Directories that the sandbox must not reach into.
    pub(crate) hidden_directories: Vec<SentPath>,
    /// Bundles of roots that the operator named, without symbolic links: they get the sandbox's authority.
    pub(crate) bundles: Vec<SentPath>,
    /// Whether those that packages bring are looked for too.
    pub(crate) search_bundles: bool,
    /// The limit of open files to restore: soft and hard.
    pub(crate) open_files: (u64, u64),
    /// Whether the network namespace is the host's.
    pub(crate) shared_network: bool,
    /// Whether user namespaces, and mounts in them, may be made inside.
    pub(crate) nesting: bool,
}

/// What the process inside says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The listeners; their sockets come as descriptors.
    Listening {
        /// Whether the network namespace has no device but `lo`, so that there is no way out even without hooks.
        closed: bool,
    },
    /// The self-test passed.
    Passed,
    /// The command was stopped by this signal of job control.
    Stopped(i32),
    /// Something failed, and nothing was started.
    Failed(String),
}

/// A message in a buffer that is overwritten when it is sent: it may hold keys. Its length is found first, since a buffer that grows
/// leaves copies behind.
fn serialized(message: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    struct Length(usize);
    impl Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    serde_json::to_writer(&mut length, message)?;
    let mut body = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *body, message)?;
    Ok(body)
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// Two ends that are connected.
    pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Channel { stream: ours }, theirs.into()))
    }

    /// The end that was inherited.
    pub(crate) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Channel { stream: descriptor.into() }
    }

    /// How long [`Channel::receive`] waits; for ever with `None`.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(patience)
    }

    /// Sends a message and at most [`sys::MAX_DESCRIPTORS`] descriptors.
    pub(crate) fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serialized(message)?;
        if body.len() > MAX_MESSAGE {
            return Err(io::Error::other("a message is too long"));
        }
        let header = (body.len() as u32).to_ne_bytes();
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        // Four bytes always fit into an empty socket buffer at once, so the descriptors go with all of them.
        let slices = [IoSlice::new(&header)];
        let sent = sendmsg::<()>(self.stream.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None)?;
        if sent != header.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (&self.stream).write_all(&body)
    }

    /// The next message with its descriptors; `None` when the other end is closed.
    pub(crate) fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut header = [0; 4];
        let mut descriptors = Vec::new();
        let mut filled = 0;
        while filled < header.len() {
            let (read, received) = match sys::receive(&self.stream, &mut header[filled..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            descriptors.extend(received);
            if read == 0 && filled == 0 {
                return Ok(None);
            }
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
        }
        let length = u32::from_ne_bytes(header) as usize;
        if length > MAX_MESSAGE {
            return Err(io::Error::other("a message is too long"));
        }
        let mut body = Zeroizing::new(vec![0; length]);
        (&self.stream).read_exact(&mut body)?;
        Ok(Some((serde_json::from_slice(&body)?, descriptors)))
    }
}

impl std::os::fd::AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn ends() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ours, Channel::from_descriptor(theirs))
    }

    #[test]
    fn messages_keep_their_order_and_their_descriptors() {
        let (ours, theirs) = ends();
        let file = tempfile::tempfile().unwrap();
        ours.send(&Order::SelfTest { probe: "192.0.2.1:9".parse().unwrap(), token: "one".into() }, &[])
            .unwrap();
        ours.send(&Order::Signal(15), &[file.as_fd(), file.as_fd()]).unwrap();
        drop(ours);
        let (first, none) = theirs.receive::<Order>().unwrap().unwrap();
        assert!(matches!(first, Order::SelfTest { token, .. } if token == "one"));
        assert!(none.is_empty());
        let (second, mut two) = theirs.receive::<Order>().unwrap().unwrap();
        assert!(matches!(second, Order::Signal(15)));
        assert_eq!(two.len(), 2);
        File::from(two.remove(0)).write_all(b"the same file").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 13);
        assert!(theirs.receive::<Order>().unwrap().is_none());
    }

    #[test]
    fn a_long_message_goes_through_and_an_endless_one_is_refused() {
        let (ours, theirs) = ends();
        let long = "x".repeat(1 << 20);
        let sender = std::thread::spawn(move || {
            ours.send(&Report::Failed(long), &[]).unwrap();
            (&ours.stream).write_all(&u32::MAX.to_ne_bytes()).unwrap();
        });
        let (report, _) = theirs.receive::<Report>().unwrap().unwrap();
        assert!(matches!(report, Report::Failed(text) if text.len() == 1 << 20));
        assert!(theirs.receive::<Report>().is_err());
        sender.join().unwrap();
    }

    #[test]
    fn silence_ends_after_the_patience_given() {
        let (_ours, theirs) = ends();
        theirs.set_patience(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(theirs.receive::<Order>().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
