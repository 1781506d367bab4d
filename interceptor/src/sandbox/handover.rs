//! The protocol between the supervisor and the process inside the sandbox: one stream socket,
//! length-prefixed JSON messages with descriptors beside them (SCM_RIGHTS, unix(7)).
//!
//! The sequence is fixed: [`Order::Begin`] → [`InitEvent::Listening`] with the sockets →
//! [`Order::Prepare`] with the standard descriptors → [`Order::SelfTest`] → [`InitEvent::Passed`] →
//! [`Order::Start`] → signals and stops, until one side closes. [`InitEvent::Failed`] may replace
//! any event, and is the last.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::as_user::AsUser;
use super::rlimits::ResourceLimits;
use super::sys;
use super::user::UserIdentity;
use crate::ipc::{SentPath, Strings};

/// Maximum message size: a command's arguments and environment are at most 2 MiB (execve(2)), sent
/// as base64.
const MAX_MESSAGE: usize = 8 << 20;

/// A command from the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Become a daemon's attendant, which opens network namespaces for it; another protocol
    /// follows.
    Attend,
    /// Become this program, which belongs to no sandbox. Its standard output is this process's.
    Program(Box<Program>),
    /// Become this user, and run programs for a daemon; another protocol follows.
    Keep(Box<UserIdentity>),
    /// Create the namespaces and bind the listeners. The process is already in its cgroup.
    Begin(Begin),
    /// Test enforcement: the proxy must answer with this token.
    SelfTest {
        /// The address at which the proxy answers.
        probe: SocketAddr,
        /// The expected answer.
        token: String,
    },
    /// Prepare the command's view of the system; its standard input, output and error come as
    /// descriptors. There is no reply: the next order waits until this one is done.
    Prepare(Box<Launch>),
    /// Drop every privilege and start the command, after `Prepare` and a passed self-test.
    Start {
        /// Whether the command starts in the foreground of the terminal at standard input.
        foreground: bool,
    },
    /// Send the command a signal.
    Signal(i32),
    /// Send the command's whole process group a signal.
    GroupSignal(i32),
    /// Make the command's process group the terminal's foreground group, and continue it. The
    /// terminal comes as a descriptor.
    Foreground,
}

/// A program, its surroundings and its rights.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The program's absolute path, and its arguments.
    pub(crate) command: Strings,
    /// The environment, complete: `NAME=value` each.
    pub(crate) environment: Strings,
    /// Whose rights it has, where this process may take on those of others.
    pub(crate) identity: UserIdentity,
    /// Its umask.
    pub(crate) umask: u32,
}

/// Where the process inside works.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Begin {
    /// In new namespaces. Descriptors come along: a socket that closes when the supervisor ends,
    /// and the parent directories of the sandbox's cgroups, one per hierarchy. With them the
    /// process that stays outside cleans up after a killed supervisor.
    Sandbox {
        /// Whether to create a network namespace too.
        isolated: bool,
        /// The name of the sandbox's cgroup in those directories.
        cgroup: String,
    },
    /// In its current namespaces, except for the network namespace, which comes as a descriptor if
    /// it is another one. Only binds listeners and runs the self-test.
    Join,
}

/// The command, its user and its surroundings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// The command and its arguments.
    pub(crate) command: Strings,
    /// The environment, complete: `NAME=value` each.
    pub(crate) environment: Strings,
    /// The working directory.
    pub(crate) directory: SentPath,
    /// Who runs it.
    pub(crate) identity: UserIdentity,
    /// Its umask; `None` keeps the supervisor's.
    pub(crate) umask: Option<u32>,
    /// The sandbox's CA certificate followed by the operator's own roots, PEM.
    pub(crate) ca_pem: String,
    /// Files to hide: key files, the audit file, the policy if it has to be.
    pub(crate) hidden: Vec<SentPath>,
    /// Directories to hide.
    pub(crate) hidden_directories: Vec<SentPath>,
    /// The policy, if its text without keys is known: shown in a project, else hidden.
    pub(crate) policy: Option<ShownPolicy>,
    /// What is hidden of homes.
    pub(crate) secrets: Secrets,
    /// Bundles of roots named by the operator, symlinks resolved; the sandbox's CA is added to
    /// them.
    pub(crate) bundles: Vec<SentPath>,
    /// Whether to search for the bundles of packages too.
    pub(crate) search_bundles: bool,
    /// The limit of open files to restore: soft and hard.
    pub(crate) open_files: (u64, u64),
    /// The other limits to set; `None` keeps the supervisor's.
    pub(crate) limits: Option<ResourceLimits>,
    /// The signals that the command ignores from its start; `None` for the supervisor's.
    pub(crate) ignored: Option<Vec<i32>>,
    /// Whether the user chose the paths, so that they are opened with the user's rights alone.
    pub(crate) users_paths: bool,
    /// Whether it uses the host's network namespace.
    pub(crate) shared_network: bool,
    /// Whether processes inside may create user namespaces and mounts in them.
    pub(crate) nesting: bool,
}

impl Launch {
    /// Takes on the user's rights to files while the value lives, where the user chose the paths.
    pub(super) fn rights(&self) -> io::Result<Option<AsUser>> {
        if self.users_paths { AsUser::begin(&self.identity) } else { Ok(None) }
    }
}

/// A policy as the command may see it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShownPolicy {
    /// Its file, symlinks resolved.
    pub(crate) path: SentPath,
    /// Its text, with placeholders instead of keys.
    pub(crate) text: String,
}

/// What is hidden of homes: places that are empty inside.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// Files and directories, absolute; most do not exist.
    pub(crate) hidden: Vec<SentPath>,
    /// This program's own directories, hidden too.
    pub(crate) own: Vec<SentPath>,
    /// Those of them to make before, so that nothing inside can.
    pub(crate) made: Vec<SentPath>,
    /// The homes, which a cover must never take away as a whole.
    pub(crate) homes: Vec<SentPath>,
    /// What is shown although it is inside a hidden directory.
    pub(crate) shown: Vec<SentPath>,
}

/// A message from the process inside.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum InitEvent {
    /// The listeners are bound; their sockets come as descriptors.
    Listening {
        /// Whether the network namespace has no device besides `lo`, so that there is no way out
        /// even without hooks.
        closed: bool,
    },
    /// The self-test passed.
    Passed,
    /// Job control stopped the command with this signal.
    Stopped(i32),
    /// Something failed, and nothing was started.
    Failed(String),
}

/// A message in a buffer that is zeroed after sending, since it may hold keys. Its length is
/// computed first, because a growing buffer leaves copies behind.
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

/// One end of the connection.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// Two connected ends.
    pub(crate) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Channel { stream: ours }, theirs.into()))
    }

    /// From an inherited descriptor.
    pub(crate) fn from_descriptor(descriptor: OwnedFd) -> Self {
        Channel { stream: descriptor.into() }
    }

    /// The timeout of [`Channel::receive`]; `None` waits forever.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(patience)
    }

    /// The timeout of [`Channel::send`]; `None` waits forever.
    pub(crate) fn set_send_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(patience)
    }

    /// Sends a message and at most [`sys::MAX_DESCRIPTORS`] descriptors.
    pub(crate) fn send(
        &self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let body = serialized(message)?;
        if body.len() > MAX_MESSAGE {
            return Err(io::Error::other("a message is too long"));
        }
        let header = (body.len() as u32).to_ne_bytes();
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        // Four bytes always fit into an empty socket buffer, so all of them and the descriptors go
        // together.
        let slices = [IoSlice::new(&header)];
        let sent =
            sendmsg::<()>(self.stream.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None)?;
        if sent != header.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        (&self.stream).write_all(&body)
    }

    /// Receives a message with its descriptors; `None` once the other end is closed.
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
        ours.send(
            &Order::SelfTest { probe: "192.0.2.1:9".parse().unwrap(), token: "one".into() },
            &[],
        )
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
            ours.send(&InitEvent::Failed(long), &[]).unwrap();
            (&ours.stream).write_all(&u32::MAX.to_ne_bytes()).unwrap();
        });
        let (report, _) = theirs.receive::<InitEvent>().unwrap().unwrap();
        assert!(matches!(report, InitEvent::Failed(text) if text.len() == 1 << 20));
        assert!(theirs.receive::<InitEvent>().is_err());
        sender.join().unwrap();
    }

    #[test]
    fn silence_ends_after_the_patience_given() {
        let (_ours, theirs) = ends();
        theirs.set_patience(Some(Duration::from_millis(20))).unwrap();
        assert_eq!(theirs.receive::<Order>().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
