//! Standard error as the log's destination.
//!
//! The sandboxed command shares the open file and its flags. Node, for one, makes its standard
//! streams non-blocking, so a write here may fail in the middle of a line; a reader may be slow, or
//! gone. Logging must not stop the sandbox: lines that cannot be written in time are counted and
//! reported later, never an error.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{notice, words};

/// How long a non-blocking descriptor may refuse before a line counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lines lost since the last complete one.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Writes lines to standard error, whole if possible; never fails.
#[derive(Debug, Default)]
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        let lost = LOST.load(Ordering::Relaxed);
        // After one timeout, try each further line once without waiting.
        let patience = if lost == 0 { PATIENCE } else { Duration::ZERO };
        let reported = lost == 0 || put(&mut stderr, lines_lost(lost).as_bytes(), patience);
        if reported && put(&mut stderr, line, patience) {
            LOST.fetch_sub(lost, Ordering::Relaxed);
        } else {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines_lost(lost: u64) -> String {
    let verb = if lost == 1 { "was" } else { "were" };
    notice::line(notice::Level::Warning, &format!("{} {verb} lost", words::count(lost, "log line")))
}

/// Writes all of `bytes`, waiting at most `patience` after a first refusal; `false` on failure.
fn put(out: &mut (impl Write + AsFd), bytes: &[u8], patience: Duration) -> bool {
    let mut left = bytes;
    let mut refused: Option<Instant> = None;
    while !left.is_empty() {
        match out.write(left) {
            Ok(0) => return false,
            Ok(written) => {
                left = left.get(written..).unwrap_or_default();
                refused = None;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Always wait for the rest of a line: half a line would corrupt the next.
                let patience = if left.len() < bytes.len() { PATIENCE } else { patience };
                let waited = refused.get_or_insert_with(Instant::now).elapsed();
                let Some(rest) = patience.checked_sub(waited).filter(|rest| !rest.is_zero()) else {
                    return false;
                };
                let mut descriptors = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
                let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO);
                match poll(&mut descriptors, timeout) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    fn pipe() -> (File, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (reader.into(), writer.into())
    }

    #[test]
    fn a_full_pipe_that_nobody_reads_is_given_up() {
        let (_reader, mut writer) = pipe();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        assert!(!put(&mut writer, b"line\n", Duration::ZERO));
        assert!(!put(&mut writer, b"line\n", Duration::from_millis(20)));
    }

    #[test]
    fn a_full_pipe_with_a_reader_takes_the_whole_line() {
        let (mut reader, mut writer) = pipe();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        let line = vec![b'y'; 300_000];
        assert!(put(&mut writer, &line, PATIENCE));
        drop(writer);
        assert!(reading.join().unwrap().unwrap().ends_with(&line));
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, mut writer) = pipe();
        drop(reader);
        assert!(!put(&mut writer, b"line\n", PATIENCE));
    }
}
