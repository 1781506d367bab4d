//! The process at the other end of a connection, held by a pidfd: unlike a PID, it never refers to
//! another process later (pidfd_open(2), SO_PEERPIDFD in unix(7)).

use std::fs::{self, File, Metadata};
use std::io::{self, BufRead as _, BufReader, Seek as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use crate::files;
use crate::privilege::attendant;
use crate::sandbox::sys;

/// How long to wait before each further look at a living process that could not be looked at.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_millis(20), Duration::from_millis(200)];

/// A specific process, alive or not.
#[derive(Debug)]
pub(crate) struct Process(OwnedFd);

/// A program file, identified by inode rather than path.
#[derive(Debug)]
pub(super) struct Program {
    file: File,
    metadata: Metadata,
}

impl Process {
    /// The process that connected. `number` is its PID at that time, used on kernels before Linux
    /// 6.5, which have no peer pidfd.
    ///
    /// # Errors
    /// If it has exited.
    pub(crate) fn of(stream: &impl AsFd, number: Option<i32>) -> io::Result<Process> {
        match getsockopt(stream, sockopt::PeerPidfd) {
            Ok(held) => Ok(Process(held)),
            Err(Errno::ENOPROTOOPT) => Process::numbered(number.ok_or_else(gone)?),
            Err(error) => Err(error.into()),
        }
    }

    fn numbered(number: i32) -> io::Result<Process> {
        sys::pidfd_open(number).map(Process)
    }

    /// Calls `look` with the PID, and verifies afterwards that the process still owned it.
    ///
    /// # Errors
    /// If it has exited or has no PID here; errors of `look`.
    pub(crate) fn look<T>(&self, look: impl FnOnce(i32) -> io::Result<T>) -> io::Result<T> {
        let found = look(self.number()?)?;
        // A PID is reused only after its process is gone, so it was this process's while we looked.
        if self.is_alive()? { Ok(found) } else { Err(gone()) }
    }

    /// Its PID in our /proc.
    ///
    /// # Errors
    /// If it has exited, or is in a PID namespace that /proc does not show.
    pub(super) fn number(&self) -> io::Result<i32> {
        let shown = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let number = shown.lines().find_map(|line| line.strip_prefix("Pid:"));
        let number = number.and_then(|number| number.trim().parse::<i32>().ok());
        number.filter(|number| *number > 0).ok_or_else(gone)
    }

    /// Whether it has not exited.
    ///
    /// # Errors
    /// As of poll(2).
    pub(super) fn is_alive(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            // A pidfd is readable once the last thread has exited.
            match poll(&mut polled, PollTimeout::ZERO) {
                Err(Errno::EINTR) => {}
                polled => return Ok(polled? == 0),
            }
        }
    }

    /// Its cgroup, as /proc shows it. Blocks briefly where it lives and that cannot be read, for
    /// instance for want of memory.
    ///
    /// # Errors
    /// As of [`Process::look`].
    pub(crate) fn cgroup(&self) -> io::Result<PathBuf> {
        let read = || {
            let text = self.look(|number| fs::read_to_string(format!("/proc/{number}/cgroup")))?;
            let path = text.lines().find_map(|line| line.strip_prefix("0::"));
            path.map(PathBuf::from).ok_or_else(gone)
        };
        for wait in AGAIN {
            match read() {
                Err(_) if self.is_alive().unwrap_or(true) => thread::sleep(wait),
                read => return read,
            }
        }
        read()
    }

    /// A descriptor that identifies the program it runs, independent of its mounts.
    ///
    /// # Errors
    /// As of [`Process::look`].
    pub(super) fn program(&self) -> io::Result<OwnedFd> {
        self.look(attendant::program_of)
    }

    /// The same, opened for reading.
    ///
    /// # Errors
    /// As of [`Process::look`].
    pub(super) fn content(&self) -> io::Result<OwnedFd> {
        self.look(attendant::content_of)
    }

    /// Whether another process traces it, and so controls it.
    ///
    /// # Errors
    /// As of [`Process::look`].
    pub(super) fn is_traced(&self) -> io::Result<bool> {
        let status = self.look(|number| fs::read_to_string(format!("/proc/{number}/status")))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        Ok(tracer.is_none_or(|number| number.trim() != "0"))
    }
}

impl Program {
    /// This process's program.
    ///
    /// # Errors
    /// As of open(2).
    pub(super) fn own() -> io::Result<Program> {
        Program::of(File::open("/proc/self/exe")?.into())
    }

    /// The program at a path in this process's mounts.
    ///
    /// # Errors
    /// As of [`files::open`].
    pub(super) fn at(path: &Path) -> io::Result<Program> {
        files::open(path).map(|(file, metadata)| Program { file, metadata })
    }

    /// The program behind a descriptor. May block on its file system.
    ///
    /// # Errors
    /// If it is not a regular file.
    pub(super) fn of(descriptor: OwnedFd) -> io::Result<Program> {
        let file = File::from(descriptor);
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok(Program { file, metadata }) } else { Err(gone()) }
    }

    /// Whether both are the same file.
    pub(super) fn is(&self, other: &Program) -> bool {
        (self.metadata.dev(), self.metadata.ino()) == (other.metadata.dev(), other.metadata.ino())
    }

    /// Whether both could have the same content.
    pub(super) fn may_equal(&self, other: &Program) -> bool {
        self.is(other) || (self.metadata.len() == other.metadata.len() && self.metadata.len() > 0)
    }

    /// Whether both, opened for reading, are the same file or have the same content.
    ///
    /// # Errors
    /// As of read(2).
    pub(super) fn equals(&self, other: &Program) -> io::Result<bool> {
        if self.is(other) {
            return Ok(true);
        }
        if !self.may_equal(other) {
            return Ok(false);
        }
        let (mut one, mut two) = (reader(&self.file)?, reader(&other.file)?);
        loop {
            let (left, right) = (one.fill_buf()?, two.fill_buf()?);
            let count = left.len().min(right.len());
            if count == 0 {
                return Ok(left.len() == right.len());
            }
            if left[..count] != right[..count] {
                return Ok(false);
            }
            one.consume(count);
            two.consume(count);
        }
    }

    /// Its path as its descriptor shows it, for records.
    pub(super) fn path(&self) -> PathBuf {
        fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd())).unwrap_or_default()
    }
}

/// Reads a file from its start.
fn reader(mut file: &File) -> io::Result<BufReader<&File>> {
    file.rewind()?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

fn gone() -> io::Error {
    io::Error::other("it has exited, or /proc does not show it")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn p6_a_process_that_has_ended_is_nobody_also_before_it_was_waited_for() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        let process = Process::numbered(number).unwrap();
        assert_eq!(process.number().unwrap(), number);
        assert_eq!(process.look(Ok).unwrap(), number);
        assert!(!process.is_traced().unwrap());
        drop(child.stdin.take());
        let mut polled = [PollFd::new(process.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::try_from(30_000).unwrap()).unwrap();
        process.look(Ok).unwrap_err();
        child.wait().unwrap();
        process.number().unwrap_err();
        Process::numbered(number).unwrap_err();
        // One that ends while it is looked at.
        let child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::numbered(i32::try_from(child.id()).unwrap()).unwrap();
        let ended = process.look(|_| {
            let mut child = child;
            child.kill()?;
            child.wait()
        });
        ended.unwrap_err();
    }

    #[test]
    fn the_one_that_connected_is_held_and_its_program_known() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::of(&one, Some(own)).unwrap();
        assert_eq!(process.number().unwrap(), own);
        let program = Program::of(process.program().unwrap()).unwrap();
        let content = Program::of(process.content().unwrap()).unwrap();
        let own = Program::own().unwrap();
        assert!(program.is(&own) && content.is(&own) && content.equals(&own).unwrap());
        assert!(process.cgroup().unwrap().is_absolute());
    }

    #[test]
    fn programs_are_compared_by_what_they_are() {
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = home.path().join(name);
            fs::write(&path, bytes).unwrap();
            Program::at(&path).unwrap()
        };
        let mut long = vec![b'x'; 200_000];
        let one = write("one", &long);
        let copy = write("copy", &long);
        *long.last_mut().unwrap() = b'y';
        let other = write("other", &long);
        let shorter = write("shorter", &long[1..]);
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path().join("one"), &link).unwrap();
        assert!(one.is(&Program::at(&link).unwrap()) && !one.is(&copy));
        for _ in 0..2 {
            assert!(one.equals(&copy).unwrap() && copy.equals(&one).unwrap());
            assert!(!one.equals(&other).unwrap() && !one.equals(&shorter).unwrap());
        }
        let (empty, none) = (write("empty", b""), write("none", b""));
        assert!(!empty.equals(&none).unwrap());
    }
}
